"""What runs in a Dask worker: one reconstruction worker as a child process, watched until it ends.

It is a Dask task, a coroutine in the Dask worker's own event loop. The child hangs on that process: when a
Dask worker is killed, the kernel ends the child too (see `ministream.pipeline.child`). When the task is
cancelled, or whoever wanted it has gone, Dask does not interrupt it; it notices itself, and ends the child.

Small reports go to the scheduler as events of a topic. Nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ministream.errors import StageError
from ministream.pipeline.child import Child, Event
from ministream.transport import LinkKey

_LOOK_S = 0.25
_REPORT_INTERVAL_S = 0.5

_running: dict[str, dict[asyncio.Event, asyncio.Event]] = {}
"""By topic: set the first, and its task ends its child, and sets the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a Dask worker is asked to do.

    Parameters
    ----------
    key : str
        Dask's name for the task.
    topic : str
        Where reports go; one for each run.
    name : str
        What users call the worker.
    arguments : tuple of str
        Behind ``ministream reconstruct --json``, but for what the host decides.
    output : str or None
        Where to write the slices; no other worker writes there.
    link_key : LinkKey or None
    environment : mapping
        More variables for the child.
    """

    key: str
    topic: str
    name: str
    arguments: tuple[str, ...]
    output: str | None
    link_key: LinkKey | None
    environment: Mapping[str, str] = field(default_factory=dict)


async def carry_out(order: Order) -> dict[str, Any]:
    """Run a reconstruction worker in this Dask worker; return how it ended.

    The result holds ``summary`` (its ``done`` event) or ``failure`` (text), ``exit_code``, and ``killed_by``
    (name of a signal).
    """
    from distributed import get_worker
    from distributed.comm.addressing import get_address_host

    dask_worker = get_worker()
    host = get_address_host(dask_worker.address)
    stop, stopped = asyncio.Event(), asyncio.Event()
    reports = _Reports(dask_worker, order)
    mine = _running.setdefault(order.topic, {})
    mine[stop] = stopped
    try:
        with _as_file(order.link_key) as (key_options, descriptors):
            child = await Child.start(
                order.name,
                [
                    *(sys.executable, "-P", "-m", "ministream", "reconstruct", "--json", *order.arguments),
                    *("--publish", f"tcp://[{host}]:0" if ":" in host else f"tcp://{host}:0"),
                    *("--threads", str(dask_worker.state.nthreads)),
                    *(() if order.output is None else ("--output", order.output)),
                    *key_options,
                ],
                on_event=reports.event,
                on_warning=reports.warning,
                environment=order.environment,
                pass_fds=descriptors,
            )
        ended = asyncio.create_task(child.finished())
        try:
            while not ended.done() and not stop.is_set():
                await asyncio.wait({ended}, timeout=_LOOK_S)
                task = dask_worker.state.tasks.get(order.key)
                if task is None or task.state == "cancelled":
                    break
            # whoever comes here before it has ended does not want it any more
            await child.stop()
            return {"summary": dict(await ended)}
        except StageError as failure:
            killed_by = None if stop.is_set() else child.killed_by
            return {
                "failure": str(failure),
                "exit_code": failure.exit_code,
                "killed_by": None if killed_by is None else killed_by.name,
            }
        finally:
            await child.stop()
            await asyncio.gather(ended, return_exceptions=True)
    finally:
        stopped.set()
        mine.pop(stop, None)


async def end_all(topic: str) -> None:
    """End the children that this Dask worker has for the run `topic`; return when they have ended."""
    mine = _running.pop(topic, {})
    for stop, ended in mine.items():
        stop.set()
        await ended.wait()


@contextlib.contextmanager
def _as_file(key: LinkKey | None) -> Iterator[tuple[list[str], list[int]]]:
    """Yield options and open file by which a child gets `key`: in memory, so that it is left nowhere."""
    if key is None:
        yield [], []
        return
    descriptor = os.memfd_create("link-key")
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, key.dump())
        yield ["--link-key", f"/proc/self/fd/{descriptor}"], [descriptor]
    finally:
        os.close(descriptor)


class _Reports:
    """Sends what the child tells to the run's topic; of its progress only some."""

    def __init__(self, dask_worker: Any, order: Order) -> None:
        self._dask_worker = dask_worker
        self._order = order
        self._progress_at = float("-inf")

    def event(self, _child: Child, event: Event) -> None:
        if event["event"] == "done":
            return  # it is the task's result
        if event["event"] == "progress":
            now_s = asyncio.get_running_loop().time()
            if now_s - self._progress_at < _REPORT_INTERVAL_S:
                return
            self._progress_at = now_s
        self._send({"event": dict(event)})

    def warning(self, _child: Child, text: str) -> None:
        self._send({"warning": text})

    def _send(self, report: dict[str, Any]) -> None:
        report |= {"key": self._order.key, "host": socket.gethostname()}
        self._dask_worker.log_event(self._order.topic, report)
