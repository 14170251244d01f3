"""Loaded by the Dask workers that we start on this host, before they do anything else."""

from __future__ import annotations

import signal


def dask_setup(_worker: object) -> None:
    """Ignore SIGINT: Ctrl-C goes to all processes of a terminal, and one knows in which order to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
