"""What one session holds of the world: its listening sockets, its key, its data server.

It carries out the commands of the session rules one after the other, in a task of its own, and reports what
came of them. The end of a session interrupts whatever is being done for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from scistream.control.failures import ShellCommand, failed, unexpected
from scistream.control.forwarding import Channels, Forwarding
from scistream.control.gateway import Gateway
from scistream.control.journal import History
from scistream.control.keypair import KeyPair
from scistream.control.listeners import bind_listeners
from scistream.core.commands import (
    AdoptDataServer,
    BindListeners,
    RecoverListeners,
    RetargetDataServer,
    StartDataServer,
)
from scistream.core.endpoint import Endpoint
from scistream.core.events import (
    DataServerDied,
    DataServerReady,
    DataServerRestarted,
    Event,
    ListenersBound,
    PortsTaken,
    Role,
    SessionFreed,
    TrafficSeen,
)
from scistream.core.session import Session
from scistream.dataserver.base import DataServerSpec, Reverse, TlsCredentials
from scistream.errors import DataServerError, ResourceExhausted, SciStreamError

logger = logging.getLogger(__name__)

# More than the session rules can have under way at once: the updates that may wait, a reservation, a restart.
_QUEUE_LENGTH = 64


class SessionShell:
    """The resources of one session, and the task that works on them.

    Parameters
    ----------
    key_pair : KeyPair
        The session's own.
    report : callable
        Takes the events that the commands lead to.
    history : History
        Of a session of an earlier control server, what it left; of a new one, empty.
    """

    def __init__(
        self,
        session: Session,
        key_pair: KeyPair,
        gateway: Gateway,
        report: Callable[[Event], None],
        history: History,
    ) -> None:
        self._key = session.key
        self._role = session.role
        self._num_conn = session.num_conn
        self._reverse = session.reverse
        self._owner = session.owner
        self._rate_mbps = session.rate_mbps if gateway.paces else 0.0
        self._was_ready = session.ready_generation > 0
        self._recovered_ports = session.ports
        self._key_pair = key_pair
        self._gateway = gateway
        self._report = report
        self._sockets: list[socket.socket] = []
        self._reverse_sockets: list[socket.socket] = []
        self._handle = history.handle
        self._forwarding = Forwarding(
            session.key.uid,
            gateway.backend,
            died=lambda reason: report(DataServerDied(key=session.key, reason=reason)),
            restarted=lambda reason: report(DataServerRestarted(key=session.key, reason=reason)),
            carried=history.carried,
            known=history.channels,
        )
        self._todo: asyncio.Queue[ShellCommand] = asyncio.Queue(_QUEUE_LENGTH)
        self._worker = asyncio.create_task(self._work(), name=f"session {self._key.uid}")
        self._look: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None

    @property
    def handle(self) -> str:
        """By which another control server finds the data server."""
        return self._forwarding.handle or self._handle

    @property
    def carried(self) -> Channels:
        """What data servers that have died have carried."""
        return self._forwarding.carried

    @property
    def last_statistics(self) -> Channels:
        """What the channels had carried when that was last known."""
        return self._forwarding.known

    def carry_out(self, command: ShellCommand) -> None:
        """Put `command` behind those that are being carried out."""
        self._todo.put_nowait(command)

    def look_for_traffic(self) -> None:
        """Report `TrafficSeen`."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._see_traffic(), name=f"traffic of {self._key.uid}")

    def free(self) -> None:
        """Stop everything and report `SessionFreed`; what is under way is interrupted."""
        if self._freeing is None:
            self._freeing = asyncio.create_task(self._free(), name=f"freeing session {self._key.uid}")

    async def settled(self) -> None:
        """Return when everything that was to be carried out has been."""
        await self._todo.join()

    async def statistics(self) -> Channels:
        """Return what the channels have carried; where no data server answers, what it said last."""
        return await self._forwarding.statistics()

    async def let_go(self) -> None:
        """Stop working and close what is ours; the data server runs on, the private key is kept.

        A session that is being freed is freed to its end, which is bounded in time.
        """
        if self._freeing is not None:
            await asyncio.wait({self._freeing})
            return
        await _cancelled(self._worker)
        if self._look is not None:
            await _cancelled(self._look)
        await self._forwarding.let_go()
        self._close_sockets()

    # --- the worker ------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            command = await self._todo.get()
            try:
                match command:
                    case BindListeners():
                        self._bind(command)
                    case RecoverListeners():
                        self._recover(command.ports)
                    case RetargetDataServer():
                        await self._retarget(command)
                    case AdoptDataServer():
                        await self._adopt(command)
                    case StartDataServer():
                        await self._start(command)
            except SciStreamError as error:
                self._report(failed(command, str(error)))
            except Exception as error:
                logger.exception("session %s: %s failed", self._key.uid, type(command).__name__)
                self._report(failed(command, unexpected(error)))
            finally:
                self._todo.task_done()

    # --- listeners and key -----------------------------------------------------------------------------

    def _bind(self, command: BindListeners) -> None:
        taken = self._listen(command.ports)
        if taken:
            logger.warning(
                "session %s: ports %s are held by other programs", self._key.uid, ", ".join(map(str, taken))
            )
            self._report(PortsTaken(key=self._key, ports=tuple(taken)))
            return
        if self._gateway.encrypts:
            self._key_pair.make()
        network, wan = self._gateway.listens_on(self._role), self._gateway.wan
        ports, reverse_ports = _ports(self._sockets), _ports(self._reverse_sockets)
        self._report(
            ListenersBound(
                key=self._key,
                listeners=tuple(self._gateway.advertised(network, port) for port in ports),
                reverse_listeners=tuple(self._gateway.advertised(wan, port) for port in reverse_ports),
                ports=ports + reverse_ports,
                certificate_pem=self._key_pair.certificate_pem,
            )
        )

    def _listen(self, ports: Sequence[int]) -> list[int]:
        """Bind `ports`: first what is missing for the channels, then their reverse listeners.

        Return the ports that somebody else holds.
        """
        missing = self._num_conn - len(self._sockets)
        bound = bind_listeners(self._gateway.listens_on(self._role).bind, ports[:missing])
        self._sockets += bound.sockets
        if len(ports) <= missing:
            return bound.taken
        # only the consumer's side of a reverse session has so many
        reverse = bind_listeners(self._gateway.wan.bind, ports[missing:])
        self._reverse_sockets += reverse.sockets
        return bound.taken + reverse.taken

    def _recover(self, ports: tuple[int, ...]) -> None:
        """Bind the listeners of a session whose control server has died, before it had a data server."""
        if taken := self._listen(ports):
            raise ResourceExhausted(
                f"port {taken[0]} was taken by another program while no control server ran"
            )

    # --- data server -----------------------------------------------------------------------------------

    async def _start(self, command: StartDataServer) -> None:
        targets, reverse = await self._connectable(command)
        await self._forwarding.start(
            DataServerSpec(
                uid=self._key.uid,
                listeners=tuple(self._sockets),
                targets=targets,
                tls=self._credentials(command),
                wan_leg=self._key_pair.wan_leg,
                rate_mbps=self._rate_mbps,
                reverse=reverse,
            )
        )
        self._ready(command)

    async def _retarget(self, command: RetargetDataServer) -> None:
        targets, reverse = await self._connectable(command)
        try:
            await self._forwarding.retarget(
                targets, self._credentials(command), dials=reverse.dials if reverse else ()
            )
        except DataServerError:
            if await self._forwarding.has_died():
                return  # the one that is started in its place has these targets
            raise
        self._ready(command)

    async def _adopt(self, command: AdoptDataServer) -> None:
        if not self._handle:
            if self._was_ready:
                raise DataServerError("its data server cannot outlive the control server, which died")
            self._recover(self._recovered_ports)
            await self._start(command)
            return
        try:
            sockets = await self._forwarding.adopt(self._handle)
        except DataServerError as error:
            raise DataServerError(f"the data server died while no control server ran: {error}") from error
        self._sockets += sockets[: self._num_conn]
        self._reverse_sockets += sockets[self._num_conn :]
        # it may have older targets, or newer ones that were not kept; the same again disturb no stream.
        # no call is served yet, so this is the next that is carried out
        self.carry_out(
            RetargetDataServer(
                key=self._key,
                generation=command.generation,
                targets=command.targets,
                peer_certificate_pem=command.peer_certificate_pem,
                peer_data_server=command.peer_data_server,
                reverse_listeners=command.reverse_listeners,
            )
        )

    def _credentials(self, command: StartDataServer) -> TlsCredentials | None:
        return self._key_pair.credentials(command.peer_certificate_pem, command.peer_data_server)

    async def _connectable(self, command: StartDataServer) -> tuple[tuple[Endpoint, ...], Reverse | None]:
        """Return where the data server connects to, and how it is reverse, as the policy allows it."""
        if self._reverse and self._role is Role.CONSUMER:  # nothing is connected to
            return command.targets, Reverse(waits_at=tuple(self._reverse_sockets))
        connectable, uid = self._gateway.authorisation.connectable, self._key.uid
        targets = await connectable(uid, self._owner, self._role, command.targets)
        if not self._reverse:
            return targets, None
        dials = await connectable(uid, self._owner, self._role, command.reverse_listeners, dials=True)
        return targets, Reverse(dials=dials)

    def _ready(self, command: StartDataServer) -> None:
        self._report(
            DataServerReady(
                key=self._key,
                generation=command.generation,
                targets=command.targets,
                peer_certificate_pem=command.peer_certificate_pem,
                peer_data_server=command.peer_data_server,
                reverse_listeners=command.reverse_listeners,
            )
        )

    async def _see_traffic(self) -> None:
        total = sum(
            channel.connections_total + channel.bytes_to_target + channel.bytes_from_target
            for channel in await self._forwarding.statistics()
        )
        self._report(TrafficSeen(key=self._key, total=total))

    # --- the end ---------------------------------------------------------------------------------------

    async def _free(self) -> None:
        await _cancelled(self._worker)
        while not self._todo.empty():
            self._todo.get_nowait()
            self._todo.task_done()
        if self._look is not None:
            await _cancelled(self._look)
        await self._forwarding.stop()
        self._close_sockets()
        self._key_pair.forget()
        self._report(SessionFreed(key=self._key))

    def _close_sockets(self) -> None:
        for sock in (*self._sockets, *self._reverse_sockets):
            sock.close()


def _ports(sockets: Sequence[socket.socket]) -> tuple[int, ...]:
    return tuple(sock.getsockname()[1] for sock in sockets)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
