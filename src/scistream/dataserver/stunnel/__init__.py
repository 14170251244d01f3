"""stunnel as data server: one process per session, encrypted sessions only (`scistream.dataserver.programs`).

`StunnelBackend` is the entry points ``stunnel`` and ``stunnelsubprocess`` of ``scistream.dataservers``,
`StunnelContainerBackend` is ``stunnelcontainer``.
"""

from scistream.dataserver.containers import ContainerBackend
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

    forwards_plain = False

    def __init__(self, *, workers: int = 1, binary: str | None = None) -> None:
        super().__init__("stunnel", workers=workers, binary=binary)


class StunnelContainerBackend(ContainerBackend):
    """The same in containers.

    Parameters
    ----------
    workers : int
        As above.
    image, engine : str or None
        As of `ContainerBackend`.
    """

    forwards_plain = False

    def __init__(self, *, workers: int = 1, image: str | None = None, engine: str | None = None) -> None:
        super().__init__("stunnel", workers=workers, image=image, engine=engine)


__all__ = ["StunnelBackend", "StunnelContainerBackend"]
