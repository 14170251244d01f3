"""Opens one side of a session, connects it where it is known how, and says what comes next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scistream.cli import options
from scistream.cli.facilities import REFERENCE_CERTIFICATE, find_facility
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_listeners, show_pairs
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import SciStreamError

if TYPE_CHECKING:
    from scistream.client.aio import Facility
    from scistream.wire.convert import Grant

_TIMEOUT_S = 30.0
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
    certificate_out: Path | None,
    plain: bool,
    num_conn: int,
    rate: int,
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
    peer_certificate_pem = parameters.read_file(peer_certificate) if peer_certificate else b""
    if addresses is None:
        click.echo(f"session {uid} waits at {server} for: appctrl hello {uid} --role {role}", err=True)
    wishes: dict[str, Any] = {
        "num_conn": num_conn,
        "rate_mbps": rate,
        "queue": queue,
        "idle_timeout_s": idle_timeout_s,
        "lifetime_s": lifetime_s,
        "timeout_s": timeout_s or (_QUEUE_TIMEOUT_S if queue else _TIMEOUT_S),
    }
    grant, connected = _open_side(
        facility,
        uid,
        role,
        wishes,
        addresses=addresses,
        connect_to=connect_to,
        peer_certificate_pem=peer_certificate_pem if plain or peer_certificate_pem else None,
        certificate_out=certificate_out,
    )
    result: dict[str, Any] = {
        "uid": uid,
        "listeners": list(map(str, grant.listeners)),
        "connected": connected,
        "encrypted": bool(peer_certificate_pem),
    }
    if grant.certificate_pem:
        result["certificate"] = str(certificate_out) if certificate_out else grant.certificate_pem.decode()
    show_pairs(result, as_json=as_json)
    if not as_json:
        if not connected:
            click.echo(_next_step(uid, server, grant))
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
    certificate_out: Path | None,
) -> tuple[Grant, bool]:
    """Open one side; connect it too, unless `peer_certificate_pem` is None. Undone if it fails."""
    from scistream.client.aio import release_after_failure, reserve_side

    async def work() -> Grant:
        async with facility.connect() as client:
            try:
                if addresses is None:
                    grant = await client.request(uid, role, **wishes)
                else:
                    grant = await reserve_side(client, uid, role, addresses=addresses, **wishes)
                if certificate_out is not None:
                    parameters.write_file(certificate_out, grant.certificate_pem)
                if peer_certificate_pem is not None:
                    await client.update(uid, role, connect_to, peer_certificate_pem=peer_certificate_pem)
            except (SciStreamError, asyncio.CancelledError):
                await release_after_failure(uid, client)
                raise
            return grant

    return options.run_until_done(work), peer_certificate_pem is not None


def _next_step(uid: str, server: str, grant: Grant) -> str:
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
