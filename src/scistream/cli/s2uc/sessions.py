"""The commands that look at sessions, keep them and end them: status, list, renew, release."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scistream.cli.facilities import REFERENCE_CERTIFICATE, find_facilities, find_servers
from scistream.cli.output import print_json
from scistream.cli.running import run_until_done
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_list, show_pairs, show_sessions, status_as_json
from scistream.errors import SessionNotFound

if TYPE_CHECKING:
    from scistream.client.aio import ControlClient, Facility

T = TypeVar("T")


@click.command()
@click.argument("uid")
@parameters.several_servers
@parameters.scope
@parameters.timeout()
@parameters.common
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
    """End session UID at every control server that is named; fine where it has ended before.

    Without --s2cs: at those of all profiles. What has become of it is said for each of them, whatever
    happens at another. Exit code 7 if none of them knows the session.

    \b
    Example:
      s2uc release 0f3c… --s2cs aps.example:5000 --s2cs alcf.example:5000 \\
          --certificate aps.crt --certificate alcf.crt --token-file my.token
    """
    servers = find_servers(context, servers)
    facilities = find(context, servers, certificates, token_files)
    outcomes = at_each(facilities, lambda client: _release(client, uid, timeout_s))
    places: dict[str, list[str]] = {what: [] for what in ("released", "ended_before", "not_there")}
    failed = {}
    for server, outcome in zip(servers, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            failed[server] = str(outcome)
        else:
            places[outcome].append(server)
    if as_json:
        print_json(uid=uid, **places, failed=failed)
    else:
        for what, where in (*places.items(), ("failed", list(failed))):
            for server in where:
                click.echo(f"{what.replace('_', ' '):12}  {server}")
    raise_failures(outcomes, found=False)
    if len(places["not_there"]) == len(servers):
        raise SessionNotFound(
            f"there is no session {uid} of yours at {', '.join(servers)}; nothing was released; 's2uc list' "
            "shows yours"
        )
    if not as_json:
        click.echo("Release completed")


async def _release(client: ControlClient, uid: str, timeout_s: float) -> str:
    """Release session `uid`; return what there was: ``released``, ``ended_before`` or ``not_there``."""
    from scistream.client.aio import CallUnknown

    try:
        found = await client.status(uid, timeout_s=timeout_s)
    except SessionNotFound:
        return "not_there"
    except CallUnknown:  # the reference implementation cannot say
        found = ()
    await client.release(uid, timeout_s=timeout_s)
    return "ended_before" if any(one.state.freed for one in found) else "released"


@click.command()
@click.argument("uid")
@parameters.several_servers
@parameters.timeout()
@parameters.common
@click.pass_context
def renew(
    context: click.Context,
    uid: str,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Start the leases of session UID anew, idle timeout and lifetime, where it is at a server that is named.

    Without --s2cs: at those of all profiles.

    \b
    Example:
      s2uc renew 0f3c… --s2cs aps.example:5000 --s2cs alcf.example:5000
    """
    servers = find_servers(context, servers)
    outcomes = at_each(
        find(context, servers, certificates, token_files),
        lambda client: client.renew(uid, timeout_s=timeout_s),
    )
    renewed = [
        server
        for server, outcome in zip(servers, outcomes, strict=True)
        if not isinstance(outcome, BaseException)
    ]
    raise_failures(outcomes, found=bool(renewed))
    show_pairs({"uid": uid, "renewed": renewed}, as_json=as_json)


@click.command()
@click.argument("uid", default="")
@parameters.several_servers
@parameters.timeout()
@parameters.common
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
    With --json, {"sessions": [SIDE, …]}, where a SIDE has:
      server, uid, role (PROD or CONS), principal, data_server
      state      queued, requested, reserved, announced, connecting, connected, releasing, released,
                 expired or failed
      reason     why it has ended, or ""
      encrypted  whether TLS is between the gateways; null as long as that is not settled
      num_conn, rate_mbps, paced, reverse, seconds (its age; of an ended one, its length)
      listeners, targets          lists of "HOST:PORT"
      channels                    a list of {connections_open, connections_total, connections_failed,
                                  bytes_to_target, bytes_from_target, connections_ready (of a
                                  reverse session)}; empty until it is connected
      restarts, notice            how often its data server was restarted, and why last
      idle_timeout_s, lifetime_s  0: none;  lifetime_left_s  null: none, or not begun

    \b
    Example:
      s2uc status --s2cs aps.example:5000 --certificate aps.crt --token-file my.token
    """
    facilities = find(context, find_servers(context, servers), certificates, token_files)
    sessions, outcomes = _look(facilities, uid, timeout_s)
    if sessions or not any(isinstance(outcome, BaseException) for outcome in outcomes):
        show_sessions(sessions, as_json=as_json)
    raise_failures(outcomes, found=bool(uid and sessions))


@click.command("list")
@click.option("--all", "ended_too", is_flag=True, help="Those that have ended, too.")
@parameters.several_servers
@parameters.timeout()
@parameters.common
@click.pass_context
def list_sessions(
    context: click.Context,
    ended_too: bool,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """List your sessions at every control server that is named, one line for each.

    Without --s2cs: at those of all profiles. What one of them answers is shown even if another fails.

    With --json: {"sessions": [{"uid": …, "sides": [SIDE, …]}, …]}; 's2uc status --help' says what a SIDE has.

    \b
    Example:
      s2uc list --s2cs aps.example:5000 --s2cs alcf.example:5000
    """
    facilities = find(context, find_servers(context, servers), certificates, token_files)
    sessions, outcomes = _look(facilities, "", timeout_s)
    if sessions or not any(isinstance(outcome, BaseException) for outcome in outcomes):
        show_list(sessions, ended_too=ended_too, as_json=as_json)
    raise_failures(outcomes, found=False)


def find(
    context: click.Context, servers: Sequence[str], certificates: Sequence[Path], token_files: Sequence[Path]
) -> list[Facility]:
    """Return the facilities of `servers`, in order."""
    return find_facilities(
        context, servers, certificates, token_files, default_certificate=REFERENCE_CERTIFICATE
    )


def at_each(
    facilities: Sequence[Facility], call: Callable[[ControlClient], Awaitable[T]]
) -> list[T | BaseException]:
    """Make one call at every control server, all at the same time; return results and errors in order."""

    async def one(facility: Facility) -> T:
        async with facility.connect() as client:
            return await call(client)

    async def work() -> list[T | BaseException]:
        return await asyncio.gather(*map(one, facilities), return_exceptions=True)

    return run_until_done(work)


def raise_failures(outcomes: Sequence[object], *, found: bool) -> None:
    """Raise what says most of the errors among `outcomes`.

    Where the session was `found`, a facility that has no part in it is no failure. One that could not be
    asked says more than one that does not know the session.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if found:
        failures = [failure for failure in failures if not isinstance(failure, SessionNotFound)]
    if failures:
        raise min(failures, key=lambda failure: isinstance(failure, SessionNotFound))


def _look(
    facilities: Sequence[Facility], uid: str, timeout_s: float
) -> tuple[list[dict[str, Any]], Sequence[object]]:
    outcomes = at_each(facilities, lambda client: client.status(uid, timeout_s=timeout_s))
    sessions = [
        {"server": str(facility.endpoint), **status_as_json(session)}
        for facility, found in zip(facilities, outcomes, strict=True)
        if not isinstance(found, BaseException)
        for session in found
    ]
    return sessions, outcomes
