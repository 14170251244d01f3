"""Fixtures for whole programs of ministream."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from support.gateways import gateways, profiles
from support.processes import MarkedProcesses

__all__ = ["gateways", "processes", "profiles"]


@pytest.fixture
def processes() -> Iterator[MarkedProcesses]:
    marked = MarkedProcesses()
    yield marked
    for process in marked.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    left = marked.alive()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)
    assert not left, f"left behind: {left}"
