"""The native data server of one gateway, as control servers see it: the settings of its tree of processes."""

from __future__ import annotations

import os

from scistream.dataserver.tree.backend import TreeBackend
from scistream.errors import ConfigurationError


class NativeBackend(TreeBackend):
    """The native data server of one gateway.

    Parameters
    ----------
    workers : int, optional
        Worker processes; one per core that this process may use if not given.
    congestion_lan : str or None
        TCP congestion control of plain legs. Cubic, as BBR's pacing halves the speed of short paths.
    congestion_wan : str or None
        The same for encrypted legs; None leaves the kernel's default.
    tls_engine : str or None
        ``"openssl"`` or ``"stdlib"``; None takes the first that works.

    Raises
    ------
    ConfigurationError
        `workers` is less than 1.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        congestion_lan: str | None = "cubic",
        congestion_wan: str | None = None,
        tls_engine: str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigurationError(f"workers is {workers}: at least one is needed")
        super().__init__(
            "native",
            "scistream.dataserver.native",
            {
                "workers": workers or len(os.sched_getaffinity(0)),
                "congestion_lan": congestion_lan,
                "congestion_wan": congestion_wan,
                "tls_engine": tls_engine,
            },
        )
