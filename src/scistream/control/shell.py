"""What one session holds of the world: its listening sockets, its key, its data server.

It carries out the commands of the session rules one after the other, in a task of its own, and reports what
came of them. The end of a session interrupts whatever is being done for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace

from scistream.auth.certificates import make_session_certificate
from scistream.control.gateway import Gateway
from scistream.control.listeners import bind_listeners
from scistream.core.commands import BindListeners, RetargetDataServer, StartDataServer
from scistream.core.endpoint import Endpoint
from scistream.core.events import (
    DataServerFailed,
    DataServerReady,
    Event,
    ListenersBound,
    PortsTaken,
    ReservationFailed,
    Role,
    SessionFreed,
    SessionKey,
)
from scistream.core.status import ChannelStatistics
from scistream.dataserver.base import DataServer, DataServerSpec, TlsCredentials, TlsLeg
from scistream.errors import DataServerError, ResourceExhausted

logger = logging.getLogger(__name__)

# More than the session rules can have under way at once (table._MAX_PENDING_UPDATES and a reservation).
_QUEUE_LENGTH = 32

_STATISTICS_TIMEOUT_S = 5.0
# A release waits for these.
_LAST_STATISTICS_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 10.0


class SessionShell:
    """The resources of one session, and the task that works on them.

    Parameters
    ----------
    report : callable
        Takes the events that the commands lead to.
    """

    def __init__(
        self, key: SessionKey, role: Role, gateway: Gateway, report: Callable[[Event], None]
    ) -> None:
        self._key = key
        self._role = role
        self._gateway = gateway
        self._report = report
        self._sockets: list[socket.socket] = []
        self._certificate_pem = b""
        self._private_key_pem = b""
        self._server: DataServer | None = None
        self._statistics: tuple[ChannelStatistics, ...] = ()
        self._todo: asyncio.Queue[BindListeners | StartDataServer] = asyncio.Queue(_QUEUE_LENGTH)
        self._worker = asyncio.create_task(self._work(), name=f"session {key.uid}")
        self._watch: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None

    def carry_out(self, command: BindListeners | StartDataServer) -> None:
        """Put `command` behind those that are being carried out."""
        self._todo.put_nowait(command)

    def free(self) -> None:
        """Stop everything and report `SessionFreed`; what is under way is interrupted."""
        if self._freeing is None:
            self._freeing = asyncio.create_task(self._free(), name=f"freeing session {self._key.uid}")

    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return what the channels have carried; where no data server answers, what it said last."""
        if self._freeing is None:
            await self._look(_STATISTICS_TIMEOUT_S)
        return self._statistics

    @property
    def last_statistics(self) -> tuple[ChannelStatistics, ...]:
        """What the channels had carried when the data server last answered."""
        return self._statistics

    async def _look(self, timeout_s: float) -> None:
        if self._server is None or self._watch is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                self._statistics = await self._server.statistics()
        except (DataServerError, TimeoutError) as error:
            logger.warning("session %s: no statistics: %r", self._key.uid, error)

    # --- the worker ------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            command = await self._todo.get()
            try:
                match command:
                    case BindListeners():
                        self._bind(command)
                    case RetargetDataServer():
                        await self._retarget(command)
                    case StartDataServer():
                        await self._start(command)
            except DataServerError as error:
                self._report(DataServerFailed(key=self._key, reason=str(error)))
            except Exception as error:
                logger.exception("session %s: %s failed", self._key.uid, type(command).__name__)
                self._report(self._unexpected(command, error))

    def _unexpected(self, command: BindListeners | StartDataServer, error: Exception) -> Event:
        reason = f"unexpected {type(error).__name__} in the control server; its log says more"
        if isinstance(command, BindListeners):
            return ReservationFailed(key=self._key, reason=reason)
        return DataServerFailed(key=self._key, reason=reason)

    def _bind(self, command: BindListeners) -> None:
        try:
            bound = bind_listeners(self._gateway.listens_on(self._role).bind, command.ports)
        except ResourceExhausted as error:
            self._report(ReservationFailed(key=self._key, reason=str(error)))
            return
        self._sockets += bound.sockets
        if bound.taken:
            logger.warning(
                "session %s: ports %s are held by other programs",
                self._key.uid,
                ", ".join(map(str, bound.taken)),
            )
            self._report(PortsTaken(key=self._key, ports=tuple(bound.taken)))
            return
        if self._gateway.encrypts:
            self._certificate_pem, self._private_key_pem = make_session_certificate(self._key.uid)
        host = self._gateway.listens_on(self._role).advertise_host
        self._report(
            ListenersBound(
                key=self._key,
                listeners=tuple(Endpoint(host, sock.getsockname()[1]) for sock in self._sockets),
                certificate_pem=self._certificate_pem,
            )
        )

    async def _start(self, command: StartDataServer) -> None:
        self._server = self._gateway.backend.create()
        await self._server.start(
            DataServerSpec(
                uid=self._key.uid,
                listeners=tuple(self._sockets),
                targets=command.targets,
                tls=self._credentials(command),
            )
        )
        self._watch = asyncio.create_task(self._wait(self._server), name=f"watching {self._key.uid}")
        self._report(DataServerReady(key=self._key, generation=command.generation))

    async def _retarget(self, command: RetargetDataServer) -> None:
        if self._server is None:
            raise DataServerError("there is no data server to retarget")
        await self._server.retarget(command.targets, self._credentials(command))
        self._report(DataServerReady(key=self._key, generation=command.generation))

    def _credentials(self, command: StartDataServer) -> TlsCredentials | None:
        if not command.peer_certificate_pem:
            return None
        return TlsCredentials(
            leg=TlsLeg.LISTENER if self._role is Role.PRODUCER else TlsLeg.TARGET,
            certificate_pem=self._certificate_pem,
            private_key_pem=self._private_key_pem,
            peer_certificate_pem=command.peer_certificate_pem,
        )

    async def _wait(self, server: DataServer) -> None:
        reason = await server.wait()
        if self._freeing is None:
            logger.error("session %s: the data server ended: %s", self._key.uid, reason)
            self._report(DataServerFailed(key=self._key, reason=f"the data server ended: {reason}"))

    # --- the end ---------------------------------------------------------------------------------------

    async def _free(self) -> None:
        await _cancelled(self._worker)
        if self._server is not None:
            try:
                await self._look(_LAST_STATISTICS_TIMEOUT_S)
            except Exception:
                logger.exception("session %s: asking for the last statistics failed", self._key.uid)
            self._statistics = tuple(replace(channel, connections_open=0) for channel in self._statistics)
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await self._server.stop()
            except (DataServerError, TimeoutError) as error:
                logger.warning("session %s: the data server does not stop: %r", self._key.uid, error)
            except Exception:
                logger.exception("session %s: stopping the data server failed", self._key.uid)
        if self._watch is not None:
            await _cancelled(self._watch)
        for sock in self._sockets:
            sock.close()
        self._private_key_pem = b""
        self._report(SessionFreed(key=self._key))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
