"""HAProxy as data server: one process per session, in TCP mode (`scistream.dataserver.programs`).

`HaproxyBackend` is the entry points ``haproxy`` and ``haproxysubprocess`` of ``scistream.dataservers``.
"""

from scistream.dataserver.programs.backend import ProgramBackend


class HaproxyBackend(ProgramBackend):
    """The haproxy data server of one gateway.

    Parameters
    ----------
    workers : int
        Threads of each session's haproxy.
    binary : str or None
        Its file; None looks for it where the system has its programs.
    """

    def __init__(self, *, workers: int = 1, binary: str | None = None) -> None:
        super().__init__("haproxy", workers=workers, binary=binary)


__all__ = ["HaproxyBackend"]
