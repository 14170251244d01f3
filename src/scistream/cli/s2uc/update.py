"""``s2uc update``: connects one side of a session, or leads it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scistream.cli.completion import complete_profiles
from scistream.cli.facilities import REFERENCE_CERTIFICATE, find_facility, read_certificate
from scistream.cli.running import run_until_done
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_pairs
from scistream.core.events import Role


@click.command()
@click.argument("uid")
@click.option(
    "--role",
    type=click.Choice([one.value for one in Role], case_sensitive=False),
    help="Which side this is [the one that the control server has it as].",
)
@click.option(
    "--target", "targets", multiple=True, help="HOST:PORT to connect to [what the application said]."
)
@click.option(
    "--s2cs",
    "server",
    default=parameters.PRODUCER_SERVER,
    show_default=True,
    shell_complete=complete_profiles,
    help=f"{parameters.SERVER_HELP}.",
)
@click.option(
    "--peer-certificate",
    type=parameters.FILE,
    help="The other side's session certificate [the one that it was connected with].",
)
@click.option(
    "--reverse-listener",
    "reverse_listeners",
    multiple=True,
    help="HOST:PORT of the consumer's side of a reverse session, one per channel [those given before].",
)
@parameters.peer_data_server
@click.option("--plain", is_flag=True, help="Connect in the clear.")
@parameters.one_server
@parameters.timeout()
@parameters.common
@click.pass_context
def update(
    context: click.Context,
    uid: str,
    role: str | None,
    targets: tuple[str, ...],
    server: str,
    peer_certificate: Path | None,
    reverse_listeners: tuple[str, ...],
    peer_data_server: str,
    plain: bool,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Connect one side of session UID to its targets, or to others: old connections finish as they are.

    \b
    New connections go to another application from now on:
      s2uc update 0f3c… --s2cs aps --target 10.0.1.6:5001

    \b
    A side that was opened alone is connected for the first time:
      s2uc update 0f3c… --role PROD --s2cs aps.example:5000 --certificate aps.crt --token-file my.token \\
          --peer-certificate consumer-session.crt
    """
    if plain and peer_certificate is not None:
        raise click.UsageError("give either --peer-certificate FILE or --plain")
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=token_file,
        default_certificate=REFERENCE_CERTIFICATE,
    )
    peer_certificate_pem = read_certificate(peer_certificate) if peer_certificate else b""
    addresses = parameters.endpoints(targets)

    async def work() -> dict[str, Any]:
        async with facility.connect() as client:
            before = await parameters.look(client, uid)
            if (
                not plain
                and not peer_certificate_pem
                and (before is None or before.state in parameters.NOT_CONNECTED)
            ):
                raise click.UsageError(parameters.PEER_NEEDED)
            side = role or (before.role if before else None)
            if side is None:
                raise click.UsageError(f"say which side it is (--role): {server} cannot be asked")
            grant = await client.update(
                uid,
                Role(side),
                addresses,
                peer_certificate_pem=peer_certificate_pem,
                peer_data_server=peer_data_server,
                reverse_listeners=parameters.endpoints(reverse_listeners),
                timeout_s=timeout_s,
            )
            now = await parameters.look(client, uid)
        return {
            "uid": uid,
            "listeners": list(map(str, grant.listeners)),
            "encrypted": now.encrypted if now else bool(peer_certificate_pem),
        }

    show_pairs(run_until_done(work), as_json=as_json)
