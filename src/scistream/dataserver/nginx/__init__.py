"""Nginx as data server: one master and its workers per session (`scistream.dataserver.programs`).

`NginxBackend` is the entry points ``nginx`` and ``nginxsubprocess`` of ``scistream.dataservers``,
`NginxContainerBackend` is ``nginxcontainer``.
"""

from scistream.dataserver.containers import ContainerBackend
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


class NginxContainerBackend(ContainerBackend):
    """The same in containers.

    Parameters
    ----------
    workers : int
        As above.
    image, engine : str or None
        As of `ContainerBackend`.
    """

    omits_close_notify = True

    def __init__(
        self, *, workers: int = 1, image: str | None = "nginx:stable", engine: str | None = None
    ) -> None:
        super().__init__("nginx", workers=workers, image=image, engine=engine)


__all__ = ["NginxBackend", "NginxContainerBackend"]
