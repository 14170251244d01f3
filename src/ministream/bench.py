"""The measuring of gateways, for the command line: beside `tunnel` the only module that knows `scistream`.

`scistream.bench` measures; here its errors become ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ministream import errors
from scistream.bench import (
    FIGURES,
    FULL,
    MAX_CONNECTIONS,
    PATH,
    QUICK,
    Cores,
    Effort,
    Part,
    PathPlan,
    RelayPlan,
    Step,
    Table,
    cell,
    check_section,
    columns,
    compared,
    goal_rows,
    machine_line,
    measure_path,
    measure_relays,
    replace_section,
    table_lines,
    use_cubic,
)
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, DataServerError, InvalidArgument, PeerError, SciStreamError

__all__ = [
    "FIGURES",
    "FULL",
    "MAX_CONNECTIONS",
    "PATH",
    "QUICK",
    "Cores",
    "Effort",
    "Endpoint",
    "Part",
    "PathPlan",
    "RelayPlan",
    "Step",
    "Table",
    "cell",
    "check_section",
    "columns",
    "compared",
    "goal_rows",
    "machine_line",
    "measure_path",
    "measure_relays",
    "our_errors",
    "replace_section",
    "table_lines",
    "use_cubic",
]

_OURS: dict[type[SciStreamError], type[errors.MiniStreamError]] = {
    ConfigurationError: errors.InputError,
    InvalidArgument: errors.InputError,
    PeerError: errors.ConnectionFailed,
    DataServerError: errors.StageError,
}


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """Raise an error of `scistream` as the one of ours that means the same.

    Raises
    ------
    InputError, ConnectionFailed, StageError
        What the block raised, by whose fault it is.
    """
    try:
        yield
    except tuple(_OURS) as error:
        kind = next(_OURS[one] for one in type(error).__mro__ if one in _OURS)
        raise kind(str(error)) from error
