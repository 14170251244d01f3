"""From an accepted connection to two that are ready to be relayed: dial the target, prove identities.

The order protects the application: with TLS on the accepted leg its target is dialled only after the peer
has proved the session's certificate, so a stranger causes no connection there. Nothing is read from a plain
accepted leg before the way to the target is complete. In a reverse session the consumer's side dials nothing,
and takes a connection of the other gateway that is ready (`reverse_pairing`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scistream.dataserver.base import TlsLeg
from scistream.dataserver.native.handshake import Handshake
from scistream.dataserver.native.kernel_relay import KernelRelay
from scistream.dataserver.native.plain import plain_relay
from scistream.dataserver.native.reverse_pairing import PAIR_LIMIT_S, Pairing
from scistream.dataserver.native.sockets import reset
from scistream.dataserver.native.tls import TlsError
from scistream.dataserver.native.tls_relay import TlsRelay

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Deadlines, Loop, Owner
    from scistream.dataserver.native.relay import Relay
    from scistream.dataserver.native.session import Address, Channel
    from scistream.dataserver.native.tls import TlsEngine

_CUT = frozenset({errno.ECONNRESET, errno.EPIPE})
"""How connecting fails if the connection was there already, and was cut; refused ones are refused."""


class Dial:
    """Connect to the first of several addresses that answers; if all refuse, try again within a limit.

    A target that is started at the same time as its client is so reached by the client's first connection.

    Parameters
    ----------
    owner : Owner
        Ends the connection that the target is for.
    addresses : tuple of Address
        The target's.
    open_socket : callable
        Returns a socket of a family.
    wanted : callable
        Returns whether it is still worth while to try again.
    connected, failed : callable
        Called with the socket; or with the reason, after the last attempt.
    tries_again : bool
        Whether there is more than one attempt.
    """

    def __init__(
        self,
        loop: Loop,
        owner: Owner,
        addresses: tuple[Address, ...],
        open_socket: Callable[[int], socket.socket],
        *,
        wanted: Callable[[], bool],
        connected: Callable[[socket.socket], None],
        failed: Callable[[str], None],
        tries_again: bool = True,
    ) -> None:
        self._loop = loop
        self.owner = owner
        self._addresses = addresses
        self._untried = list(addresses)
        self._retries = iter(loop.dial_retries if tries_again else ())
        self._open_socket = open_socket
        self._wanted = wanted
        self._connected = connected
        self._failed = failed
        self._socket: socket.socket | None = None
        self._waiting: Deadlines[Dial] | None = None
        self._address: Any = ()
        self._reason = "no address"

    def begin(self) -> None:
        """Try the next address."""
        while self._untried:
            family, self._address = self._untried.pop(0)
            try:
                self._socket = self._open_socket(family)
            except OSError as error:
                self._refused(error.errno)
                continue
            code = self._socket.connect_ex(self._address)
            if code == errno.EINPROGRESS:
                # on this very host it is complete by now; asking costs less than waiting
                code = self._socket.connect_ex(self._address)
            if code == 0:
                connected, self._socket = self._socket, None
                self._connected(connected)
                return
            if code == errno.EALREADY:
                self._loop.establishing.add(self)
                self._loop.watch(
                    self._socket.fileno(), select.EPOLLOUT | select.EPOLLET, self._on_events, self.owner
                )
                return
            self._refused(code)
            self.abort()
        self._waiting = next(self._retries, None)
        if self._waiting is None:
            self._failed(self._reason)
        else:
            self._waiting.add(self)

    def again(self) -> None:
        """Try all addresses once more."""
        self._waiting = None
        if self._wanted():
            self._untried = list(self._addresses)
            self.begin()
        else:
            self._failed(f"{self._reason}; the client has left")

    def _refused(self, code: int | None) -> None:
        self._because(os.strerror(code or 0))
        if code in _CUT:
            # the target had accepted: to connect again would show it a second client
            self._untried.clear()
            self._retries = iter(())

    def _because(self, reason: str) -> None:
        self._reason = f"target {self._address[0]} port {self._address[1]}: {reason}"

    def _on_events(self, _events: int) -> None:
        if self._socket is None:
            return
        code = self._socket.connect_ex(self._address)  # says what became of it
        if code == errno.EALREADY:
            return  # an event of the descriptor's former life
        if code:
            self._refused(code)
            self.abort()
            self.begin()
            return
        connected, self._socket = self._socket, None
        self._loop.establishing.discard(self)
        self._connected(connected)

    def too_late(self) -> None:
        """Give up this address; that took longer than all retries would."""
        self._because("no answer in time")
        self._retries = iter(())
        self.abort()
        self.begin()

    def abort(self) -> None:
        """Stop; nobody is called."""
        if self._waiting is not None:
            self._waiting.discard(self)
            self._waiting = None
        if self._socket is not None:
            self._loop.establishing.discard(self)
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


class Establishment:
    """One accepted connection on its way to being relayed, with the targets and credentials of now.

    Parameters
    ----------
    accepted : socket.socket
        Of an application or of the other gateway. On the producer's side of a reverse session it is the one
        that was dialled, which the other gateway has taken for a stream.
    engine : TlsEngine or None
        That of such a one, after its handshake.
    due : float or None
        On the consumer's side of a reverse session, until when a connection waits that comes from another
        worker; None: it comes from the application.
    """

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        accepted: socket.socket,
        *,
        engine: TlsEngine | None = None,
        due: float | None = None,
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._accepted = accepted
        self._target: socket.socket | None = None
        self._step: Dial | Handshake | Pairing | None = None
        session = channel.session
        self._leg = session.tls_leg
        self._engine = engine
        if engine is None and session.tls is not None and not session.reverse:
            self._engine = session.tls.engine(loop.scratch)
        self._due = due
        self._addresses = channel.addresses
        self._ended = False

    def begin(self) -> None:
        """Take the first step."""
        room = self._channel.room
        if room is not None:
            self._step = Pairing(
                room,
                self,
                time.monotonic() + PAIR_LIMIT_S if self._due is None else self._due,
                moved=self._due is not None,
                wanted=self._client_is_there,
                move=self._move,
                paired=self._paired,
                failed=self._fail,
            )
            self._step.find()
        elif self._channel.session.reverse:
            self._dial()  # the other gateway has proved itself before
        elif self._engine is not None and self._leg is TlsLeg.LISTENER:
            self._step = Handshake(self._loop, self, self._accepted, self._engine, self._dial, self._fail)
            self._step.begin()
        else:
            self._dial()

    def _dial(self) -> None:
        self._step = Dial(
            self._loop,
            self,
            self._addresses,
            self._channel.session.target_socket,
            wanted=self._client_is_there,
            connected=self._connected,
            failed=self._fail,
        )
        self._step.begin()

    def _client_is_there(self) -> bool:
        return self._accepted.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def _connected(self, target: socket.socket) -> None:
        self._target = target
        if self._engine is not None and self._leg is TlsLeg.TARGET:
            self._step = Handshake(self._loop, self, target, self._engine, self._relay, self._fail)
            self._step.begin()
        else:
            self._relay()

    def _paired(self, target: socket.socket, engine: TlsEngine | None) -> None:
        self._target, self._engine = target, engine
        self._relay()

    def _move(self, worker: int) -> bool:
        """Hand the connection over to another worker, which has one of the other gateway ready."""
        step = self._step
        if not isinstance(step, Pairing) or not self._channel.move(self, self._accepted, worker, step.due):
            return False
        self._ended = True
        step.abort()
        return True

    def _relay(self) -> None:
        target, engine = self._target, self._engine
        if target is None:
            return
        tls_accepted = self._leg is TlsLeg.LISTENER
        try:
            by_kernel = engine is not None and engine.hand_over(self._accepted if tls_accepted else target)
        except TlsError as error:
            self._fail(str(error))
            return
        self._channel.session.established(self._channel, self._accepted, target)
        relay = self._relay_of(target, by_kernel=by_kernel, tls_accepted=tls_accepted)
        # from here on all is the relay's, which ends itself if it cannot begin
        self._ended = True
        self._channel.establishment_ended(self, failed=False)
        if engine is not None and by_kernel:
            engine.free()
        relay.begin()

    def _relay_of(self, target: socket.socket, *, by_kernel: bool, tls_accepted: bool) -> Relay:
        sides = self._loop, self._channel, self._accepted, target
        if self._engine is None:
            return plain_relay(*sides)
        if by_kernel:
            return KernelRelay(*sides, tls_accepted=tls_accepted)
        return TlsRelay(*sides, self._engine, tls_accepted=tls_accepted)

    def _fail(self, reason: str) -> None:
        self._channel.session.tell_refusal(self._channel, reason)
        self.abort()

    def abort(self) -> None:
        """Reset whatever is there."""
        if self._ended:
            return
        self._ended = True
        if self._step is not None:
            self._step.abort()
        for sock in (self._accepted, self._target):
            if sock is not None:
                self._loop.forget(sock.fileno())
                reset(sock)
        if self._engine is not None:
            self._engine.free()
        self._channel.establishment_ended(self, failed=True)
