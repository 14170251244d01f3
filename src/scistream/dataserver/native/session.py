"""One session inside one worker: its channels, which accept or dial, and what they have carried."""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from scistream.dataserver.base import TlsCredentials, TlsLeg
from scistream.dataserver.native.establish import Establishment
from scistream.dataserver.native.long_path import LONG_ROUND_TRIP_S
from scistream.dataserver.native.loop import BUG
from scistream.dataserver.native.pacing import Pacer
from scistream.dataserver.native.reverse_dialling import Dialler, usual_number
from scistream.dataserver.native.reverse_waiting import WaitingRoom
from scistream.dataserver.native.sockets import (
    EXHAUSTED,
    LISTEN_BACKLOG,
    address_of,
    is_tuned,
    stream_socket,
    tune,
)
from scistream.dataserver.native.tcp_info import tcp_info
from scistream.dataserver.native.tls import TlsContext, make_context

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Relay
    from scistream.dataserver.native.tls import TlsEngine
    from scistream.dataserver.native.worker import Worker

logger = logging.getLogger(__name__)

Address = tuple[int, Any]

REFUSALS_TOLD_EVERY_S = 10.0
"""A session tells of one failed connection in this time; further ones are counted."""


class Channel:
    """One listener and its target's addresses, in one worker.

    All workers wait on the same listener; the kernel wakes one of them for a connection. In a reverse session
    the consumer's side has no target, but a `room` where the other gateway's connections wait; the producer's
    side has no listener, but a `dialler` for them.
    """

    def __init__(self, session: Session, index: int, listener: socket.socket | None) -> None:
        self.session = session
        self.index = index
        self.addresses: tuple[Address, ...] = ()
        self.open_relays: set[Relay] = set()
        self.establishing: set[Establishment] = set()
        self.listener = listener
        self.room: WaitingRoom | None = None
        self.dialler: Dialler | None = None
        self._accepting = False
        self._total = 0
        self._failed = 0
        self._to_target = 0
        self._from_target = 0

    def listen(self) -> None:
        """Begin or go on accepting, or keeping connections to the other gateway ready."""
        for reverse in (self.room, self.dialler):
            if reverse is not None:
                reverse.listen()
        if not self._accepting and self.listener is not None:
            self._accepting = True
            self.session.worker.loop.watch(
                self.listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE, self._accept, self
            )

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        for reverse in (self.room, self.dialler):
            if reverse is not None:
                reverse.pause()
        if self._accepting and self.listener is not None:
            self._accepting = False
            self.session.worker.loop.forget_shared(self.listener.fileno())

    @property
    def wan_listener(self) -> socket.socket | None:
        """The one where the other gateway's connections come, if there is one."""
        if self.room is not None:
            return self.room.listener
        return self.listener if self.session.wan_leg is TlsLeg.LISTENER else None

    def _accept(self, _events: int) -> None:
        worker = self.session.worker
        if self.listener is None:
            return
        if not worker.has_room():
            worker.pause_accepting()
            return
        try:
            # one at a time: epoll says again if there are more, and everybody else has a turn first
            accepted, _ = self.listener.accept()
        except BlockingIOError:
            return  # another worker was quicker
        except OSError as error:
            if error.errno in EXHAUSTED:
                worker.pause_accepting()
            return  # or that connection was gone before it was accepted
        accepted.setblocking(False)
        self._total += 1
        if not worker.hand_over(self, accepted):
            self.adopt(accepted)

    def adopt(self, accepted: socket.socket, due: float | None = None) -> None:
        """Take care of an accepted connection; with `due`, of one that has waited in another worker."""
        if not is_tuned(accepted):  # it came before the listener was tuned
            self.session.prepare(accepted, TlsLeg.LISTENER)
        self._establish(Establishment(self.session.worker.loop, self, accepted, due=due))

    def begin_dialled(self, sock: socket.socket, engine: TlsEngine | None) -> None:
        """Take care of a connection to the other gateway, on which that has begun a stream."""
        self._total += 1
        self._establish(Establishment(self.session.worker.loop, self, sock, engine=engine))

    def _establish(self, establishment: Establishment) -> None:
        self.session.worker.connection_begins(self.session)
        self.establishing.add(establishment)
        try:
            establishment.begin()
        except Exception:
            logger.exception(BUG)
            establishment.abort()

    def move(self, establishment: Establishment, accepted: socket.socket, worker: int, due: float) -> bool:
        """Hand a connection that waits over to another worker; return False if it stays here."""
        if not self.session.worker.move(self, accepted, worker, due):
            return False
        self.establishing.discard(establishment)
        self.session.worker.connection_ends(self.session)
        return True

    def establishment_ended(self, establishment: Establishment, *, failed: bool) -> None:
        """Count a connection that is being relayed now, or was refused."""
        self.establishing.discard(establishment)
        if failed:
            self._failed += 1
            self.session.worker.connection_ends(self.session)

    def relay_begins(self, relay: Relay) -> None:
        """Keep a connection that is being relayed."""
        self.open_relays.add(relay)
        self.session.worker.dead_peers.begin()
        self.session.worker.crowd.begin(relay)
        if self.session.pacer is not None:
            self.session.pacer.begin(relay)

    def relay_ended(self, relay: Relay) -> None:
        """Keep the counts of a connection that is gone."""
        self.open_relays.discard(relay)
        self._to_target += relay.to_target.moved
        self._from_target += relay.from_target.moved
        self.session.worker.connection_ends(self.session)

    def statistics(self) -> list[int]:
        """Return the figures in the order of `ChannelStatistics`."""
        return [
            len(self.open_relays),
            self._total,
            self._failed,
            self._to_target + sum(relay.to_target.moved for relay in self.open_relays),
            self._from_target + sum(relay.from_target.moved for relay in self.open_relays),
            sum(reverse.ready for reverse in (self.room, self.dialler) if reverse is not None),
        ]

    def abort(self) -> None:
        """Reset every connection that carries something, or is about to; go on accepting."""
        for establishment in list(self.establishing):
            establishment.abort()
        for relay in list(self.open_relays):
            relay.abort()

    def close(self) -> None:
        """Reset every connection and give the listener up."""
        self.pause()
        if self.listener is not None:
            self.listener.close()
        self.abort()
        for reverse in (self.room, self.dialler):
            if reverse is not None:
                reverse.close()


class Session:
    """What the worker keeps of one session.

    Parameters
    ----------
    worker : Worker
        Whose loop, buffers and room it uses.
    body : dict
        The ``start`` message: key, uid, slot, number of channels, targets, TLS credentials, wide-area leg,
        rate, and of a reverse session whether it waits for the other gateway, or where it dials that.
    listeners : list of socket.socket
        One per channel, and then one per channel where the other gateway is waited for; none where that is
        dialled. The session owns them.
    """

    def __init__(self, worker: Worker, body: dict[str, Any], listeners: list[socket.socket]) -> None:
        self.worker = worker
        self.key = int(body["key"])
        self.uid = str(body["uid"])
        self.slot = int(body["slot"])
        self.tls: TlsContext | None = None
        self.tls_leg: TlsLeg | None = None
        self.peer_omits_close_notify = False
        self.waits = bool(body["waits"])
        self.dials = bool(body["dials"])
        count = int(body["channels"])
        self.channels = [
            Channel(self, index, None if self.dials else listeners[index]) for index in range(count)
        ]
        for channel in self.channels:
            if self.waits:
                channel.room = WaitingRoom(channel, listeners[count + channel.index])
            elif self.dials:
                balance = worker.balance
                usual = usual_number(channel.index, count, balance.index, balance.workers)
                channel.dialler = Dialler(channel, usual)
        self._unreachable = False
        self._meeting: Any = None
        self._rate_mbps = float(body["rate_mbps"])
        self.pacer = Pacer(self, self._rate_mbps) if self._rate_mbps > 0 else None
        # a tree that outlives its control server may be told by an older one, which does not know of it
        self._told_wan_leg = TlsLeg(body["wan_leg"]) if body.get("wan_leg") else None
        self._refusals_told = -math.inf
        self._refusals_untold = 0
        try:
            self.retarget(body)
        except Exception:
            self.close()
            raise
        for index, listener in enumerate(listeners):
            self.prepare(listener, TlsLeg.LISTENER if index < count else TlsLeg.TARGET)
            listener.setblocking(False)
            listener.listen(LISTEN_BACKLOG)

    def listen(self) -> None:
        """Begin to accept on every channel; the worker says when, if there is no room."""
        for channel in self.channels:
            if self.worker.paused:
                return
            channel.listen()

    @property
    def wan_leg(self) -> TlsLeg | None:
        """The leg that crosses the wide-area network."""
        return self.tls_leg or self._told_wan_leg

    def prepare(self, sock: socket.socket, leg: TlsLeg) -> None:
        """Set what a leg needs from the beginning; on a listener, for all that it accepts."""
        tune(sock, self.worker.options.congestion_lan)
        if leg is self.wan_leg:
            self.worker.long_path.prepare(sock, self.worker.open_connections(self))

    @property
    def reverse(self) -> bool:
        """Whether the producer's side dials the consumer's."""
        return self.waits or self.dials

    @property
    def listeners(self) -> int:
        """How many listening sockets it has."""
        return 0 if self.dials else len(self.channels) * (2 if self.waits else 1)

    def target_socket(self, family: int) -> socket.socket:
        """Return a socket to connect to a target with.

        Raises
        ------
        OSError
            No descriptor is left, or the family is not there.
        """
        return self._dialling_socket(family, TlsLeg.TARGET)

    def peer_socket(self, family: int) -> socket.socket:
        """Return a socket to connect to the other gateway with, on the producer's side of a reverse session.

        Raises
        ------
        OSError
            No descriptor is left, or the family is not there.
        """
        return self._dialling_socket(family, TlsLeg.LISTENER)

    def _dialling_socket(self, family: int, leg: TlsLeg) -> socket.socket:
        # MPTCP cannot be paced by the kernel
        multipath = self.worker.options.mptcp and self.wan_leg is leg and self.pacer is None
        sock = stream_socket(family, multipath=multipath)
        self.prepare(sock, leg)
        return sock

    def established(self, channel: Channel, accepted: socket.socket, target: socket.socket) -> None:
        """Fit the wide-area leg of a new connection to its path."""
        if self.wan_leg is None:
            return
        long_path = self.worker.long_path
        wan = accepted if self.wan_leg is TlsLeg.LISTENER else target
        round_trip_s = tcp_info(wan).round_trip_s
        if round_trip_s > LONG_ROUND_TRIP_S:
            long_path.adapt(wan, round_trip_s, self._rate_mbps, self.worker.open_connections(self))
        listener = channel.wan_listener
        if listener is not None and long_path.opens_windows_early(listener):
            long_path.prepare(listener, self.worker.open_connections(self) + 1)

    def tell_refusal(self, channel: Channel, reason: str) -> None:
        """Log that a connection failed, if that was not said a moment ago."""
        now = time.monotonic()
        if now - self._refusals_told < REFUSALS_TOLD_EVERY_S:
            self._refusals_untold += 1
            return
        more = f" ({self._refusals_untold} more since the last such line)" if self._refusals_untold else ""
        logger.info("session %s: channel %d: connection refused: %s%s", self.uid, channel.index, reason, more)
        self._refusals_told, self._refusals_untold = now, 0

    def tell_unreachable(self, channel: Channel, reason: str) -> None:
        """Log that the other gateway cannot be reached, once until it can."""
        if not self._unreachable:
            self._unreachable = True
            logger.info(
                "session %s: channel %d: the consumer's side is not reached: %s; it is tried again and again",
                self.uid,
                channel.index,
                reason,
            )

    def tell_reached(self) -> None:
        """Log that the other gateway is reached, if that has been otherwise."""
        if self._unreachable:
            self._unreachable = False
            logger.info("session %s: the consumer's side is reached", self.uid)

    def _tls_engine(self) -> str:
        """Return which engine to use: the first words of a reverse session are not for the kernel."""
        chosen = self.worker.options.tls_engine
        return "openssl" if chosen == "kernel" and self.reverse else chosen

    def retarget(self, body: dict[str, Any]) -> None:
        """Use other targets and credentials for new connections.

        Raises
        ------
        ConfigurationError
            The credentials cannot be used; everything is as before.
        """
        tls = body["tls"]
        context, leg = None, None
        if tls is not None:
            leg = TlsLeg(tls["leg"])
            credentials = TlsCredentials(
                leg=leg,
                certificate_pem=tls["certificate"].encode(),
                private_key_pem=tls["private_key"].encode(),
                peer_certificate_pem=tls["peer_certificate"].encode(),
                reverse=bool(tls["reverse"]),
                peer_omits_close_notify=bool(tls["peer_omits_close_notify"]),
            )
            context = make_context(credentials, self._tls_engine())
        self.tls, self.tls_leg = context, leg
        self.peer_omits_close_notify = tls is not None and bool(tls["peer_omits_close_notify"])
        targets, dials = _addresses(body["targets"]), _addresses(body["dials"])
        for channel in self.channels:
            if targets:
                channel.addresses = targets[channel.index % len(targets)]
            if channel.dialler is not None:
                channel.dialler.addresses = dials[channel.index % len(dials)]
        meeting = (tls, dials)
        before, self._meeting = self._meeting, meeting
        if before is not None and before != meeting:
            # what is ready was proved by other credentials, or is elsewhere
            for channel in self.channels:
                for reverse in (channel.room, channel.dialler):
                    if reverse is not None:
                        reverse.renew()

    def close(self) -> None:
        """Reset every connection and free everything."""
        for channel in self.channels:
            channel.close()
        if self.pacer is not None:
            self.pacer.end()
        if self.channels:
            logger.debug("session %s: closed", self.uid)


def _addresses(targets: list[Any]) -> list[tuple[Address, ...]]:
    return [tuple(address_of(address) for address in target) for target in targets]
