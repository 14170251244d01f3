"""A session whose program cannot be ended as it should."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scistream.dataserver.programs.place import ThisMachine
from scistream.dataserver.programs.plan import Plan
from scistream.dataserver.programs.program import Figures, Instance, Program
from scistream.dataserver.programs.running import Environment, RunningProgram
from scistream.dataserver.programs.session import Session


class Immortal(RunningProgram):
    """A process that is there and cannot be killed."""

    def __init__(self) -> None:
        self.pid = 0
        self.ended = asyncio.get_running_loop().create_future()

    def signal(self, signum: signal.Signals) -> None:
        pass

    async def kill(self) -> None:
        raise OSError(9, "Bad file descriptor")


class PlaceOfImmortals(ThisMachine):
    def start(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
        label: str,
    ) -> RunningProgram:
        return Immortal()


class ReadyInstance(Instance):
    reloads = True

    async def ready(self) -> None:
        pass

    def on_line(self, line: str) -> str:
        return line

    async def read_figures(self) -> Figures:
        return self.last


class ReadyProgram(Program):
    name = package = "program"

    def check_version(self) -> None:
        pass

    def configuration(self, plan: Plan, folder: str) -> bytes:
        return b"a secret"

    def check_command(self, path: Path, file: str) -> list[str]:
        return []

    def command(self, path: Path, file: str) -> list[str]:
        return ["program"]

    def instance(self, plan: Plan) -> Instance:
        return ReadyInstance(plan)


def test_it_gives_up_port_and_secrets_all_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        body = {
            "key": 1,
            "uid": "a session",
            "targets": [[(int(socket.AF_INET), ("127.0.0.1", 9))]],
            "tls": None,
            "wan_leg": None,
            "rate_mbps": 0.0,
            "waits": False,
            "dials": [],
        }
        program = ReadyProgram({"workers": 1}, PlaceOfImmortals())
        session = Session(program, body, [listener], tmp_path / "1", lambda _: None, asyncio.Semaphore(1))
        await session.start()
        assert [*tmp_path.rglob("*.conf")]
        with pytest.raises(OSError, match="Bad file descriptor"):
            await session.close()
        assert [*tmp_path.iterdir()] == []
        socket.create_server(address).close()
        await session.close()

    asyncio.run(run())
