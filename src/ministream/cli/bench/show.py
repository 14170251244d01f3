"""What ``ministream bench`` shows: tables (rich on a terminal, else plain), progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from ministream.bench import PATH, cell, columns, compared, goal_rows, machine_line, table_lines

if TYPE_CHECKING:
    from ministream.bench import Step, Table

_CLEAR = "\r\x1b[K"


class Display:
    """Shows tables as they come, and between them on a terminal one line that says what is measured.

    Nothing runs beside the measurement: it draws when it is called.

    Parameters
    ----------
    to_stdout : bool
        False: standard output is for something else, so no tables.
    """

    def __init__(self, *, to_stdout: bool) -> None:
        self._to_stdout = to_stdout
        self._rich = to_stdout and sys.stdout.isatty()
        self._live = sys.stderr.isatty()
        self._scenario = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def progress(self, step: Step) -> None:
        """Say what is measured now: a line on a terminal; elsewhere one for each scenario."""
        if self._live:
            share = f"{step.done + 1} of {step.total}"
            click.echo(f"{_CLEAR}{share}  {step.scenario}: {step.contestant} …", nl=False, err=True)
        elif step.scenario != self._scenario:
            click.echo(f"{step.done} of {step.total} done; {step.scenario} ...", err=True)
        self._scenario = step.scenario

    def note(self, text: str) -> None:
        """Say what to know about the figures."""
        click.echo(f"note: {text}", err=True)

    def show(self, title: str, table: Table) -> None:
        """Show one scenario."""
        self._clear()
        if self._rich:
            shown = list(columns(table))
            head = ["", *(text for _, label, over in shown for text in (label, over) if text)]
            rows = [[contestant, *_cells(table, contestant, shown)] for contestant in table]
            _print_rich(title, head, rows)
        elif self._to_stdout:
            click.echo("\n".join([*table_lines(title, table), ""]))
            sys.stdout.flush()

    def summary(self, report: Mapping[str, Any]) -> None:
        """Show what it all comes to."""
        self._clear()
        if not self._to_stdout:
            return
        if goals := goal_rows(report):
            head = ["ours to theirs, or bytes", "", "goal", ""]
            if self._rich:
                _print_rich("goals", head, goals)
            else:
                click.echo("goals (ours to theirs, or bytes)")
                for name, value, goal, verdict in goals:
                    click.echo(f"  {name:42}{value:>10}{goal:>10}  {verdict}")
                click.echo()
        if report["kind"] == PATH:
            processes = ", ".join(f"{one['pid']} ({one['command']})" for one in report["cpu_of"])
            click.echo(f"CPU time: {processes or 'of no process: none of this host holds the listener'}")
        click.echo(machine_line(report))

    def _clear(self) -> None:
        if self._live and self._scenario:
            click.echo(_CLEAR, nl=False, err=True)


def _cells(table: Table, contestant: str, shown: Sequence[tuple[str, str, str | None]]) -> Iterable[str]:
    for name, _, over in shown:
        yield cell(table[contestant].get(name))
        if over:
            value = compared(table, contestant, name)
            yield "-" if value is None else f"{value:.2f}"


def _print_rich(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(title=title, title_justify="left")
    for index, text in enumerate(head):
        drawn.add_column(text, justify="right" if index else "left")
    for row in rows:
        colour = {"met": "green", "falls short": "red"}.get(row[-1])
        drawn.add_row(*row, style=colour)
    Console().print(drawn)
