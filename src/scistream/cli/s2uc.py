"""The command ``s2uc``: opens, shows and ends streaming sessions for their user."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scistream.cli import options
from scistream.cli.facilities import LOCAL_SERVER, find_facilities, find_facility, find_servers
from scistream.cli.show import show_pairs, show_sessions, status_as_json
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ConfigurationError, SciStreamError, SessionNotFound

if TYPE_CHECKING:
    from scistream.client import Facility
    from scistream.wire.convert import Grant

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_PROFILES = ("facilities",)


def _common(command: F) -> F:
    """Add the options that every command has."""
    for option in (
        options.verbose_option(),
        options.config_option(tables=_PROFILES),
        options.json_option(),
        click.option("--timeout-s", type=float, default=30.0, show_default=True, help="For all of it."),
    ):
        command = option(command)
    return command


def _one_server(command: F) -> F:
    """Add the options of commands that talk to one control server."""
    for option in (
        click.option("--token-file", type=_FILE, help="File with your token there [or: S2UC_TOKEN]."),
        click.option("--certificate", "--server-cert", type=_FILE, help="The control server's certificate."),
    ):
        command = option(command)
    return command


def _several_servers(command: F) -> F:
    """Add the options of commands that can talk to the control servers of both sides."""
    for option in (
        click.option(
            "--token-file", "token_files", type=_FILE, multiple=True, help="One, or one per server."
        ),
        click.option(
            "--certificate",
            "--server-cert",
            "certificates",
            type=_FILE,
            multiple=True,
            help="One, or one per server.",
        ),
        click.option(
            "--s2cs",
            "servers",
            multiple=True,
            help="Control server or profile; repeat it for both sides "
            f"[all profiles; without any, {LOCAL_SERVER}].",
        ),
    ):
        command = option(command)
    return command


def _session_options(command: F) -> F:
    for option in (
        click.option(
            "--rate", type=int, default=0, show_default=True, help="Mb/s that you ask for; 0: no wish."
        ),
        click.option("--num-conn", type=int, help="Channels [one per target]."),
    ):
        command = option(command)
    return command


@click.group(context_settings=options.CONTEXT_SETTINGS)
@options.config_option(tables=_PROFILES)
@options.version_option()
def s2uc() -> None:
    """User client: opens streaming sessions between two facilities, shows them, ends them.

    \b
    An application listens at 10.0.1.5:5001 inside the producer's facility:
      s2uc request aps.example:5000 alcf.example:5000 --target 10.0.1.5:5001 \\
          --producer-certificate aps.crt --consumer-certificate alcf.crt --token-file my.token
    and the consumer application connects to the listeners that this prints.

    \b
    Shorter with profiles, in ~/.config/scistream/config.toml or a file given with --config:
      [facilities.aps]
      address = "aps.example:5000"
      certificate = "aps.crt"        # relative to this file
      token_file = "aps.token"       # mode 0600
      [facilities.alcf]
      address = "alcf.example:5000"
      certificate = "alcf.crt"
      token_file = "alcf.token"

    \b
    Then:
      s2uc request aps alcf --target 10.0.1.5:5001
      s2uc status
      s2uc release UID

    Options also come from the environment (S2UC_REQUEST_TARGET), tokens from S2UC_TOKEN.
    """


@s2uc.command()
@click.argument("producer")
@click.argument("consumer")
@click.option(
    "--target", "targets", multiple=True, required=True, help="HOST:PORT of the producer's application."
)
@_session_options
@click.option("--producer-certificate", type=_FILE, help="The producer's control server's certificate.")
@click.option("--consumer-certificate", type=_FILE, help="The consumer's control server's certificate.")
@click.option("--token-file", type=_FILE, help="File with your token, where it is the same for both.")
@click.option("--producer-token-file", type=_FILE, help="... at the producer [or: S2UC_PRODUCER_TOKEN].")
@click.option("--consumer-token-file", type=_FILE, help="... at the consumer [or: S2UC_CONSUMER_TOKEN].")
@click.option("--uid", help="Name of the session [a random UUID].")
@click.option("--plain", is_flag=True, help="Accept a session that crosses the network in the clear.")
@_common
@click.pass_context
def request(
    context: click.Context,
    producer: str,
    consumer: str,
    targets: tuple[str, ...],
    num_conn: int | None,
    rate: int,
    producer_certificate: Path | None,
    consumer_certificate: Path | None,
    token_file: Path | None,
    producer_token_file: Path | None,
    consumer_token_file: Path | None,
    uid: str | None,
    plain: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Open a session through PRODUCER's and CONSUMER's gateways (host:port, or profiles) and leave it open.

    Whatever fails, nothing is left behind on either side. End the session with 's2uc release'.

    \b
    Example:
      s2uc request localhost:5000 localhost:6000 --target 127.0.0.1:5001 \\
          --producer-certificate p.crt --consumer-certificate c.crt --token-file my.token

    \b
    With profiles (see 's2uc --help'):
      s2uc request aps alcf --target 10.0.1.5:5001
    """
    from scistream.client import open_session

    ours = find_facility(
        context,
        producer,
        certificate=producer_certificate,
        token_file=producer_token_file or token_file,
        token_variables=("S2UC_PRODUCER_TOKEN", "S2UC_TOKEN"),
    )
    theirs = find_facility(
        context,
        consumer,
        certificate=consumer_certificate,
        token_file=consumer_token_file or token_file,
        token_variables=("S2UC_CONSUMER_TOKEN", "S2UC_TOKEN"),
    )

    async def work() -> dict[str, Any]:
        session = await open_session(
            ours,
            theirs,
            targets=_endpoints(targets),
            num_conn=num_conn,
            rate_mbps=rate,
            timeout_s=timeout_s,
            encrypted=not plain,
            uid=uid,
        )
        await session.detach()
        return {
            "uid": session.uid,
            "listeners": list(map(str, session.listeners)),
            "encrypted": session.encrypted,
            "setup_s": round(session.setup_s, 4),
        }

    show_pairs(options.run_until_done(work), as_json=as_json)


@s2uc.command("inbound-request")
@click.option(
    "--target", "targets", multiple=True, required=True, help="HOST:PORT of the producer's application."
)
@click.option(
    "--s2cs", "server", default="localhost:5000", show_default=True, help="Control server or profile."
)
@click.option("--uid", help="Name of the session [a random UUID].")
@click.option("--certificate-out", type=_FILE, help="Write this side's session certificate here.")
@click.option("--plain", is_flag=True, help="Connect in the clear at once.")
@_session_options
@_one_server
@_common
@click.pass_context
def inbound_request(
    context: click.Context,
    targets: tuple[str, ...],
    server: str,
    uid: str | None,
    certificate_out: Path | None,
    plain: bool,
    num_conn: int | None,
    rate: int,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Open the producer's side alone, where one person cannot open both ('s2uc request' does).

    Give the printed uid, listeners and certificate to whoever opens the consumer's side. With the
    certificate of that side, connect: 's2uc update'. Without encryption (--plain) it is connected at once.

    \b
    Example:
      s2uc inbound-request --target 10.0.1.5:5001 --s2cs aps.example:5000 --certificate aps.crt \\
          --token-file my.token --certificate-out producer-session.crt
    """
    addresses = _endpoints(targets)
    result = _open_side(
        find_facility(context, server, certificate=certificate, token_file=token_file),
        uid or str(uuid.uuid4()),
        Role.PRODUCER,
        addresses,
        num_conn=num_conn or len(addresses),
        rate_mbps=rate,
        peer_certificate_pem=b"" if plain else None,
        certificate_out=certificate_out,
        timeout_s=timeout_s,
    )
    show_pairs(result, as_json=as_json)


@s2uc.command("outbound-request")
@click.argument("uid")
@click.argument("producer_listeners")
@click.option(
    "--s2cs", "server", default="localhost:6000", show_default=True, help="Control server or profile."
)
@click.option("--peer-certificate", type=_FILE, help="The producer's side's session certificate.")
@click.option("--certificate-out", type=_FILE, help="Write this side's session certificate here.")
@click.option("--plain", is_flag=True, help="Connect in the clear.")
@_session_options
@_one_server
@_common
@click.pass_context
def outbound_request(
    context: click.Context,
    uid: str,
    producer_listeners: str,
    server: str,
    peer_certificate: Path | None,
    certificate_out: Path | None,
    plain: bool,
    num_conn: int | None,
    rate: int,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Open the consumer's side of session UID, and connect it to PRODUCER_LISTENERS (comma-separated).

    \b
    Example:
      s2uc outbound-request 0f3c… aps.example:5100 --s2cs alcf.example:5000 --certificate alcf.crt \\
          --token-file my.token --peer-certificate producer-session.crt \\
          --certificate-out consumer-session.crt
    """
    if plain == (peer_certificate is not None):
        raise click.UsageError("give either --peer-certificate FILE or --plain")
    addresses = _endpoints(tuple(producer_listeners.split(",")))
    result = _open_side(
        find_facility(context, server, certificate=certificate, token_file=token_file),
        uid,
        Role.CONSUMER,
        addresses,
        num_conn=num_conn or len(addresses),
        rate_mbps=rate,
        peer_certificate_pem=_read(peer_certificate) if peer_certificate else b"",
        certificate_out=certificate_out,
        timeout_s=timeout_s,
    )
    show_pairs(result, as_json=as_json)


@s2uc.command()
@click.argument("uid")
@click.option(
    "--role", type=click.Choice([one.value for one in Role]), required=True, help="Which side this is."
)
@click.option(
    "--target", "targets", multiple=True, help="HOST:PORT to connect to [what the application said]."
)
@click.option(
    "--s2cs", "server", default="localhost:5000", show_default=True, help="Control server or profile."
)
@click.option("--peer-certificate", type=_FILE, help="The other side's session certificate.")
@click.option("--plain", is_flag=True, help="Connect in the clear.")
@_one_server
@_common
@click.pass_context
def update(
    context: click.Context,
    uid: str,
    role: str,
    targets: tuple[str, ...],
    server: str,
    peer_certificate: Path | None,
    plain: bool,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Connect one side of session UID to its targets, or to others: old connections finish as they are.

    \b
    Example:
      s2uc update 0f3c… --role PROD --s2cs aps.example:5000 --certificate aps.crt --token-file my.token \\
          --peer-certificate consumer-session.crt
    """
    if plain == (peer_certificate is not None):
        raise click.UsageError("give either --peer-certificate FILE or --plain")
    facility = find_facility(context, server, certificate=certificate, token_file=token_file)
    peer_certificate_pem = _read(peer_certificate) if peer_certificate else b""

    async def work() -> dict[str, Any]:
        async with facility.connect() as client:
            grant = await client.update(
                uid,
                Role(role),
                _endpoints(targets),
                peer_certificate_pem=peer_certificate_pem,
                timeout_s=timeout_s,
            )
        return {
            "uid": uid,
            "listeners": list(map(str, grant.listeners)),
            "encrypted": bool(peer_certificate_pem),
        }

    show_pairs(options.run_until_done(work), as_json=as_json)


@s2uc.command()
@click.argument("uid")
@_several_servers
@_common
@click.pass_context
def release(
    context: click.Context,
    uid: str,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """End session UID at every control server that is named; fine where it has ended already.

    Without --s2cs: at those of all profiles.

    \b
    Example:
      s2uc release 0f3c… --s2cs aps.example:5000 --s2cs alcf.example:5000 \\
          --certificate aps.crt --certificate alcf.crt --token-file my.token
    """
    servers = find_servers(context, servers)
    facilities = find_facilities(context, servers, certificates, token_files)

    async def one(facility: Facility) -> None:
        async with facility.connect() as client:
            await client.release(uid, timeout_s=timeout_s)

    async def work() -> None:
        outcomes = await asyncio.gather(*map(one, facilities), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    options.run_until_done(work)
    show_pairs({"uid": uid, "released": list(servers)}, as_json=as_json)


@s2uc.command()
@click.argument("uid", default="")
@_several_servers
@_common
@click.pass_context
def status(
    context: click.Context,
    uid: str,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Show session UID, or all of yours, at every control server that is named.

    Without --s2cs: at those of all profiles. What one of them answers is shown even if another fails.

    \b
    Example:
      s2uc status --s2cs aps.example:5000 --certificate aps.crt --token-file my.token
    """
    facilities = find_facilities(context, find_servers(context, servers), certificates, token_files)

    async def one(facility: Facility) -> list[dict[str, Any]]:
        async with facility.connect() as client:
            found = await client.status(uid, timeout_s=timeout_s)
        return [{"server": str(facility.endpoint), **status_as_json(session)} for session in found]

    async def work() -> list[list[dict[str, Any]] | BaseException]:
        return await asyncio.gather(*map(one, facilities), return_exceptions=True)

    outcomes = options.run_until_done(work)
    sessions = [session for found in outcomes if isinstance(found, list) for session in found]
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if uid and sessions:
        # a facility that has no part in the session is no failure
        failures = [failure for failure in failures if not isinstance(failure, SessionNotFound)]
    if sessions or not failures:
        show_sessions(sessions, as_json=as_json)
    if failures:
        # one that could not be asked says more than one that does not know the session
        raise min(failures, key=lambda failure: isinstance(failure, SessionNotFound))


def _open_side(
    facility: Facility,
    uid: str,
    role: Role,
    addresses: list[Endpoint],
    *,
    num_conn: int,
    rate_mbps: int,
    peer_certificate_pem: bytes | None,
    certificate_out: Path | None,
    timeout_s: float,
) -> dict[str, Any]:
    """Open one side; connect it too, unless `peer_certificate_pem` is None. Undone if it fails."""
    from scistream.client import reserve_side

    async def work() -> Grant:
        async with facility.connect() as client:
            try:
                grant = await reserve_side(
                    client,
                    uid,
                    role,
                    addresses=addresses,
                    num_conn=num_conn,
                    rate_mbps=rate_mbps,
                    timeout_s=timeout_s,
                )
                if certificate_out is not None:
                    _write(certificate_out, grant.certificate_pem)
                if peer_certificate_pem is not None:
                    await client.update(
                        uid, role, addresses, peer_certificate_pem=peer_certificate_pem, timeout_s=timeout_s
                    )
            except (SciStreamError, asyncio.CancelledError):
                await client.release(uid, timeout_s=timeout_s)
                raise
            return grant

    grant = options.run_until_done(work)
    result: dict[str, Any] = {
        "uid": uid,
        "listeners": list(map(str, grant.listeners)),
        "connected": peer_certificate_pem is not None,
        "encrypted": bool(peer_certificate_pem),
    }
    if grant.certificate_pem:
        result["certificate"] = str(certificate_out) if certificate_out else grant.certificate_pem.decode()
    return result


def _endpoints(texts: tuple[str, ...]) -> list[Endpoint]:
    return [Endpoint.parse(text) for text in texts]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def main() -> None:
    """Run ``s2uc``."""
    options.run_program(s2uc, "s2uc")
