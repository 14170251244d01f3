"""A supervised command: its group, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from scistream.cli.child import Child, ReceivedSignals
from scistream.cli.running import StoppedBySignal
from scistream.errors import ConfigurationError

ENVIRONMENT = dict(os.environ)


async def line_in(path: Path) -> str:
    """What a command has written, once it has."""
    async with asyncio.timeout(20):
        while not path.exists() or not (text := path.read_text()).endswith("\n"):
            await asyncio.sleep(0.01)  # the interval of a poll
    return text.strip()


async def shell(script: str) -> Child:
    return await Child.start(["sh", "-c", script], ENVIRONMENT)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
async def test_its_exit_code_is_returned(script: str, code: int) -> None:
    with ReceivedSignals() as signals:
        assert await (await shell(script)).finish(signals, 5) == code


async def test_what_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "not-executable"
    file.write_text("x")
    for command in ("/no/such/program", str(file), "with\0zero"):
        with pytest.raises(ConfigurationError, match="cannot be started"):
            await Child.start([command], ENVIRONMENT)


async def test_every_signal_is_passed_on(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    script = (
        "import signal, sys, time\n"
        "def note(n, _):\n  open(sys.argv[1], 'a').write(f'{n}\\n')\n  n == 15 and sys.exit(4)\n"
        "for n in (1, 2, 15): signal.signal(n, note)\n"
        "open(sys.argv[1], 'a').write('up\\n')\n"
        "while True: time.sleep(60)"
    )
    with ReceivedSignals() as signals:
        child = await Child.start([sys.executable, "-c", script, str(noted)], ENVIRONMENT)
        ending = asyncio.ensure_future(child.finish(signals, 20))
        for signum, before in ((signal.SIGHUP, "up"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")):
            async with asyncio.timeout(20):
                while (await line_in(noted)).split()[-1] != before:
                    await asyncio.sleep(0.01)
            os.kill(os.getpid(), signum)
        assert await ending == 4
    assert noted.read_text().split() == ["up", "1", "2", "15"]


async def test_what_heeds_no_signal_is_killed(tmp_path: Path) -> None:
    with ReceivedSignals() as signals:
        child = await shell(f"trap '' TERM; echo up > {tmp_path}/up; while :; do sleep 60; done")
        await line_in(tmp_path / "up")
        ending = asyncio.ensure_future(child.finish(signals, 0.2))
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(ending, 20) == 137


async def test_its_end_is_that_of_all_it_has_started(tmp_path: Path) -> None:
    with ReceivedSignals() as signals:
        child = await shell(
            f"(trap '' TERM; echo up > {tmp_path}/up; sleep 600; sleep 600) & echo $! > {tmp_path}/pid"
        )
        await line_in(tmp_path / "up")
        left = psutil.Process(int(await line_in(tmp_path / "pid")))
        assert await child.finish(signals, 0.3) == 0
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [left], timeout=10)
    assert gone or left.status() == psutil.STATUS_ZOMBIE


async def test_a_wait_that_is_cancelled_ends_it(tmp_path: Path) -> None:
    with ReceivedSignals() as signals:
        child = await shell(f"echo up > {tmp_path}/up; exec sleep 600")
        await line_in(tmp_path / "up")
        ending = asyncio.ensure_future(child.finish(signals, 5))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ending, 0.1)
        assert not psutil.pid_exists(child.pid)


async def test_a_signal_ends_other_work() -> None:
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with ReceivedSignals() as signals:
        with pytest.raises(StoppedBySignal) as stopped:
            await signals.unless_received(work())
        assert (stopped.value.signum, cleaned) == (signal.SIGINT, [True])
        assert await signals.unless_received(asyncio.sleep(0, "done")) == "done"
