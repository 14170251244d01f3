"""A data server that runs a program per session, as control servers see it: the settings of its tree."""

from __future__ import annotations

from scistream.dataserver.tree.backend import TreeBackend
from scistream.errors import ConfigurationError


class ProgramBackend(TreeBackend):
    """The data server of that kind of one gateway.

    Parameters
    ----------
    kind : str
        Name of the program and of its package here.
    workers : int
        Threads or processes that one session's program may use.
    binary : str or None
        The program's file; None looks for it where the system has its programs.

    Raises
    ------
    ConfigurationError
        `workers` is less than 1.
    """

    def __init__(self, kind: str, *, workers: int = 1, binary: str | None = None) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}: at least one is needed")
        super().__init__(kind, f"scistream.dataserver.{kind}", {"workers": workers, "binary": binary})
