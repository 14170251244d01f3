"""Sessions through gateways, for the pipeline: the only module, beside `bench`, that knows `scistream`.

It prepares the files of a facility on this host (certificate, key, token), says which command starts its
control server, and opens a session between two of them whose channels appear as ZeroMQ addresses.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministream.errors import ConnectionFailed
from scistream.auth.certificates import make_certificate
from scistream.auth.secret_files import create_secret_file
from scistream.auth.shared_key import create_token
from scistream.client.aio import Facility, StreamingSession, open_session
from scistream.core.endpoint import Endpoint
from scistream.core.session import State
from scistream.errors import SciStreamError

_SCHEME = "tcp://"
_PRINCIPAL = "ministream"

Gateway = Facility
"""One facility's control server, and what its user needs to talk to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacility:
    """The files of a facility whose gateway runs on this host, for this run only."""

    name: str
    certificate: Path
    private_key: Path
    auth_file: Path
    token: str

    def server_command(self, *, data_server: str) -> list[str]:
        """Return the command that starts the control server on a free port of the loopback address."""
        return [
            # -P: no module of the user's working directory takes the place of one of ours
            *(sys.executable, "-P", "-m", "scistream.cli.s2cs", "start"),
            *("--listen", "127.0.0.1:0"),
            *("--bind", "127.0.0.1", "--advertise", "127.0.0.1"),
            *("--port-range", "0"),
            *("--certificate", str(self.certificate), "--private-key", str(self.private_key)),
            *("--auth", "shared-key", "--auth-file", str(self.auth_file)),
            *("--data-server", data_server),
            *("--encryption", "required"),
            "--json",
        ]

    def gateway(self, ready: Mapping[str, Any]) -> Gateway:
        """Return how to reach the control server that has sent this ``ready`` event."""
        return Facility(
            endpoint=Endpoint.parse(str(ready["address"])),
            server_certificate_pem=self.certificate.read_bytes(),
            token=self.token,
        )


def prepare_facility(folder: Path, name: str) -> LocalFacility:
    """Make certificate, key and token of a facility in `folder`, readable by this user only."""
    folder.mkdir(mode=0o700)
    facility = LocalFacility(
        name=name,
        certificate=folder / "server.crt",
        private_key=folder / "server.key",
        auth_file=folder / "users.toml",
        token=create_token(_PRINCIPAL, folder / "users.toml"),
    )
    certificate_pem, private_key_pem = make_certificate(["127.0.0.1", "localhost"])
    facility.certificate.write_bytes(certificate_pem)
    create_secret_file(facility.private_key, private_key_pem)
    return facility


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session at one moment.

    Parameters
    ----------
    bytes_to_consumer : int
        Application bytes that the channels have carried from producer to consumer.
    encrypted : bool
        Both gateways say that the leg between them is encrypted.
    failure : str or None
        Why it has failed, in the words of a gateway.
    """

    bytes_to_consumer: int
    encrypted: bool
    failure: str | None


class Tunnel:
    """An open session, as the pipeline sees it."""

    def __init__(self, session: StreamingSession) -> None:
        self._session = session
        self.setup_s = session.setup_s
        """From the first REQ to both data servers forwarding, in seconds."""
        self.addresses = tuple(f"{_SCHEME}{listener}" for listener in session.listeners)
        """Where the consumer connects, one address per channel."""

    async def look(self) -> SessionView:
        """Ask both gateways how the session is.

        Raises
        ------
        ConnectionFailed
            A control server does not answer.
        """
        try:
            status = await self._session.status()
        except SciStreamError as error:
            raise ConnectionFailed(f"session: {error}") from error
        failures = [
            f"the session has failed at the {side}'s gateway: {seen.reason}"
            for side, seen in (("producer", status.producer), ("consumer", status.consumer))
            if seen.state is State.FAILED
        ]
        return SessionView(
            bytes_to_consumer=sum(channel.bytes_from_target for channel in status.consumer.channels),
            encrypted=status.producer.encrypted and status.consumer.encrypted,
            failure=failures[0] if failures else None,
        )


@contextlib.asynccontextmanager
async def open_tunnel(
    producer: Gateway, consumer: Gateway, *, targets: Sequence[str], channels: int
) -> AsyncIterator[Tunnel]:
    """Open a session for the producer's application at `targets` (``tcp://host:port``), and release it.

    Raises
    ------
    ConnectionFailed
        A control server refuses, fails or cannot be reached. Both sides have been released.
    """
    endpoints = [Endpoint.parse(target.removeprefix(_SCHEME)) for target in targets]
    try:
        async with await open_session(producer, consumer, targets=endpoints, num_conn=channels) as session:
            yield Tunnel(session)
    except SciStreamError as error:
        raise ConnectionFailed(f"session: {error}") from error
