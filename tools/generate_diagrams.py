"""Draw the diagrams and tables of docs/explanation/sessions.md from the table of transitions.

Run from anywhere: ``python tools/generate_diagrams.py``. What stands between ``<!-- begin NAME -->`` and
``<!-- end NAME -->`` is replaced. With ``--check`` nothing is written, and the exit status is 1 where a
document is stale. Other documents can be named as arguments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from scistream.core.events import CallAbandoned, CallEvent, Event, Request, SessionFreed
from scistream.core.session import AWAITED, BEGINNINGS, ENDS, TRANSITIONS, State

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "sessions.md"

_MARKED = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def life() -> str:
    """Return the diagram of how a session goes on, without its end."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        for state in after:
            if state is not before and not state.ended:
                edges.setdefault((before, state), []).append(event.__name__)
    begin = [f"[*] --> {state}: {Request.__name__}" for state in BEGINNINGS]
    return _diagram([*begin, *(_arrow(*edge, events) for edge, events in edges.items())])


def end() -> str:
    """Return the diagram of how a session ends, from any state."""
    arrows = []
    for state in State:
        if state.ended:
            continue
        events = [
            event.__name__
            for (before, event), after in TRANSITIONS.items()
            if before is state and State.RELEASING in after
        ]
        arrows.append(_arrow(state, State.RELEASING, events))
    ends = TRANSITIONS[State.RELEASING, SessionFreed]
    arrows += [_arrow(State.RELEASING, state, [SessionFreed.__name__]) for state in ends]
    return _diagram([*arrows, *(f"{state} --> [*]" for state in ends)])


def transitions() -> str:
    """Return the whole table: a row per event, a column per state, the states that it can lead to."""
    # the three ends are alike
    ends = [state for state in State if state in ENDS]
    columns = [state for state in State if state not in ENDS] + ends[:1]
    heads = [str(state) for state in columns[:-1]] + [", ".join(ends)]
    rows = []
    for event in sorted(_events(), key=lambda event: not _is_message(event)):
        cells = [_cell(state, TRANSITIONS.get((state, event))) for state in columns]
        rows.append([f"**{event.__name__}**" if _is_message(event) else event.__name__, *cells])
    return _table(["event", *heads], rows)


def timers() -> str:
    """Return which timers a state waits for."""
    return _table(
        ["state", "timers"], [[str(state), ", ".join(waits_for)] for state, waits_for in AWAITED.items()]
    )


PARTS: dict[str, Callable[[], str]] = {"life": life, "end": end, "transitions": transitions, "timers": timers}


def rendered(document: str) -> str:
    """Return `document` with every marked part as it has to be.

    Raises
    ------
    KeyError
        A mark names a part that there is not.
    """
    return _MARKED.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", document)


def _events() -> list[type[Event]]:
    """Return every event of the table once."""
    return list(dict.fromkeys(event for _, event in TRANSITIONS))


def _is_message(event: type[Event]) -> bool:
    return issubclass(event, CallEvent) and event is not CallAbandoned


def _cell(before: State, after: tuple[State, ...] | None) -> str:
    if after is None:
        return ""
    return " or ".join("stays" if state is before else str(state) for state in after)


def _arrow(before: State, after: State, events: Iterable[str]) -> str:
    return f"{before} --> {after}: {', '.join(events)}"


def _diagram(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Write the documents, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description="Draw the diagrams of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document is stale")
    parser.add_argument("documents", nargs="*", type=Path, default=[DOCUMENT])
    arguments = parser.parse_args()
    stale = []
    for path in arguments.documents:
        before = path.read_text(encoding="utf-8")
        after = rendered(before)
        if after != before:
            stale.append(path)
            if not arguments.check:
                path.write_text(after, encoding="utf-8")
    for path in stale:
        print(f"{path} {'is stale: run tools/generate_diagrams.py' if arguments.check else 'is written'}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
