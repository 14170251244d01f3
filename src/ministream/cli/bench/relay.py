"""``ministream bench relay``: gateways under load, with a table, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ministream.cli.bench.show import Display
from ministream.cli.options import config_option, stopped_by_signals, verbose_option, version_option

if TYPE_CHECKING:
    from ministream.bench import Effort, Endpoint, PathPlan, RelayPlan

_FILE = click.Path(dir_okay=False, path_type=Path)
_STDOUT = "-"
_PARTS = ("throughput", "latency", "set-up", "memory", "crowd")
_PATH_CONNECTIONS, _PATH_SECONDS, _PATH_ROUNDS = (1, 8, 64), 2.0, 3
_FOR_RELAYS = {"only", "parts", "cores", "markdown"}
_FOR_PATHS = {"direct", "pids"}


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between, none below `least`."""

    name = "N,..."

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, (list, tuple, int)):  # from a TOML file
            value = ",".join(map(str, value if isinstance(value, (list, tuple)) else [value]))
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between, such as 1,64", param, ctx)
        if min(numbers) < self._least or len(set(numbers)) != len(numbers):
            self.fail(f"{value!r} has a number below {self._least}, or one twice", param, ctx)
        return numbers


class _Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between; of `known` ones if there are any."""

    name = "NAME,..."

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = known

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
        names = tuple(part.strip() for part in parts)
        for name in names:
            if self._known and name not in self._known:
                self.fail(f"{name!r} is none of {', '.join(self._known)}", param, ctx)
        return names


@click.command(name="relay")
@click.option("--quick", is_flag=True, help="Fewer rounds and scenarios: below 50 s.")
@click.option("--only", type=_Names(), default=(), help="Compare with these only, such as haproxy,nginx.")
@click.option(
    "--measure", "parts", type=_Names(_PARTS), default=_PARTS, help=f"Only some of {', '.join(_PARTS)}."
)
@click.option(
    "--connections",
    type=_Numbers(1),
    help="Of each throughput  [default: 1,64,512 plain and 1,8 with TLS; with --connect 1,8,64]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    help="Of each throughput  [default: 1.5; with --quick 0.25; with --connect 2, for each direction]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="Each figure is the median of so many  [default: 5; with --quick or --connect 3]",
)
@click.option("--cores", type=_Numbers(0), help="RELAY,LOAD: where they run  [default: first, last]")
@click.option("--connect", metavar="HOST:PORT", help="Measure through this listener of a session instead.")
@click.option("--direct", metavar="HOST:PORT", help="With --connect: the far end itself, to compare with.")
@click.option(
    "--pid",
    "pids",
    type=click.IntRange(min=1),
    multiple=True,
    help="With --connect: count the CPU time of this process of this host and of its children (repeatable)  "
    "[default: of those that hold the listener]",
)
@click.option("--json", "json_file", metavar="FILE", help="Write all of it; - is standard output.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw it: .png, .svg or .pdf.")
@click.option(
    "--markdown", type=_FILE, metavar="FILE", help="Write the tables between the two marks in this file anew."
)
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def relay(
    context: click.Context,
    quick: bool,
    only: tuple[str, ...],
    parts: tuple[str, ...],
    connections: tuple[int, ...] | None,
    seconds: float | None,
    rounds: int | None,
    cores: tuple[int, ...] | None,
    connect: str | None,
    direct: str | None,
    pids: tuple[int, ...],
    json_file: str | None,
    plot: Path | None,
    markdown: Path | None,
) -> None:
    """Measure gateways under load: throughput, CPU time, latency, connection set-up, memory.

    On this host: the native data server beside the direct path and beside every peer that is installed
    (haproxy, nginx, stunnel; as they come, with 256 KiB buffers, with forced splicing), plain and with TLS
    between two of them, each started for this and ended again. Relays run on one core, the load on another.
    As root it moves to a network namespace of its own, where all of them use cubic. Every figure is the
    median of interleaved rounds: look at the ratios. Nothing listens but on loopback.

    With --connect, a path through gateways that run already: to a session's listener, whose target is a
    probe end ('s2uc probe --serve'), and with --direct in turn straight to that. Messages of 64 B and 1 MiB
    are echoed when they have arrived whole; set-up is until the far end's greeting is there. CPU time is of
    this host's gateway only. Some tens of Gb/s are the limit of the load generator: look at the direct path.

    \b
    Examples:
      ministream bench relay --quick --json relay.json --plot relay.png
      ministream bench relay --only haproxy --measure throughput --connections 1,64,512
      On your gateways, with a session that is open:
        producer$ s2uc probe --serve 10.0.1.5:5001
        consumer$ ministream bench relay --connect 10.0.2.1:5100 --direct 10.0.1.5:5001

    \b
    The JSON has (figures of one scenario by contestant, units in their names):
      kind                "relays", or with --connect "path"
      figures             {scenario: {contestant: {gbps, cpu_s_per_gb, per_s, p50_us, p99_9_us, ...}}}
      ratios              ours to theirs by name, which are at the top level as well; with --connect
                          {scenario: {figure: through / direct}}
      goals               [{name, value, goal, at_least, met}], for relays
      machine, versions, measured_at, duration_s

    Exit code 3 if an option's value cannot be used, 4 if a session or a far end fails, 5 if a file cannot be
    written, 8 if a relay fails.
    """
    from ministream.bench import our_errors

    _refuse_what_does_not_fit(context, is_path=connect is not None)
    with our_errors(), ExitStack() as stack:
        finish = _check_outputs(json_file, plot, markdown)
        plan: PathPlan | RelayPlan
        if connect is not None:
            plan = _path_plan(connect, direct, connections, seconds, rounds, pids, quick=quick)
        else:
            plan = _relay_plan(only, parts, connections, seconds, rounds, cores, quick=quick)
        stack.enter_context(stopped_by_signals())
        display = stack.enter_context(Display(to_stdout=json_file != _STDOUT))
        finish(_measure(plan, display), display)


def _refuse_what_does_not_fit(context: click.Context, *, is_path: bool) -> None:
    """Complain of options that mean nothing here."""
    default = click.core.ParameterSource.DEFAULT
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) in {None, default}:
            continue
        if name in (_FOR_RELAYS if is_path else _FOR_PATHS):
            why = "measures relays of this host, not a path" if is_path else "is for a path"
            raise click.UsageError(
                f"{parameter.get_error_hint(context)} {why}; {'leave out' if is_path else 'give'} --connect",
                context,
            )


def _relay_plan(
    only: tuple[str, ...],
    parts: tuple[str, ...],
    connections: tuple[int, ...] | None,
    seconds: float | None,
    rounds: int | None,
    cores: tuple[int, ...] | None,
    *,
    quick: bool,
) -> RelayPlan:
    from ministream.bench import FULL, QUICK, Cores, Part, RelayPlan

    effort: Effort = QUICK if quick else FULL
    if connections is not None:
        spread = connections if effort.tls_all_cores else ()
        effort = replace(effort, plain=connections, tls=connections, tls_all_cores=spread)
    effort = replace(effort, bulk_s=seconds or effort.bulk_s, rounds=rounds or effort.rounds)
    return RelayPlan(effort=effort, cores=Cores.choose(cores or ()), parts=tuple(map(Part, parts)), only=only)


def _path_plan(
    connect: str,
    direct: str | None,
    connections: tuple[int, ...] | None,
    seconds: float | None,
    rounds: int | None,
    pids: tuple[int, ...],
    *,
    quick: bool,
) -> PathPlan:
    from ministream.bench import Endpoint, PathPlan

    far_end: Endpoint | None = None if direct is None else Endpoint.parse(direct)
    return PathPlan(
        connect=Endpoint.parse(connect),
        direct=far_end,
        connections=connections or (_PATH_CONNECTIONS[:2] if quick else _PATH_CONNECTIONS),
        seconds=seconds or (_PATH_SECONDS / 2 if quick else _PATH_SECONDS),
        rounds=rounds or _PATH_ROUNDS,
        pids=pids,
    )


def _measure(plan: PathPlan | RelayPlan, display: Display) -> dict[str, Any]:
    from ministream.bench import PathPlan, measure_path, measure_relays, use_cubic

    if isinstance(plan, PathPlan):
        return measure_path(plan, progress=display.progress, show=display.show)
    note = use_cubic()
    if note:
        display.note(note)
    return measure_relays(plan, progress=display.progress, show=display.show, note=note)


def _check_outputs(
    json_file: str | None, plot: Path | None, markdown: Path | None
) -> Callable[[dict[str, Any], Display], None]:
    """Refuse files that cannot be written, before minutes are spent; return what writes them."""
    from ministream.bench import check_section, replace_section
    from ministream.sinks.atomic import check_writable, replacing

    to_file = None if json_file in {None, _STDOUT} else Path(str(json_file))
    if to_file is not None:
        check_writable(to_file)
    if plot is not None:
        from ministream.sinks.chart import check_chart

        check_chart(plot)
    if markdown is not None:
        check_section(markdown)
        check_writable(markdown)

    def finish(report: dict[str, Any], display: Display) -> None:
        display.summary(report)
        text = json.dumps(report, indent=2) + "\n"
        if json_file == _STDOUT:
            click.echo(text, nl=False)
        if to_file is not None:
            with replacing(to_file) as draft:
                draft.write_text(text)
        if plot is not None:
            from ministream.cli.bench.plot import plot_report

            plot_report(plot, report)
        if markdown is not None:
            written = replace_section(check_section(markdown), report)
            with replacing(markdown) as draft:
                draft.write_text(written, encoding="utf-8")

    return finish
