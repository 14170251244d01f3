"""``s2uc update``: connects one side of a session, or leads it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scistream.cli import options
from scistream.cli.facilities import REFERENCE_CERTIFICATE, find_facility
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_pairs
from scistream.core.events import Role


@click.command()
@click.argument("uid")
@click.option(
    "--role", type=click.Choice([one.value for one in Role]), required=True, help="Which side this is."
)
@click.option(
    "--target", "targets", multiple=True, help="HOST:PORT to connect to [what the application said]."
)
@click.option(
    "--s2cs",
    "server",
    default=parameters.PRODUCER_SERVER,
    show_default=True,
    help="Control server or profile.",
)
@click.option("--peer-certificate", type=parameters.FILE, help="The other side's session certificate.")
@click.option("--plain", is_flag=True, help="Connect in the clear.")
@parameters.one_server
@parameters.timeout()
@parameters.common
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
        raise click.UsageError(parameters.PEER_NEEDED)
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=token_file,
        default_certificate=REFERENCE_CERTIFICATE,
    )
    peer_certificate_pem = parameters.read_file(peer_certificate) if peer_certificate else b""

    async def work() -> dict[str, Any]:
        async with facility.connect() as client:
            grant = await client.update(
                uid,
                Role(role),
                parameters.endpoints(targets),
                peer_certificate_pem=peer_certificate_pem,
                timeout_s=timeout_s,
            )
        return {
            "uid": uid,
            "listeners": list(map(str, grant.listeners)),
            "encrypted": bool(peer_certificate_pem),
        }

    show_pairs(options.run_until_done(work), as_json=as_json)
