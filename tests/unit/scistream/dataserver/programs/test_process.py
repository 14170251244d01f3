"""One process: its descriptors, its words, its end with all that it has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scistream.dataserver.programs import process as module
from scistream.dataserver.programs.place import ThisMachine
from scistream.dataserver.programs.plan import FIRST_DESCRIPTOR
from scistream.dataserver.programs.process import ProgramProcess
from scistream.errors import DataServerError
from support.relays import descendants


@pytest.fixture(autouse=True)
def _subreaper() -> Iterator[None]:
    module.become_subreaper()
    yield
    module._libc.prctl(module._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _environment(pid: int) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "OWN_PID": str(pid)}


class Lines:
    """What a process says, as it says it."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.all.append(line)
        self._more.set()

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.all) < count:
                self._more.clear()
                await self._more.wait()
        return self.all


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_it_has_its_descriptors_in_order_and_nothing_else(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        # in an order in which one's place is another's number
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)][::-1]
        listeners[0].set_inheritable(True)
        code = (
            "import os, socket\n"
            "fds = sorted(map(int, os.listdir('/proc/self/fd')))\n"
            "for fd in range(3, 8): print(socket.socket(fileno=os.dup(fd)).getsockname()[1])\n"
            "own = os.environ['OWN_PID'] == str(os.getpid()) == str(os.getpgid(0))\n"
            "print(fds[-2], os.getcwd(), own, len(os.environ) < 5)\n"
        )
        how, lines = await ThisMachine().run_to_end(
            _python(code), _environment, tmp_path, [listener.fileno() for listener in listeners], 10, ""
        )
        assert how == "ended with code 0"
        assert lines[:5] == [str(listener.getsockname()[1]) for listener in listeners]
        assert lines[5] == f"{FIRST_DESCRIPTOR + 4} {tmp_path} True True"


async def test_all_it_says_is_heard_also_without_an_end_of_line_and_however_much(tmp_path: Path) -> None:
    code = (
        "import sys; print('x' * 10000, flush=True); print('err', file=sys.stderr, flush=True); "
        "sys.stdout.write('last')"
    )
    how, lines = await ThisMachine().run_to_end(_python(code), _environment, tmp_path, [], 10, "")
    assert how == "ended with code 0"
    assert "".join(lines).count("x") == 10000
    assert "err" in lines
    assert lines[-1] == "last"


async def test_a_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    how, lines = await ThisMachine().run_to_end(["/nowhere/program"], _environment, tmp_path, [], 10, "")
    assert how == "ended with code 127"
    assert "/nowhere/program cannot be executed" in lines[0]
    assert "No such file" in lines[0]


async def test_one_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with pytest.raises(DataServerError, match=r"does not end within 0\.2 s"):
        await ThisMachine().run_to_end(["/bin/sleep", "100"], _environment, tmp_path, [], 0.2, "")
    assert descendants() == []


@pytest.mark.parametrize("how", ["killed here", "dies by itself"])
async def test_what_it_has_started_ends_with_it(tmp_path: Path, how: str) -> None:
    lines = Lines()
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    if os.fork() == 0: print('grandchild', flush=True)\n"
        "    time.sleep(100)\n"
        "print('parent', flush=True)\n"
        "time.sleep(100)\n"
    )
    process = ProgramProcess(_python(code), _environment, tmp_path, [], lines)
    await lines.until(2)
    if how == "killed here":
        await process.kill()
    else:
        os.kill(process.pid, signal.SIGKILL)
    assert await asyncio.wait_for(process.ended, 10) == "was killed by SIGKILL"
    assert descendants() == []
    await process.kill()  # idempotent
