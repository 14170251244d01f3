"""The documentation's diagrams are those of the table of transitions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scistream.core.events import Timer
from scistream.core.session import TRANSITIONS, State

TOOL = Path(__file__).resolve().parents[4] / "tools" / "generate_diagrams.py"
DOCUMENT = TOOL.parents[1] / "docs" / "explanation" / "sessions.md"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_diagrams", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date() -> None:
    checked = run("--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_stale_document_is_found_and_written_anew(tmp_path: Path) -> None:
    stale = tmp_path / "sessions.md"
    stale.write_text(DOCUMENT.read_text().replace("reserved --> announced: Hello", ""))
    checked = run("--check", str(stale))
    assert checked.returncode == 1
    assert "is stale" in checked.stdout
    assert run(str(stale)).returncode == 0
    assert stale.read_text() == DOCUMENT.read_text()


def test_every_transition_to_another_state_is_drawn(tool: ModuleType) -> None:
    drawn = (tool.life() + tool.end()).splitlines()
    for (before, event), after in TRANSITIONS.items():
        for state in set(after) - {before}:
            (line,) = [line for line in drawn if line.strip().startswith(f"{before} --> {state}:")]
            assert event.__name__ in line.replace(",", "").split()


def test_every_state_and_every_timer_is_explained() -> None:
    document = DOCUMENT.read_text()
    explained = document[: document.index("## Every event in every state")]
    assert all(f"| {state}" in explained or f", {state}" in explained for state in State)
    assert all(f"**{timer}" in explained or f", {timer}**" in explained for timer in explained_timers())


def explained_timers() -> set[Timer]:
    # a hello that waits for its REQ is explained with the messages
    return set(Timer) - {Timer.EARLY_HELLO}


def test_a_mark_that_names_no_part_is_an_error(tool: ModuleType) -> None:
    with pytest.raises(KeyError, match="nothing"):
        tool.rendered("<!-- begin nothing -->\n<!-- end nothing -->")
