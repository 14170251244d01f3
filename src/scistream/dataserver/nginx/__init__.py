"""Nginx as data server: one master and its workers per session (`scistream.dataserver.programs`).

`NginxBackend` is the entry points ``nginx`` and ``nginxsubprocess`` of ``scistream.dataservers``.
"""

from scistream.dataserver.programs.backend import ProgramBackend


class NginxBackend(ProgramBackend):
    """The nginx data server of one gateway.

    Parameters
    ----------
    workers : int
        Worker processes of each session's nginx.
    binary : str or None
        Its file; None looks for it where the system has its programs.
    """

    omits_close_notify = True  # seen with 1.22: see `program`

    def __init__(self, *, workers: int = 1, binary: str | None = None) -> None:
        super().__init__("nginx", workers=workers, binary=binary)


__all__ = ["NginxBackend"]
