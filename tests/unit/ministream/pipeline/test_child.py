"""A child process of the pipeline: its events, its failures, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import psutil
import pytest

from ministream.errors import StageError
from ministream.pipeline.child import Child, Event

EVENT = "import json,sys\ndef tell(**e): print(json.dumps(e), flush=True)\n"


async def start(program: str, seen: list[Event] | None = None) -> Child:
    def on_event(_: Child, event: Event) -> None:
        if seen is not None:
            seen.append(event)

    return await Child.start("stage", [sys.executable, "-c", EVENT + program], on_event=on_event)


async def test_events_arrive_in_order_and_the_summary_is_kept() -> None:
    seen: list[Event] = []
    child = await start(
        "tell(event='ready', address='a')\n"
        "for i in range(3): tell(event='progress', n=i)\n"
        "tell(event='done', n=3)",
        seen,
    )
    assert (await child.ready(10))["address"] == "a"
    assert await child.finished() == {"event": "done", "n": 3}
    await child.stop()
    assert [event.get("n") for event in seen] == [None, 0, 1, 2, 3]


async def test_a_failure_is_told_in_the_words_of_the_stage() -> None:
    child = await start("tell(event='error', message='theta has 3 values', exit_code=3)\nsys.exit(3)")
    with pytest.raises(StageError, match="stage: theta has 3 values") as failure:
        await child.finished()
    assert failure.value.exit_code == 3
    with pytest.raises(StageError, match="theta has 3 values"):
        await child.ready(10)
    await child.stop()


async def test_death_without_a_word_gives_the_last_lines_and_how_it_ended() -> None:
    child = await start(
        "print('half a sentence', file=sys.stderr, flush=True)\nimport os; os.kill(os.getpid(), 9)"
    )
    with pytest.raises(StageError, match="SIGKILL: half a sentence") as failure:
        await child.finished()
    assert failure.value.exit_code is None
    await child.stop()


async def test_success_without_a_summary_is_a_failure() -> None:
    child = await start("tell(event='ready')")
    with pytest.raises(StageError, match="exit code 0"):
        await child.finished()
    await child.stop()


async def test_lines_that_are_no_events_do_no_harm() -> None:
    child = await start("print('hello'); print('[1]'); print('{\"a\":1}'); tell(event='done')")
    assert (await child.finished())["event"] == "done"
    await child.stop()


async def test_not_ready_in_time_is_an_error() -> None:
    child = await start("import signal; signal.pause()")
    with pytest.raises(StageError, match=r"not ready after 0\.2 s"):
        await child.ready(0.2)
    await child.stop()


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StageError, match="cannot execute /nonexistent"):
        await Child.start("stage", ["/nonexistent"], on_event=lambda *_: None)


async def test_stop_ends_a_child_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ministream.pipeline.child._STOP_TIMEOUT_S", 0.3)
    child = await start(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); tell(event='ready')\n"
        "while True: signal.pause()"
    )
    await child.ready(10)
    await child.stop()
    await child.stop()
    assert not psutil.pid_exists(child.pid)


async def test_the_child_ends_when_its_parent_is_killed() -> None:
    parent: list[Any] = [
        sys.executable,
        "-c",
        """
import asyncio, sys
from ministream.pipeline.child import Child
async def main():
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    child = await Child.start("c", command, on_event=lambda *_: None)
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
""",
    ]
    process = await asyncio.create_subprocess_exec(*parent, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    child = psutil.Process(int(await process.stdout.readline()))
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    # its new parent may not reap it: dead is dead, whether or not it is a zombie
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert gone or all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
