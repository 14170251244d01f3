"""The table of docs/security.md, made by a run of the tests that are marked as attacks.

``@pytest.mark.attack("stolen token", authenticator="globus")`` says what a test tries; both texts may name
the test's parameters in braces. Without an authenticator it is the same with each. ``--attack-table FILE``
writes the table between ``<!-- begin attacks -->`` and ``<!-- end attacks -->`` in FILE. What was skipped in
that run is shown as such, and what was left out is not in it: run all of them by ``make attacks``.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ANY = "any"
_MARKED = re.compile(r"(<!-- begin attacks -->\n).*?(<!-- end attacks -->)", re.DOTALL)
#: What is shown of several tests of one attack: the worst.
_WORST_FIRST = ("FAILED", "not run")


@dataclass(eq=False)
class AttackTable:
    """What came of each attack, by authenticator."""

    results: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, None]:
        """Note what came of a test."""
        outcome = yield
        report = outcome.get_result()
        parameters = getattr(item, "callspec", None)
        values = {name: str(value) for name, value in parameters.params.items()} if parameters else {}
        for marker in item.iter_markers("attack"):
            what = marker.args[0].format(**values)
            authenticator = str(marker.kwargs.get("authenticator", ANY)).format(**values)
            if report.skipped:
                result = "not run"
            elif report.failed:
                result = "FAILED"
            elif report.when == "call":
                result = str(marker.kwargs.get("result", "refused"))
            else:
                continue
            self.results.setdefault((what, authenticator), []).append(result)

    def rows(self) -> Iterable[str]:
        """Return the table's lines."""
        named = sorted({authenticator for _, authenticator in self.results} - {ANY})
        columns = [*named, ANY]
        yield f"| attack | {' | '.join(named)}{' | ' if named else ''}whichever |"
        yield f"|---|{'---|' * len(columns)}"
        for what in sorted({what for what, _ in self.results}):
            cells = [self._cell(what, column) for column in columns]
            yield f"| {what} | {' | '.join(cells)} |"

    def _cell(self, what: str, authenticator: str) -> str:
        results = self.results.get((what, authenticator), [])
        worst = next((one for one in _WORST_FIRST if one in results), None)
        return worst or ", ".join(sorted(set(results)))

    def write(self, path: Path) -> None:
        """Put the table into the document.

        Raises
        ------
        ValueError
            It has no place for it.
        """
        text = path.read_text(encoding="utf-8")
        lines = "".join(f"{line}\n" for line in self.rows())
        replaced, found = _MARKED.subn(lambda match: f"{match[1]}{lines}{match[2]}", text)
        if not found:
            raise ValueError(f"{path} has no <!-- begin attacks --> … <!-- end attacks -->")
        path.write_text(replaced, encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--attack-table``."""
    parser.addoption(
        "--attack-table", type=Path, metavar="FILE", help="write what came of the attacks into FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to note, if that is wanted."""
    if config.getoption("--attack-table"):
        config.pluginmanager.register(AttackTable(), "attack-table")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table."""
    path = session.config.getoption("--attack-table")
    table = session.config.pluginmanager.get_plugin("attack-table")
    if path and isinstance(table, AttackTable):
        table.write(path)
