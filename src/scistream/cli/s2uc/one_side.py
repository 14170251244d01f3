"""Opens one side of a session, connects it where it is known how, and says what comes next."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scistream.cli.application_credentials import write_credential
from scistream.cli.facilities import REFERENCE_CERTIFICATE, config_given, find_facility, read_certificate
from scistream.cli.running import run_until_done
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_listeners, show_pairs
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import SciStreamError, SessionExists

if TYPE_CHECKING:
    from scistream.client.aio import ControlClient, Facility
    from scistream.core.status import SessionStatus
    from scistream.wire.answers import Grant

_TIMEOUT_S = 30.0
# A server of ours sends it as soon as it has the request.
_CREDENTIAL_TIMEOUT_S = 3.0
_QUEUE_TIMEOUT_S = 3600.0


def open_one_side(
    context: click.Context,
    uid: str,
    role: Role,
    *,
    server: str,
    certificate: Path | None,
    token_file: Path | None,
    peer_certificate: Path | None,
    peer_data_server: str,
    certificate_out: Path | None,
    plain: bool,
    credential_out: Path | None = None,
    num_conn: int,
    rate: int,
    reverse: bool,
    queue: bool,
    idle_timeout_s: float | None,
    lifetime_s: float | None,
    timeout_s: float | None,
    as_json: bool,
    addresses: list[Endpoint] | None,
    connect_to: list[Endpoint],
) -> None:
    """Open one side and print it; connect it too, if it is known how.

    `addresses` are what hello says for the application; None leaves it to the application controller.
    """
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=token_file,
        default_certificate=REFERENCE_CERTIFICATE,
    )
    if plain and peer_certificate is not None:
        raise click.UsageError("give either --peer-certificate FILE or --plain")
    peer_certificate_pem = read_certificate(peer_certificate) if peer_certificate else b""
    files = {"--certificate": certificate, "--token-file": token_file, "--config": config_given(context)}

    def tell(credential: str) -> None:
        """Say what is to be typed for the application; with a credential of the session it needs no token."""
        if credential:
            written = write_credential(uid, role, credential, credential_out)
            files["--token-file"] = written if credential_out is not None else None
        click.echo(f"session {uid} waits at {server} for: {_hello(uid, role, server, files)}", err=True)

    wishes: dict[str, Any] = {
        "num_conn": num_conn,
        "rate_mbps": rate,
        "reverse": reverse,
        "queue": queue,
        "idle_timeout_s": idle_timeout_s,
        "lifetime_s": lifetime_s,
        "timeout_s": timeout_s or (_QUEUE_TIMEOUT_S if queue else _TIMEOUT_S),
    }
    # where the producer's side dials is not known yet
    connects = (plain or bool(peer_certificate_pem)) and not (reverse and role is Role.PRODUCER)
    grant, seen = _open_side(
        facility,
        uid,
        role,
        wishes,
        addresses=addresses,
        connect_to=connect_to,
        peer_certificate_pem=peer_certificate_pem if connects else None,
        peer_data_server=peer_data_server,
        certificate_out=certificate_out,
        tell=tell,
    )
    connected = seen.state not in parameters.NOT_CONNECTED if seen else connects
    encrypted: bool | None = seen.encrypted if seen else bool(peer_certificate_pem)
    if not connected and grant.certificate_pem:
        encrypted = None  # it is not known yet
    result: dict[str, Any] = {
        "uid": uid,
        "listeners": list(map(str, grant.listeners)),
        **({"reverse_listeners": list(map(str, grant.reverse_listeners))} if reverse else {}),
        "connected": connected,
        "encrypted": "not yet" if encrypted is None and not as_json else encrypted,
    }
    if grant.data_server:
        result["data_server"] = grant.data_server
    if grant.certificate_pem and encrypted is not False:
        result["certificate"] = str(certificate_out) if certificate_out else grant.certificate_pem.decode()
    show_pairs(result, as_json=as_json)
    if not as_json:
        if not connected:
            click.echo(_next_step(uid, server, grant, num_conn=num_conn))
        show_listeners(grant.listeners)


def _open_side(
    facility: Facility,
    uid: str,
    role: Role,
    wishes: dict[str, Any],
    *,
    addresses: list[Endpoint] | None,
    connect_to: list[Endpoint],
    peer_certificate_pem: bytes | None,
    peer_data_server: str,
    certificate_out: Path | None,
    tell: Callable[[str], None],
) -> tuple[Grant, SessionStatus | None]:
    """Open one side; connect it too, unless `peer_certificate_pem` is None. Undone if it fails.

    Return what is granted, and how the side is then, if the control server can say.
    """
    from scistream.client.aio import reserve_side
    from scistream.client.aio.ending import release_after_failure
    from scistream.client.aio.reserving import check_reverse, check_same, is_free

    async def work() -> tuple[Grant, SessionStatus | None]:
        async with facility.connect() as client:
            created = await is_free(client, uid, timeout_s=wishes["timeout_s"])
            try:
                if addresses is None:
                    grant = await _request(client, uid, role, wishes, tell)
                else:
                    grant = await reserve_side(client, uid, role, addresses=addresses, **wishes)
                if wishes["reverse"]:
                    check_reverse(client, uid, grant)
                if not created:
                    check_same(client, uid, addresses or (), grant)
                if certificate_out is not None:
                    parameters.write_file(certificate_out, grant.certificate_pem)
                if peer_certificate_pem is not None:
                    await client.update(
                        uid,
                        role,
                        connect_to,
                        peer_certificate_pem=peer_certificate_pem,
                        peer_data_server=peer_data_server,
                    )
                return grant, await parameters.look(client, uid)
            except SessionExists:  # it has come in between
                raise
            except (SciStreamError, asyncio.CancelledError):
                if created:
                    await release_after_failure(uid, client)
                raise

    return run_until_done(work)


async def _request(
    client: ControlClient, uid: str, role: Role, wishes: dict[str, Any], tell: Callable[[str], None]
) -> Grant:
    """Send REQ; `tell` the credential of the session's application, or that there is none."""
    credentials: asyncio.Queue[str] = asyncio.Queue()
    request = asyncio.ensure_future(client.request(uid, role, on_credential=credentials.put_nowait, **wishes))
    credential = asyncio.ensure_future(credentials.get())
    try:
        # a server of another version sends none, and waits for hello all the same
        await asyncio.wait(
            {request, credential}, timeout=_CREDENTIAL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not request.done() or credential.done():
            tell(credential.result() if credential.done() else "")
        return await request
    finally:
        for task in (request, credential):
            task.cancel()
        await asyncio.gather(request, credential, return_exceptions=True)


def _hello(uid: str, role: Role, server: str, files: dict[str, Path | None]) -> str:
    """Return what is typed for the application; where it listens, only its owner knows."""
    words = ["appctrl", "hello", uid, "--role", role.value, "--s2cs", server]
    if role is Role.PRODUCER:
        words += ["--address", "HOST:PORT"]
    for option, path in files.items():
        words += [option, str(path)] if path else []
    return shlex.join(words)


def _next_step(uid: str, server: str, grant: Grant, *, num_conn: int) -> str:
    if grant.reverse:
        theirs, ours = "--plain", "--plain"
        if grant.certificate_pem:
            theirs, ours = "--peer-certificate FILE --certificate-out OTHER", "--peer-certificate OTHER"
        return (
            "Not connected yet. Whoever opens the consumer's side needs uid and certificate:\n"
            f"  s2uc outbound-request {uid} --reverse --num-conn {num_conn} {theirs}\n"
            "and then here, with the reverse listeners of that side (the option once for each):\n"
            f"  s2uc update {uid} --role PROD --reverse-listener HOST:PORT {ours} --s2cs {server}"
        )
    listeners = ",".join(map(str, grant.listeners))
    if not grant.certificate_pem:
        return (
            f"This gateway does not encrypt. Not connected yet; to stream in the clear:\n"
            f"  s2uc update {uid} --role PROD --plain --s2cs {server}\n"
            f"  s2uc outbound-request {uid} {listeners} --plain --s2cs CONSUMER"
        )
    return (
        "Not connected yet. Whoever opens the consumer's side needs uid, listeners and certificate:\n"
        f"  s2uc outbound-request {uid} {listeners} --peer-certificate FILE --certificate-out OTHER\n"
        f"and then here: s2uc update {uid} --role PROD --peer-certificate OTHER --s2cs {server}"
    )
