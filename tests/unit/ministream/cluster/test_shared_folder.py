"""The folder of a run on a cluster: private, and gone afterwards, also after a kill."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ministream.cluster.shared_folder import shared_folder
from ministream.errors import OutputError


def folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


async def test_it_is_private_and_goes_with_what_is_in_it(tmp_path: Path) -> None:
    async with shared_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "key").write_text("secret")
    assert folders(tmp_path) == []


async def test_what_jobs_still_write_does_not_keep_it(tmp_path: Path) -> None:
    async with shared_folder(tmp_path) as folder:

        async def write() -> None:
            for number in range(1000):
                try:
                    (folder / f"log-{number}").touch()
                except FileNotFoundError:
                    return
                await asyncio.sleep(0)

        job = asyncio.create_task(write())
        await asyncio.sleep(0)
    await job
    assert folders(tmp_path) == []


async def test_those_of_killed_commands_on_this_host_are_removed_and_no_others(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    stale = tmp_path / f".ministream-cluster-{host}-{ended.pid}-abc"
    others = [
        tmp_path / f".ministream-cluster-{host}-{os.getpid()}-abc",
        tmp_path / f".ministream-cluster-elsewhere-{ended.pid}-abc",
        tmp_path / "results",
    ]
    for path in (stale, *others):
        path.mkdir()
        (path / "key").write_text("secret")
    async with shared_folder(tmp_path):
        assert not stale.exists()
    assert folders(tmp_path) == sorted(path.name for path in others)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*missing: No such file"):
        async with shared_folder(tmp_path / "missing"):
            pass
