"""Waiting for what a control server in the test's own process does; the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from scistream.client.aio import ControlClient
from scistream.core.endpoint import Endpoint
from scistream.core.session import State
from scistream.errors import SessionNotFound


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def state_of(client: ControlClient, uid: str) -> State:
    return (await client.status(uid))[0].state


async def until_state(client: ControlClient, uid: str, state: State) -> None:
    """Wait until the session is there and in `state`."""
    async with asyncio.timeout(10):
        while True:
            try:
                if await state_of(client, uid) is state:
                    return
            except SessionNotFound:
                pass
            await asyncio.sleep(0.005)


async def ask(address: Endpoint, message: bytes) -> bytes:
    """Send `message` to `address` and return all that comes back."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(message)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def can_be_bound(address: Endpoint) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.host, address.port))
            sock.listen()
        except OSError:
            return False
    return True
