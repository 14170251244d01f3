"""HAProxy as data server: one process per session, in TCP mode (`scistream.dataserver.programs`).

`HaproxyBackend` is the entry points ``haproxy`` and ``haproxysubprocess`` of ``scistream.dataservers``,
`HaproxyContainerBackend` is ``haproxycontainer``.
"""

from scistream.dataserver.containers import ContainerBackend
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


class HaproxyContainerBackend(ContainerBackend):
    """The same in containers.

    Parameters
    ----------
    workers : int
        As above.
    image, engine : str or None
        As of `ContainerBackend`.
    """

    def __init__(
        self, *, workers: int = 1, image: str | None = "haproxy:lts", engine: str | None = None
    ) -> None:
        super().__init__("haproxy", workers=workers, image=image, engine=engine)


__all__ = ["HaproxyBackend", "HaproxyContainerBackend"]
