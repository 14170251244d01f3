"""A TCP relay that delays what passes, as a long path does: any rate, a fixed time in each direction.

It can also lose its connections (`cut`), and stop carrying while it keeps and accepts them (`pause`), as a
path does whose middle is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from urllib.parse import urlsplit


class DelayRelay:
    """Accepts at `address` and connects to `target`; a context manager that runs in a thread of its own.

    Parameters
    ----------
    target : str or None
        ``tcp://HOST:PORT``; None accepts and says nothing. It may be set later.
    delay_s : float
        One way.
    hang_up : bool
        Close what was accepted if there is no target, as relays do whose far end is not there.
    """

    def __init__(self, target: str | None, *, delay_s: float = 0.0, hang_up: bool = False) -> None:
        self.target = target
        self.delay_s = delay_s
        self.hang_up = hang_up
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay")
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> DelayRelay:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def cut(self) -> None:
        """Close every connection."""
        self._call(lambda: [task.cancel() for task in self._tasks])

    def pause(self) -> None:
        """Carry nothing, and connect to nobody, until `resume`; tell nobody."""
        self._call(self._carrying.clear)

    def resume(self) -> None:
        """Carry on: what was held back comes as if nothing had been."""
        self._call(self._carrying.set)

    def _call(self, work: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._carrying = asyncio.Event()
        self._carrying.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # a stream's task that is cancelled would be reported as an error
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._forward(reader, writer)
        self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            if self.target is None:
                if not self.hang_up:
                    await asyncio.Event().wait()
                return
            await self._carrying.wait()
            parts = urlsplit(self.target)
            far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
            writers.append(far_writer)
            legs = [
                asyncio.ensure_future(self._leg(reader, far_writer)),
                asyncio.ensure_future(self._leg(far_reader, writer)),
            ]
            try:
                await asyncio.wait(legs, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for leg in legs:
                    leg.cancel()
                await asyncio.gather(*legs, return_exceptions=True)
        finally:
            for open_ in writers:
                open_.transport.abort()

    async def _leg(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._carrying.wait()
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            while piece := await reader.read(1 << 16):
                pieces.put_nowait((loop.time() + self.delay_s, piece))
                await self._carrying.wait()
            pieces.put_nowait((loop.time() + self.delay_s, b""))
            await delivery
        finally:
            delivery.cancel()
