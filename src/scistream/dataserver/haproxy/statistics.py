"""What haproxy answers on its statistics socket (HAProxy's management guide, "Statistics and monitoring")."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scistream.errors import DataServerError

FIGURES_COMMAND = "show stat -1 1 -1"
"""Of all proxies the frontends; as CSV, which has a fourth of the typed form's bytes."""
STATE_COMMAND = "show info"

_NAME = "# pxname"
_COLUMNS = "scur", "conn_tot", "bin", "bout"


def read_figures(answer: str, names: Mapping[str, int]) -> list[list[int]]:
    """Return, of each frontend in `names`, at its place: open, all, bytes to and from the target.

    Raises
    ------
    DataServerError
        A frontend or column is missing.
    """
    found: dict[int, list[int]] = {}
    for row in csv.DictReader(answer.strip().splitlines()):
        index = names.get(row.get(_NAME) or "")
        if index is not None:
            try:
                found[index] = [int(row[column]) for column in _COLUMNS]
            except (KeyError, TypeError, ValueError) as error:
                raise DataServerError(
                    f"haproxy's statistics of {row[_NAME]} cannot be read: {error!r}"
                ) from error
    if len(found) != len(names):
        raise DataServerError(f"haproxy tells statistics of {len(found)} channels instead of {len(names)}")
    return [found[index] for index in range(len(names))]


@dataclass(frozen=True, slots=True)
class Failure:
    """A connection that has ended without being forwarded."""

    name: str
    reason: str
    unforwarded_bytes: int = 0


#: Letters of a termination state, and how many bytes came from the client.
_ENDED = re.compile(r"(\S+) (\S)(\S) (\d+)")
#: By whom a connection was ended that has no target yet.
_REASONS = {
    "C": "its client has gone",
    "c": "its client is silent",
    "S": "the target refuses",
    "s": "the target is silent",
}
#: States of a connection that had one.
_FORWARDED = "DL"


def read_failure(line: str) -> Failure | None:
    """Return what a line of the log, without its mark, says of a connection; None if that was forwarded."""
    ended = _ENDED.fullmatch(line.strip())
    if ended is None:
        name, _, reason = line.strip().partition(" ")
        return Failure(name, reason)
    name, by, state, count = ended.groups()
    if state in _FORWARDED:
        return None
    return Failure(name, _REASONS.get(by, f"{by}{state}"), int(count))


def is_stopping(answer: str) -> bool:
    """Return whether it accepts no more, by its answer to `STATE_COMMAND`."""
    return "\nStopping: 1" in answer
