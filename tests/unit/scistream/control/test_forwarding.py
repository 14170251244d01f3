"""What a session has carried is counted once, however often its data server is another one."""

from __future__ import annotations

import asyncio
import socket

from scistream.control.forwarding import Forwarding
from scistream.core.endpoint import Endpoint
from scistream.core.status import ChannelStatistics
from scistream.dataserver.base import DataServerSpec
from support.control_servers import RelayBackend, RelayServer
from support.watching import until


class SlowToAnswer(RelayServer):
    """Answers the first look when `answers` is set, any other at once."""

    answers: asyncio.Event

    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        answer = await super().statistics()
        if self.looks == 1:
            await self.answers.wait()
        return answer


class SlowBackend(RelayBackend):
    def create(self, restarted: object = None) -> RelayServer:
        server = SlowToAnswer(self)
        server.answers = asyncio.Event()
        self.servers.append(server)
        return server


async def test_a_look_that_the_next_data_server_overtakes_counts_nothing_twice() -> None:
    backend = SlowBackend(dead_answer=True)
    await backend.open()
    forwarding = Forwarding("uid", backend, died=lambda _: None, restarted=lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        spec = DataServerSpec(uid="uid", listeners=(listener,), targets=(Endpoint("127.0.0.1", 9),))
        await forwarding.start(spec)
        (first,) = backend.servers
        assert isinstance(first, SlowToAnswer)
        first.bytes[0] = 100
        looking = asyncio.create_task(forwarding.statistics())
        await until(lambda: first.looks)
        await forwarding.start(spec)
        first.answers.set()
        (channel,) = await looking
        assert channel.bytes_to_target == 100
        await forwarding.stop()
        assert forwarding.known[0].bytes_to_target == 100
    await backend.close()
