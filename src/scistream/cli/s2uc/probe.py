"""``s2uc probe``: what a session gives right now, between two probe ends in place of the applications."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scistream.cli.facilities import find_servers
from scistream.cli.output import emit, error_events
from scistream.cli.running import stopped_by_signals
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.probe_report import show_report
from scistream.cli.s2uc.progress import progress_line
from scistream.cli.s2uc.sessions import at_each, find, raise_failures
from scistream.cli.sockets import listen_at
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.errors import PeerError, SessionNotFound, WrongState

if TYPE_CHECKING:
    from scistream.client.probe import FarEvent, Measurement, Plan, Progress
    from scistream.core.status import SessionStatus

_ARROWS = {"to consumer": "producer → consumer", "to producer": "consumer → producer"}
_FAR_OPTIONS = {"serve", "once", "as_json"}


@click.command()
@click.argument("uid", metavar="SESSION", default="")
@click.option(
    "--serve",
    multiple=True,
    help="Be the far end: listen at HOST:PORT, the session's target; repeat it for several targets.",
)
@click.option("--once", is_flag=True, help="With --serve: end after the first probe.")
@click.option(
    "--listener",
    "listeners",
    multiple=True,
    help="HOST:PORT to probe, where no control server can be asked for SESSION; repeat it for channels.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="For each channel.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    default=5.0,
    show_default=True,
    help="For each direction; the round trips take a fifth of it before.",
)
@click.option("--data-gb", type=float, help="S: size of the data, in GB.")
@click.option("--flop-per-gb", type=float, help="C: computation for each GB, in FLOP.")
@click.option("--local-flops", type=float, help="R_local: how fast it is computed here, in FLOP/s.")
@click.option("--remote-flops", type=float, help="R_remote: how fast at the other facility, in FLOP/s.")
@click.option("--bandwidth-gbps", type=float, help="B_w: what the line could carry, in Gb/s.")
@click.option(
    "--theta",
    type=float,
    help="(T_IO + T_transfer) / T_transfer of a file transfer: compare with that, too.",
)
@click.option("--data-rate-gbps", type=float, help="What the detector produces, in Gb/s.")
@parameters.several_servers
@click.option(
    "--timeout-s",
    type=parameters.Seconds(),
    default=30.0,
    show_default=True,
    help="For the control servers' answers.",
)
@parameters.common
@click.pass_context
def probe(
    context: click.Context,
    uid: str,
    serve: tuple[str, ...],
    once: bool,
    listeners: tuple[str, ...],
    connections: int,
    seconds: float,
    data_gb: float | None,
    flop_per_gb: float | None,
    local_flops: float | None,
    remote_flops: float | None,
    bandwidth_gbps: float | None,
    theta: float | None,
    data_rate_gbps: float | None,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Measure what SESSION gives right now: throughput in both directions, and round-trip times.

    Two probe ends take the places of the applications. The far one, started with --serve, listens at the
    session's target; it needs no control server, and ends with Ctrl-C, or with --once. The near one runs
    where the consumer's application will: it asks the control servers for the session's listeners and
    measures through all of them at once. An application that is met instead of a far end is sent nothing but
    a greeting of 24 bytes.

    With --data-gb, --flop-per-gb, --local-flops and --remote-flops it says when the result is there: computed
    here, at the other facility by streaming, and there from files (--theta); and from which rate on the other
    facility is first. Transfer and computation count one after the other.

    \b
    Example, before the beam time:
      producer$ s2uc probe --serve 10.0.1.5:5001 --once
      user$     s2uc request aps alcf --target 10.0.1.5:5001
      consumer$ s2uc probe UID --data-rate-gbps 8 --bandwidth-gbps 10 \\
                    --data-gb 100 --flop-per-gb 1e13 --local-flops 1e12 --remote-flops 1e14 --theta 3

    \b
    With --json, one object:
      uid, listeners, encrypted    the last is null with --listener
      connections, seconds
      to_consumer_gbps, to_producer_gbps
      round_trip                   {samples, min_ms, p50_ms, p90_ms, p99_ms, max_ms}
      alpha, keep_up_factor, local_s, streaming_s, files_s, break_even_gbps, break_even_alpha,
      files_break_even_gbps, files_break_even_alpha
                                   null: not asked for; a break-even is null, too, if there is none
    With --serve --json, a line for each event:
      {"event": "ready", "listeners"}
      {"event": "probed", "peer", "message", "to_peer_gbps", "from_peer_gbps"}
      {"event": "broken_off" or "refused", "peer", "message"}

    Exit code 4 if what answers is no probe end, or one that dies; 7 if SESSION is not there, or is not
    connected; 5 if something listens at the address of --serve already.
    """
    if serve:
        _refuse_near_options(context)
        with error_events(enabled=as_json):
            _serve(parameters.endpoints(serve), once=once, as_json=as_json)
        return
    if once:
        raise click.UsageError("--once goes with --serve HOST:PORT")
    if bool(uid) == bool(listeners):
        raise click.UsageError("give either SESSION, or --listener HOST:PORT, or --serve HOST:PORT")
    plan = _plan(
        {
            "data_gb": data_gb,
            "flop_per_gb": flop_per_gb,
            "local_flops": local_flops,
            "remote_flops": remote_flops,
        },
        theta=theta,
        bandwidth_gbps=bandwidth_gbps,
        data_rate_gbps=data_rate_gbps,
    )
    encrypted: bool | None = None
    if uid:
        facilities = find(context, find_servers(context, servers), certificates, token_files)
        outcomes = at_each(facilities, lambda client: client.status(uid, timeout_s=timeout_s))
        side = _consumer_side(uid, outcomes)
        addresses, encrypted = list(side.listeners), side.encrypted
    else:
        addresses = parameters.endpoints(listeners)
    measurement = _measure(addresses, connections, seconds)
    show_report(
        measurement,
        plan,
        uid=uid or None,
        listeners=addresses,
        encrypted=encrypted,
        seconds=seconds,
        as_json=as_json,
    )


def _refuse_near_options(context: click.Context) -> None:
    """Complain of what has no meaning at the far end."""
    source = click.core.ParameterSource
    for parameter in context.command.params:
        name = parameter.name or ""
        if (
            parameter.expose_value
            and name not in _FAR_OPTIONS
            and context.get_parameter_source(name) is source.COMMANDLINE
        ):
            raise click.UsageError(
                f"{parameter.get_error_hint(context)} is for the near end; --serve takes --once and --json"
            )


def _serve(endpoints: Sequence[Endpoint], *, once: bool, as_json: bool) -> None:
    from scistream.client.probe import FarEnd, FarEventKind

    def tell(event: FarEvent) -> None:
        if as_json:
            rates = {"to_peer_gbps": event.to_peer_gbps, "from_peer_gbps": event.from_peer_gbps}
            measured = {name: rate for name, rate in rates.items() if rate is not None}
            emit(event.kind, peer=event.peer, message=event.message, **measured)
        else:
            click.echo(f"{event.kind.replace('_', ' ')}  {event.peer}  {event.message}")
            sys.stdout.flush()

    with stopped_by_signals(), ExitStack() as stack:
        sockets = [stack.enter_context(listen_at(endpoint)) for endpoint in endpoints]
        bound = [str(Endpoint(*one.getsockname()[:2])) for one in sockets]
        far_end = FarEnd(sockets, notify=tell, once=once)
        if as_json:
            emit("ready", listeners=bound)
        else:
            click.echo(f"probe end listens at {' '.join(bound)}; Ctrl-C ends it")
            sys.stdout.flush()
        ended = far_end.serve()
    if ended is not None and ended.kind is FarEventKind.BROKEN_OFF:
        raise PeerError(f"{ended.peer}: {ended.message}")


def _consumer_side(uid: str, outcomes: Sequence[object]) -> SessionStatus:
    """Return the consumer's side of session `uid`, of what the control servers answered.

    Raises
    ------
    SciStreamError
        None of them has it, or it is not connected.
    """
    sides: list[SessionStatus] = [
        side for found in outcomes if isinstance(found, tuple) for side in found if side.role is Role.CONSUMER
    ]
    if not sides:
        raise_failures(outcomes, found=False)
        raise SessionNotFound(
            f"the consumer's side of session {uid} is not at the control servers that were asked; "
            "name the consumer's one with --s2cs"
        )
    side = min(sides, key=lambda one: one.state is not State.CONNECTED)
    if side.state is not State.CONNECTED:
        reason = f" ({side.reason})" if side.reason else ""
        raise WrongState(
            f"session {uid} is {side.state}{reason} at the consumer's gateway; a probe needs a "
            "session that is connected: see 's2uc status'"
        )
    return side


def _measure(listeners: Sequence[Endpoint], connections: int, seconds: float) -> Measurement:
    from scistream.client.probe import measure

    with stopped_by_signals(), progress_line() as line:

        def show(progress: Progress) -> None:
            rate = "" if progress.gbps is None else f"  {progress.gbps:.3g} Gb/s"
            what = _ARROWS.get(progress.what, progress.what)
            line.show(f"{what}  {progress.elapsed_s:.1f} of {progress.seconds:g} s{rate}")

        return measure(listeners, connections=connections, seconds=seconds, progress=show)


def _plan(
    work: dict[str, float | None],
    *,
    theta: float | None,
    bandwidth_gbps: float | None,
    data_rate_gbps: float | None,
) -> Plan:
    """Return what the session is wanted for; the values of `work` belong together."""
    from scistream.client.probe import Plan, Workload

    given = {name: value for name, value in work.items() if value is not None}
    missing = [f"--{name.replace('_', '-')}" for name in work if name not in given]
    if missing and (given or theta is not None):
        raise click.UsageError(f"the completion time needs {', '.join(missing)} as well")
    return Plan(
        workload=Workload(**given) if given else None,
        theta=theta,
        bandwidth_gbps=bandwidth_gbps,
        data_rate_gbps=data_rate_gbps,
    )
