"""What every test may ask for, and what every test must leave behind: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.container_engine import container_engine as container_engine  # noqa: PLC0414 - a fixture

pytest_plugins = ["support.attacks"]

REQUIRE_PEERS = os.environ.get("MINISTREAM_REQUIRE_PEERS") == "1"


COMPILE = """
from ministream import algorithms
from ministream.kernels import zingers
from ministream.stages import calibration

algorithms.warm_up()
calibration.warm_up(center=True, stripes=True)
zingers.warm_up()
"""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile the kernels once, if they are not: whole programs would be waited for in vain meanwhile."""
    wanted = any("system/ministream" in item.path.as_posix() for item in session.items)
    if wanted and not session.config.option.collectonly:
        subprocess.run([sys.executable, "-P", "-c", COMPILE], check=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose peer program is missing; fail it where peers are required."""
    for marker in item.iter_markers("peer"):
        for program in marker.args:
            if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
                complain = pytest.fail if REQUIRE_PEERS else pytest.skip
                complain(f"{program} is not installed")


@pytest.fixture
def shared_data() -> Path:
    """Folder of real scans beside the checkout; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real scans beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def _no_process_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process behind, and end that process."""
    if any("dockerd" in marker.args for marker in request.node.iter_markers("peer")):
        request.getfixturevalue("container_engine")  # which stays, for all tests that want one
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    # a child that has just been reaped by its parent may still be listed: give the kernel a moment
    _, left = psutil.wait_procs(left, timeout=2)
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=2)
    if left:
        pytest.fail(f"processes left behind: {left}")
