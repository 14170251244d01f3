"""stunnel as data server: one process per session, encrypted sessions only (`scistream.dataserver.programs`).

`StunnelBackend` is the entry points ``stunnel`` and ``stunnelsubprocess`` of ``scistream.dataservers``.
"""

from scistream.dataserver.programs.backend import ProgramBackend


class StunnelBackend(ProgramBackend):
    """The stunnel data server of one gateway.

    Parameters
    ----------
    workers : int
        Of no effect: stunnel has a thread per connection.
    binary : str or None
        Its file; None looks for it where the system has its programs.
    """

    def __init__(self, *, workers: int = 1, binary: str | None = None) -> None:
        super().__init__("stunnel", workers=workers, binary=binary)


__all__ = ["StunnelBackend"]
