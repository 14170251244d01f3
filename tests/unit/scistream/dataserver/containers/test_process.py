"""One process in a container, where the engine does what engines seldom do.

The container is a process that calls back as a container's first one does; the engine starts it.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from scistream.dataserver.containers import removal
from scistream.dataserver.containers.engine import Engine, EngineSilent, Order
from scistream.dataserver.containers.process import ContainedProcess
from scistream.dataserver.containers.removal import REMOVED_WAIT_S, Removals

FIRST = """
import json, os, socket, sys
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(sys.argv[1])
control.send(json.dumps({"pid": os.getpid()}).encode())
"""
DIES = "os._exit(0)"
ENDS = "control.recv(1 << 17); control.recv(1 << 17); os._exit(0)"
STAYS = "control.recv(1 << 17)\nwhile control.recv(1 << 17): pass"
LINGERS = "import signal; signal.pause()"
SOON_S = 5.0


class ScriptedEngine(Engine):
    """Starts a process for a container, and removes it when it is let to."""

    def __init__(self, then: str) -> None:
        super().__init__("unix:///nowhere")
        self.first: subprocess.Popen[bytes] | None = None
        self.starts, self.answers = threading.Event(), threading.Event()
        self.starts.set()
        self.removed: list[str] = []
        self.silent = False
        self._script = FIRST + then

    def start(self, order: Order) -> None:
        assert self.starts.wait(20)
        if self.silent:
            raise EngineSilent("the Docker Engine does not answer")
        self.first = subprocess.Popen([sys.executable, "-c", self._script, order.argument], cwd=order.folder)

    def is_running(self, name: str) -> bool:
        return self.first is not None and self.first.poll() is None

    def remove(self, name: str) -> bool:
        assert self.answers.wait(20)
        self.removed.append(name)
        return self.first is not None

    def end(self) -> None:
        self.starts.set()
        self.answers.set()
        if self.first is not None:
            self.first.kill()
            self.first.wait()


@pytest.fixture
def engines() -> Iterator[Callable[[str], ScriptedEngine]]:
    made: list[ScriptedEngine] = []

    def make(then: str) -> ScriptedEngine:
        made.append(ScriptedEngine(then))
        return made[-1]

    yield make
    for engine in made:
        engine.end()


def _contained(
    engine: Engine,
    folder: Path,
    environment: Callable[[int], Mapping[str, str]] = lambda _: {},
    removals: Removals | None = None,
) -> ContainedProcess:
    return ContainedProcess(
        engine,
        removals or Removals(engine),
        "an/image",
        ["program"],
        environment,
        folder,
        [],
        lambda _: None,
        label="a session",
        capabilities=(),
        max_tasks=10,
    )


async def _soon(process: ContainedProcess) -> str:
    async with asyncio.timeout(SOON_S):
        return await asyncio.shield(process.ended)


def test_a_container_that_dies_while_it_is_handed_its_program_ends_with_a_reason(
    engines: Callable[[str], ScriptedEngine], tmp_path: Path
) -> None:
    engine = engines(DIES)
    engine.answers.set()

    def environment(_pid: int) -> dict[str, str]:
        assert engine.first is not None
        engine.first.wait()  # it has gone between its word and its orders
        return {}

    async def run() -> str:
        process = _contained(engine, tmp_path, environment)
        how = await _soon(process)
        await process.kill()
        return how

    assert asyncio.run(run()) == (
        "does not start: a container of an/image is lost before its program starts: Broken pipe"
    )
    assert len(engine.removed) == 1


def test_what_has_ended_is_told_and_killed_in_vain_while_the_engine_removes_it(
    engines: Callable[[str], ScriptedEngine], tmp_path: Path
) -> None:
    """Its numbers may be another session's by then."""
    engine, other_engine = engines(ENDS), engines(STAYS)
    (tmp_path / "other").mkdir()

    async def run() -> None:
        process = _contained(engine, tmp_path)
        assert await _soon(process) == "was ended with its container"
        other = _contained(other_engine, tmp_path / "other")
        while not other.pid:
            await asyncio.sleep(0.01)
        process.signal(signal.SIGKILL)
        before_s = time.monotonic()
        await process.kill()
        assert time.monotonic() - before_s < REMOVED_WAIT_S + 1.0
        assert not other.ended.done()
        assert engine.removed == []
        other.signal(signal.SIGTERM)
        assert await _soon(other) == "was ended with its container"

    asyncio.run(run())


def test_nobody_waits_for_an_engine_that_does_not_answer(
    engines: Callable[[str], ScriptedEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it makes in spite of that is removed when it answers again."""
    monkeypatch.setattr(removal, "_RETRY_S", 0.01)
    engine = engines(STAYS)
    engine.starts.clear()
    engine.silent = True

    async def run() -> None:
        removals = Removals(engine)
        process = _contained(engine, tmp_path, removals=removals)
        await asyncio.sleep(0)
        before_s = time.monotonic()
        await process.kill()
        assert time.monotonic() - before_s < REMOVED_WAIT_S + 1.0
        assert process.ended.result() == "was ended before it had started"
        assert engine.removed == []
        engine.starts.set()
        engine.answers.set()
        async with asyncio.timeout(SOON_S):
            while len(engine.removed) < 3:
                await asyncio.sleep(0.01)
            # what it was asked for then is there now
            engine.first = subprocess.Popen(["true"])
            await removals.wait(SOON_S)

    asyncio.run(run())
    assert len(set(engine.removed)) == 1


def test_a_fault_of_ours_ends_it_too(
    engines: Callable[[str], ScriptedEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engines(LINGERS)
    engine.answers.set()

    def environment(_pid: int) -> dict[str, str]:
        raise ZeroDivisionError

    async def run() -> str:
        process = _contained(engine, tmp_path, environment)
        how = await _soon(process)
        await process.kill()
        return how

    assert asyncio.run(run()) == "was given up by a fault of ours"
    assert "ZeroDivisionError" in caplog.text
    assert engine.first is not None
    assert engine.first.wait(SOON_S) == -signal.SIGKILL
