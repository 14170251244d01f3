"""One run of a command for ``appctrl run``: started, announced, supervised, ended with its session.

A producer's command is started first and announced once it listens: an address that nobody listens at is
never promised. A consumer's command is started once the session is connected: it can connect at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from scistream.cli import templates
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ResourceExhausted, SciStreamError, WrongState

if TYPE_CHECKING:
    from scistream.cli.child import Child, ReceivedSignals
    from scistream.cli.listening import Place
    from scistream.cli.session_end import End
    from scistream.client.aio import Facility

logger = logging.getLogger(__name__)

#: Environment variables that may hold the token; the first one set is taken.
TOKEN_VARIABLES = ("APPCTRL_TOKEN", "S2UC_TOKEN")

_RELEASE_TIMEOUT_S = 15.0


@dataclass(kw_only=True)
class Job:
    """One run of a command."""

    facility: Facility
    uid: str
    role: Role
    addresses: tuple[Endpoint, ...]
    command: tuple[str, ...]
    timeout_s: float
    listen_timeout_s: float
    gateway_timeout_s: float
    grace_s: float
    keep: bool
    stops_with_session: bool
    as_json: bool
    is_ours: bool = False
    """Whether the session may have us for its application: only then is it released."""
    listens: bool = False
    """Whether a producer's command has been seen to listen."""
    is_registered: bool = False
    """Whether the gateway has said that it has the application."""

    async def run(self) -> int:
        """Return the command's exit code.

        Raises
        ------
        StoppedBySignal
            A signal came before there was a command to pass it on to.
        SciStreamError
            The session or the command could not be had, or the session ended before the command.
        """
        from scistream.cli.child import ReceivedSignals

        with ReceivedSignals() as signals:
            try:
                if self.role is Role.PRODUCER:
                    code = await self._produce(signals)
                else:
                    code = await self._consume(signals)
            except BaseException:
                try:
                    await self._release()
                except SciStreamError as error:
                    logger.warning("session %s was not released: %s", self.uid, error)
                raise
            try:
                await self._release()
            except SciStreamError as error:
                if code == 0:
                    raise
                logger.warning("session %s was not released: %s", self.uid, error)
            return code

    def emit(self, event: str, /, **fields: object) -> None:
        """Print an event, if events are wanted."""
        if self.as_json:
            click.echo(json.dumps({"event": event, "uid": self.uid, **fields}), err=True)

    # --- the two sides -------------------------------------------------------------------------------------

    async def _produce(self, signals: ReceivedSignals) -> int:
        from scistream.cli.listening import Place

        places = [await Place.find(address) for address in self.addresses]
        for place in places:
            if place.is_here and await place.is_listening():
                raise ResourceExhausted(
                    f"a program listens at {place.endpoint} already; end it, or announce that one with "
                    "'appctrl hello'"
                )
        child = await self._start(self._filled(self.addresses))
        code = await self._supervise(child, signals, self._announce(places))
        if code == 0 and not self.is_registered:
            where = ", ".join(map(str, self.addresses))
            if not self.listens:
                raise WrongState(f"the command ended before it listened at {where}; check its port")
            raise WrongState(f"the command ended before session {self.uid} had been requested")
        return code

    async def _announce(self, places: list[Place]) -> End:
        await asyncio.gather(*(place.wait(self.listen_timeout_s) for place in places))
        self.listens = True
        self.emit("listening", addresses=list(map(str, self.addresses)))
        await self._register()
        return await self._session_end()

    async def _consume(self, signals: ReceivedSignals) -> int:
        async def connected() -> tuple[list[str], dict[str, str]]:
            from scistream.cli.session_end import wait_until_connected

            deadline_s = time.monotonic() + self.timeout_s
            filled = await self._register()
            async with self.facility.connect() as client:
                if await wait_until_connected(client, self.uid, deadline_s):
                    self.emit("connected")
            return filled

        child = await self._start(await signals.unless_received(connected()))
        return await self._supervise(child, signals, self._session_end())

    async def _supervise(
        self, child: Child, signals: ReceivedSignals, session: Coroutine[Any, Any, End]
    ) -> int:
        """Return the command's exit code; end it with its session, if that is what is wanted."""
        ending = asyncio.ensure_future(child.finish(signals, self.grace_s))
        watching = asyncio.ensure_future(session)
        try:
            await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                self._heed(watching.result())
            return await ending
        finally:
            for task in (watching, ending):  # an ending that is cancelled ends the command
                task.cancel()
            await asyncio.gather(watching, ending, return_exceptions=True)

    def _heed(self, end: End) -> None:
        """Say that the session has ended; raise it as an error if the command is to end with it."""
        self.is_ours = self.is_ours and not end.is_freed
        self.emit("ended", state=end.state, reason=end.reason)
        if self.stops_with_session:
            raise end.error(self.uid)
        click.echo(f"appctrl: {end.error(self.uid)}; the command goes on without it", err=True)

    # --- the session ---------------------------------------------------------------------------------------

    async def _register(self) -> tuple[list[str], dict[str, str]]:
        """Announce the application; return the command as it is to be run, and its environment.

        Where that cannot be made of what the gateway answers, the session is left to another try.
        """
        from scistream.client.aio import register

        try:
            listeners = await register(
                self.facility, self.uid, self.role, self.addresses, timeout_s=self.timeout_s
            )
        except asyncio.CancelledError:
            self.is_ours = True  # the gateway may have taken it
            raise
        if self.role is Role.CONSUMER and not listeners:
            self.is_ours = True
            raise WrongState(f"session {self.uid} at {self.facility.endpoint} has no listener to connect to")
        filled = self._filled(listeners if self.role is Role.CONSUMER else self.addresses)
        self.is_ours = self.is_registered = True
        self.emit("registered", listeners=list(map(str, listeners)))
        return filled

    async def _session_end(self) -> End:
        from scistream.cli.session_end import wait_until_ended

        async with self.facility.connect() as client:
            return await wait_until_ended(client, self.uid, self.gateway_timeout_s)

    async def _release(self) -> None:
        if self.keep or not self.is_ours:
            return
        async with self.facility.connect() as client:
            await client.release(self.uid, timeout_s=_RELEASE_TIMEOUT_S)
        logger.info("session %s is released", self.uid)

    # --- the command ---------------------------------------------------------------------------------------

    def _filled(self, endpoints: tuple[Endpoint, ...]) -> tuple[list[str], dict[str, str]]:
        """Return the command's words and its environment, for listeners or addresses `endpoints`."""
        values = templates.values(self.uid, self.role, endpoints)
        inherited = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
        return templates.fill(self.command, values), inherited | templates.environment(values)

    async def _start(self, filled: tuple[list[str], dict[str, str]]) -> Child:
        from scistream.cli.child import Child

        child = await Child.start(*filled)
        self.emit("started", pid=child.pid)
        return child
