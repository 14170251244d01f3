"""The command ``s2cs check-policy``: reads a policy as ``s2cs start --policy`` does, and explains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scistream.cli import options
from scistream.cli.config_file import config_option
from scistream.cli.exit_codes import ExitCode
from scistream.cli.show import show_pairs
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role


@click.command("check-policy")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--as", "name", metavar="WHO", help="Explain what WHO may do: the name that sessions belong to."
)
@click.option("--identity", "identities", multiple=True, help="What else WHO's login proves; repeatable.")
@click.option("--group", "groups", multiple=True, help="A group that WHO is in; repeatable.")
@click.option("--authenticator", default="", help="By which WHO is known.")
@click.option(
    "--role", type=click.Choice([one.value for one in Role]), help="As which side.  [default: both]"
)
@click.option("--num-conn", type=click.IntRange(min=1), default=1, show_default=True, help="Channels.")
@click.option("--rate", type=click.FloatRange(min=0), default=0, show_default=True, help="In Mb/s.")
@click.option("--sessions", type=click.IntRange(min=0), default=0, show_default=True, help="WHO has already.")
@click.option("--channels", type=click.IntRange(min=0), default=0, show_default=True, help="They have.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="ADDRESS:PORT that the data server is to connect to; repeatable.",
)
@click.option(
    "--dials", is_flag=True, help="The targets are dialled for the producer's side of a reverse session."
)
@options.json_option()
@config_option()
def check_policy(
    file: Path,
    name: str | None,
    identities: tuple[str, ...],
    groups: tuple[str, ...],
    authenticator: str,
    role: str | None,
    num_conn: int,
    rate: float,
    sessions: int,
    channels: int,
    targets: tuple[str, ...],
    dials: bool,
    as_json: bool,
) -> int:
    """Check the policy in FILE; with --as, explain what it decides. Nothing is asked of a running s2cs.

    Exit code 0: it can be used, and allows what is asked about; 3: it cannot be used; 6: it refuses that.
    Names are not looked up: give the targets as addresses. The gateway's own ports, which are never allowed,
    are known to a running s2cs alone.

    \b
    Example:
      s2cs check-policy policy.toml --as alice --group aps-7bm --role PROD --target 10.7.0.5:5001
    """
    from scistream.control.policy_file import read_policy
    from scistream.core.destinations import parse_address
    from scistream.core.policy import OwnPlaces, Usage
    from scistream.core.principal import Who

    policy = read_policy(file)
    if name is None:
        given = {"--role": role, "--target": targets, "--identity": identities, "--group": groups}
        if unused := [option for option, value in given.items() if value]:
            raise click.UsageError(f"{', '.join(unused)}: say with --as whom it is about")
        summary = {
            "policy": str(file),
            "rules": [rule.name for rule in policy.rules],
            "administrators": len(policy.administrators),
        }
        show_pairs(summary, as_json=as_json)
        return ExitCode.OK
    who = Who(
        name=name,
        authenticator=authenticator,
        identities=frozenset(identities),
        groups=frozenset(groups),
    )
    endpoints = [Endpoint.parse(target) for target in targets]
    places = [(endpoint, parse_address(endpoint.host)) for endpoint in endpoints]
    allowed = True
    explained: list[dict[str, Any]] = []
    for one in [Role(role)] if role else list(Role):
        decision = policy.decide_request(
            who, one, num_conn=num_conn, rate_mbps=rate, usage=Usage(sessions=sessions, channels=channels)
        )
        explained.append(
            {
                "role": one.value,
                "session": decision.allowed,
                "why": decision.why,
                "rate_mbps": decision.rate_mbps if decision.allowed else None,
                "lives_s": decision.longest_s or None if decision.allowed else None,
                "targets": [],
            }
        )
        allowed = allowed and decision.allowed
        for endpoint, address in places:
            found = policy.decide_address(who, one, address, endpoint.port, dials=dials, own=OwnPlaces())
            explained[-1]["targets"].append(
                {"target": str(endpoint), "allowed": found.allowed, "why": found.why}
            )
            allowed = allowed and found.allowed
    result = {
        "who": name,
        "administrator": policy.is_administrator(who),
        "allowed": allowed,
        "decisions": explained,
    }
    if as_json:
        show_pairs(result, as_json=True)
    else:
        _show(result)
    return ExitCode.OK if allowed else ExitCode.REFUSED


def _show(result: dict[str, Any]) -> None:
    administrator = ", an administrator" if result["administrator"] else ""
    click.echo(f"{result['who']}{administrator}")
    for one in result["decisions"]:
        click.echo(f"  {one['role']}  {'allowed' if one['session'] else 'REFUSED'}: {one['why']}")
        if one["rate_mbps"]:
            click.echo(f"        at {one['rate_mbps']:g} Mb/s")
        if one["lives_s"]:
            click.echo(f"        for {one['lives_s']:g} s at most")
        for target in one["targets"]:
            decided = "allowed" if target["allowed"] else "REFUSED"
            click.echo(f"        {target['target']}  {decided}: {target['why']}")
