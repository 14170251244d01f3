"""A data server that runs a program per session in containers, as control servers see it."""

from __future__ import annotations

import os
from pathlib import Path

from scistream.dataserver.tree.backend import TreeBackend
from scistream.errors import ConfigurationError

DEFAULT_ENGINE = "unix:///var/run/docker.sock"


class ContainerBackend(TreeBackend):
    """The data server of that kind of one gateway.

    Parameters
    ----------
    program : str
        Name of the program and of its package here.
    workers : int
        Threads or processes that one session's program may use.
    image : str or None
        The image that has the program; it is never pulled by itself.
    engine : str or None
        ``unix://`` and the path of the Docker Engine's socket; None: ``DOCKER_HOST``, or where it usually is.

    Raises
    ------
    ConfigurationError
        `workers` is less than 1, there is no image, or the engine is another machine's.
    """

    def __init__(
        self, program: str, *, workers: int = 1, image: str | None = None, engine: str | None = None
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers is {workers}: at least one is needed")
        if not image:
            raise ConfigurationError(
                f"there is no image of {program} that everybody uses; give one by --container-image"
            )
        url = engine or os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
        if "://" not in url:
            url = f"unix://{Path(url).absolute()}"
        if not url.startswith("unix:///"):
            raise ConfigurationError(
                f"the Docker Engine {url} is not this machine's, so that its containers cannot forward for "
                "this gateway; give the path of its socket by --container-engine"
            )
        super().__init__(
            f"{program}container",
            f"scistream.dataserver.{program}.container",
            {"workers": workers, "image": image, "engine": url},
        )
