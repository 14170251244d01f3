"""The load on control servers: many sessions at once, by gRPC's own stubs, in a process of its own.

The benchmark starts this file as a program, writes one JSON object per line to it (first the settings, then
commands), and reads one per line as the answer. It ends with its standard input. Tokens come this way and not
by the argument list.

Times are from just before a call is made until its answer is there, in this process: with hundreds of calls
at once this includes how long the other calls kept this process busy. `busy_s`, its CPU time, says how much
that is.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

_CALL_LIMIT_S = 120.0
#: What is sent end to end: the session's uid.
UID_BYTES = 36

Answer = dict[str, Any]


class Load:
    """The load generator as the benchmark sees it; a context manager.

    Parameters
    ----------
    settings : dict
        As `Site.settings` returns them.
    core : int or None
        Where it runs; None: anywhere.
    """

    def __init__(self, settings: Answer, core: int | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=pinned(None if core is None else {core}),  # noqa: PLW1509 - one thread
            text=True,
        )
        self._write(settings)

    def do(self, command: str, **parameters: Any) -> Answer:
        """Have `command` (a method of `Generator`) carried out; return its answer.

        Raises
        ------
        RuntimeError
            The process has ended.
        """
        self._write({"command": command, **parameters})
        return self._read()

    def __enter__(self) -> Load:
        """Return the load itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def _write(self, content: Answer) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(content) + "\n")
        self._process.stdin.flush()

    def _read(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator has ended; its complaint is above")
        answer: Answer = json.loads(line)
        return answer


def pinned(cores: set[int] | None) -> Callable[[], None]:
    """Return what a new process has to do in order to run on `cores`; None: anywhere."""

    def pin() -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return pin


# --- in the load generator's process -----------------------------------------------------------------------


class Caller:
    """One user's connection to one control server."""

    def __init__(self, address: str, certificate: bytes, token: str) -> None:
        import grpc

        from scistream.wire.scistream_pb2_grpc import ControlStub

        # without the first option all clients of this process would share one connection per server
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        credentials = grpc.ssl_channel_credentials(certificate)
        self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._stub: Any = ControlStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._metadata = (("authorization", token),)

    async def call(self, method: str, message: Any) -> Any:
        """Make one call."""
        return await getattr(self._stub, method)(message, timeout=_CALL_LIMIT_S, metadata=self._metadata)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


@dataclass
class Waiting:
    """One of many sessions, and the REQ that is waiting: when it was answered, and with what."""

    uid: str
    caller: Caller
    request: asyncio.Task[tuple[float, Any]]
    listeners: list[str] = field(default_factory=list)


class Generator:
    """Carries the commands out.

    Parameters
    ----------
    settings : dict
        As `Site.settings` returns them.
    """

    def __init__(self, settings: Answer) -> None:
        from scistream.wire import scistream_pb2

        self._pb: Any = scistream_pb2
        self._gateways: list[str] = settings["gateways"]
        self._certificate: bytes = settings["certificate"].encode()
        self._tokens: list[str] = settings["tokens"]
        self._callers: list[Caller] = []
        self._sessions: list[Waiting] = []
        self._streams: list[tuple[str, list[Caller]]] = []

    # --- many that wait, on the first gateway --------------------------------------------------------------

    async def connect(self, connections: int) -> Answer:
        """Open `connections` to the gateway, the users' in turn."""
        tokens = itertools.islice(itertools.cycle(self._tokens), connections)
        self._callers = [Caller(self._gateways[0], self._certificate, token) for token in tokens]
        return await _all(caller.call("status", self._pb.StatusRequest()) for caller in self._callers)

    async def ask(self, count: int) -> Answer:
        """Send `count` REQs at once; they will wait for HELLO."""
        self._sessions = []
        for caller in itertools.islice(itertools.cycle(self._callers), count):
            uid = str(uuid.uuid4())
            message = self._pb.Request(uid=uid, role="PROD", num_conn=1)
            request = asyncio.create_task(_moment(caller.call("req", message)))
            self._sessions.append(Waiting(uid, caller, request))
        return {}

    async def count(self) -> Answer:
        """Return how many of our sessions the gateway shows in each state."""
        ours = {session.uid for session in self._sessions}
        users = self._callers[: len(self._tokens)]
        replies = await asyncio.gather(*(user.call("status", self._pb.StatusRequest()) for user in users))
        return dict(Counter(one.state for reply in replies for one in reply.sessions if one.uid in ours))

    async def hello(self) -> Answer:
        """Say HELLO for all of them at once; times until HELLO's answer, and until REQ's."""
        completed: list[float] = []

        async def one(session: Waiting) -> None:
            message = self._pb.Hello(uid=session.uid, role="PROD", prod_listeners=["127.0.0.1:9"])
            began = time.perf_counter()
            answer = await session.caller.call("hello", message)
            session.listeners = list(answer.listeners)
            answered, _ = await session.request
            completed.append(answered - began)

        found = await _all(one(session) for session in self._sessions)
        ports = [int(address.rpartition(":")[2]) for one in self._sessions for address in one.listeners]
        return {**found, "request_s": completed, "ports": ports}

    async def update(self) -> Answer:
        """Connect all of them at once, each with the certificate of another one as its peer's."""
        replies = [session.request.result()[1] for session in self._sessions]
        peers = [reply.certificate for reply in replies[1:] + replies[:1]]

        def message(session: Waiting, peer: bytes) -> Any:
            return self._pb.UpdateTargets(
                uid=session.uid, role="PROD", remote_listeners=["127.0.0.1:9"], peer_certificate=peer
            )

        return await _all(
            session.caller.call("update", message(session, peer))
            for session, peer in zip(self._sessions, peers, strict=True)
        )

    async def release(self) -> Answer:
        """Release all of them at once."""
        return await _all(
            session.caller.call("release", self._pb.Release(uid=session.uid)) for session in self._sessions
        )

    # --- complete set-ups, through the first two gateways ------------------------------------------------

    async def open_streams(self, targets: list[str]) -> Answer:
        """Open a session to each of `targets`; return the ports that its consumer connects to."""
        ports = []
        for target in targets:
            callers = self._pair(self._tokens[0])
            uid = str(uuid.uuid4())
            ports.append(await self._set_up(uid, callers, target))
            self._streams.append((uid, callers))
        return {"ports": ports}

    async def close_streams(self) -> Answer:
        """Release what `open_streams` has opened."""
        for uid, callers in self._streams:
            await self._release(uid, callers)
        self._streams = []
        return {}

    async def set_up(self, count: int, clients: int, targets: list[str]) -> Answer:
        """Make `count` set-ups by `clients` at once, each with new connections, until the first byte.

        Each client has a target of its own, `targets[client]`, which answers with its number: a session that
        leads to another user's application fails.
        """
        setups: list[float] = []
        releases: list[float] = []
        left = iter(range(count))

        async def one(client: int) -> None:
            callers = self._pair(self._tokens[client % len(self._tokens)])
            uid = str(uuid.uuid4())
            began = time.perf_counter()
            try:
                await self._first_byte(await self._set_up(uid, callers, targets[client]), uid, client)
                setups.append(time.perf_counter() - began)
            finally:
                began = time.perf_counter()
                await self._release(uid, callers)
                releases.append(time.perf_counter() - began)

        failures: list[str] = []

        async def client(number: int) -> None:
            for _ in left:
                try:
                    await one(number)
                except Exception as error:  # noqa: BLE001 - whatever fails is counted and shown
                    failures.append(repr(error)[:500])

        busy, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*map(client, range(clients)))
        return {
            "seconds": setups,
            "release_s": releases,
            "total_s": time.perf_counter() - began,
            "busy_s": time.process_time() - busy,
            "failures": len(failures),
            "reasons": sorted(set(failures))[:5],
        }

    def _pair(self, token: str) -> list[Caller]:
        return [Caller(address, self._certificate, token) for address in self._gateways[:2]]

    async def _set_up(self, uid: str, callers: list[Caller], target: str) -> int:
        """Return the port that the consumer connects to."""
        producer, consumer = callers
        pb = self._pb
        ours, theirs, _, _ = await asyncio.gather(
            producer.call("req", pb.Request(uid=uid, role="PROD", num_conn=1)),
            consumer.call("req", pb.Request(uid=uid, role="CONS", num_conn=1)),
            producer.call("hello", pb.Hello(uid=uid, role="PROD", prod_listeners=[target])),
            consumer.call("hello", pb.Hello(uid=uid, role="CONS")),
        )
        if not (ours.certificate and theirs.certificate):
            raise RuntimeError("a gateway does not encrypt")
        to_application = pb.UpdateTargets(
            uid=uid, role="PROD", remote_listeners=[target], peer_certificate=theirs.certificate
        )
        to_gateway = pb.UpdateTargets(
            uid=uid, role="CONS", remote_listeners=ours.listeners, peer_certificate=ours.certificate
        )
        await asyncio.gather(producer.call("update", to_application), consumer.call("update", to_gateway))
        return int(theirs.listeners[0].rpartition(":")[2])

    async def _first_byte(self, port: int, uid: str, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(uid.encode())
            answer = await asyncio.wait_for(reader.readexactly(1 + UID_BYTES), _CALL_LIMIT_S)
        finally:
            writer.close()
        if answer != bytes([number]) + uid.encode():
            raise RuntimeError(f"client {number} has reached the application {answer[0]}")

    async def _release(self, uid: str, callers: list[Caller]) -> None:
        await asyncio.gather(*(caller.call("release", self._pb.Release(uid=uid)) for caller in callers))
        for caller in callers:
            await caller.close()


async def _moment(work: Awaitable[Any]) -> tuple[float, Any]:
    answer = await work
    return time.perf_counter(), answer


async def _all(works: Iterable[Awaitable[Any]]) -> Answer:
    """Do all `works` at once; return how long each took, and all of them, and what failed."""
    seconds: list[float] = []
    failures: list[str] = []

    async def one(work: Awaitable[Any]) -> None:
        began = time.perf_counter()
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever fails is counted and shown
            failures.append(repr(error)[:500])
        else:
            seconds.append(time.perf_counter() - began)

    busy, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(one, works))
    return {
        "seconds": seconds,
        "total_s": time.perf_counter() - began,
        "busy_s": time.process_time() - busy,
        "failures": len(failures),
        "reasons": sorted(set(failures))[:5],
    }


async def _serve(settings: Answer) -> None:
    generator = Generator(settings)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        print(json.dumps(await getattr(generator, command.pop("command"))(**command)), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.stdin.readline())))
