"""``s2uc request``: both sides of a session at once, the normal way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scistream.cli.completion import complete_profiles
from scistream.cli.facilities import find_facility
from scistream.cli.running import run_until_done
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.progress import progress_line
from scistream.cli.show import show_pairs


@click.command()
@click.argument("producer", shell_complete=complete_profiles)
@click.argument("consumer", shell_complete=complete_profiles)
@click.option(
    "--target", "targets", multiple=True, required=True, help="HOST:PORT of the producer's application."
)
@click.option("--num-conn", type=int, help="Channels [one per target].")
@parameters.rate(0)
@parameters.leases
@parameters.reverse("Have the producer's gateway, which cannot be reached, dial the consumer's.")
@click.option(
    "--producer-certificate", type=parameters.FILE, help="The producer's control server's certificate."
)
@click.option(
    "--consumer-certificate", type=parameters.FILE, help="The consumer's control server's certificate."
)
@click.option(
    "--token-file", type=parameters.FILE, help="File with your token, where it is the same for both."
)
@click.option(
    "--producer-token-file", type=parameters.FILE, help="... at the producer [or: S2UC_PRODUCER_TOKEN]."
)
@click.option(
    "--consumer-token-file", type=parameters.FILE, help="... at the consumer [or: S2UC_CONSUMER_TOKEN]."
)
@parameters.uid
@click.option("--plain", is_flag=True, help="Accept a session that crosses the network in the clear.")
@parameters.timeout(queued=True)
@parameters.common
@click.pass_context
def request(
    context: click.Context,
    producer: str,
    consumer: str,
    targets: tuple[str, ...],
    num_conn: int | None,
    rate: int,
    queue: bool,
    idle_timeout_s: float | None,
    lifetime_s: float | None,
    reverse: bool,
    producer_certificate: Path | None,
    consumer_certificate: Path | None,
    token_file: Path | None,
    producer_token_file: Path | None,
    consumer_token_file: Path | None,
    uid: str | None,
    plain: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Open a session through PRODUCER's and CONSUMER's gateways and leave it open.

    Each is the control server of a gateway: a profile, HOST:PORT, or plaintext://HOST:PORT where it serves
    without TLS (whoever is on the way can read the token then).

    Whatever fails, and after Ctrl-C, nothing of it is left behind on either side. End the session with
    's2uc release'; lead new connections to another application with 's2uc update'.

    With the --uid of a session that is open already, with the same parameters, that one is shown; with others
    it is refused. That session goes on in any case.

    \b
    Example:
      s2uc request localhost:5000 localhost:6000 --target 127.0.0.1:5001 \\
          --producer-certificate p.crt --consumer-certificate c.crt --token-file my.token

    \b
    With profiles (see 's2uc --help'):
      s2uc request aps alcf --target 10.0.1.5:5001
    """
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
    addresses = parameters.endpoints(targets)
    from scistream.client.aio import open_session

    async def work() -> dict[str, Any]:
        with progress_line() as progress:
            session = await open_session(
                ours,
                theirs,
                targets=addresses,
                num_conn=num_conn,
                rate_mbps=rate,
                reverse=reverse,
                queue=queue,
                idle_timeout_s=idle_timeout_s,
                lifetime_s=lifetime_s,
                timeout_s=timeout_s,
                encrypted=not plain,
                uid=uid,
                progress=progress.show,
            )
        await session.detach()
        return {
            "uid": session.uid,
            "listeners": list(map(str, session.listeners)),
            "encrypted": session.encrypted,
            "setup_s": round(session.setup_s, 4),
        }

    show_pairs(run_until_done(work), as_json=as_json)
