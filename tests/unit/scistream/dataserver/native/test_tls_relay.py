"""A TLS relay frees what its engine holds when it ends, not when Python next looks for circles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from scistream.dataserver import TlsLeg
from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.relay import Relay
from scistream.dataserver.native.tls import ENGINES, TlsEngine, make_context
from scistream.dataserver.native.tls_relay import MOST_DISCARDS, TlsRelay
from support.relays import Identity, accept, connect, credentials, listening

OURS, THEIRS = Identity.make(), Identity.make()


class Session:
    """What the relay asks of it."""

    peer_omits_close_notify = False


@dataclass
class Channel:
    """Keeps the relay, as a session's channel does."""

    session: Session = field(default_factory=Session)
    open_relays: set[Relay] = field(default_factory=set)

    def relay_begins(self, relay: Relay) -> None:
        self.open_relays.add(relay)

    def relay_ended(self, relay: Relay) -> None:
        self.open_relays.discard(relay)


def _ssl_object(engine: TlsEngine) -> weakref.ref[Any]:
    held: Any = engine
    return weakref.ref(held._connection if hasattr(held, "_connection") else held._object)


@pytest.fixture
def _no_search_for_circles() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_search_for_circles")
@pytest.mark.parametrize("in_order", [False, True], ids=["reset", "end"])
@pytest.mark.parametrize("name", ENGINES)
def test_the_state_of_tls_goes_with_the_connection(name: str, in_order: bool) -> None:
    loop, channel = Loop(), Channel()
    with listening() as listener:
        near, accepted = connect(listener), accept(listener)
        target, far = connect(listener), accept(listener)
    for sock in (accepted, target):
        sock.setblocking(False)
    context = make_context(credentials(TlsLeg.TARGET, OURS, THEIRS), name)
    engine = context.engine(loop.scratch)
    engine.handshake(b"")
    held = _ssl_object(engine)
    TlsRelay(loop, channel, accepted, target, engine, tls_accepted=False).begin()  # type: ignore[arg-type]
    del engine
    (relay,) = channel.open_relays
    assert held() is not None
    if in_order:
        relay.close()
    else:
        relay.abort()
    assert held() is None
    for end in (near, far):
        end.close()
    loop.close()


class Endless:
    """A peer that goes on and on after its end."""

    reads = 0

    def recv(self, size: int) -> bytes:
        self.reads += 1
        assert self.reads < 1000
        return bytes(size)


def test_a_peer_that_goes_on_after_its_end_keeps_nobody_waiting() -> None:
    loop, channel, endless = Loop(), Channel(), Endless()
    with listening() as listener:
        near, accepted = connect(listener), accept(listener)
        target, far = connect(listener), accept(listener)
    for sock in (accepted, target):
        sock.setblocking(False)
    engine = make_context(credentials(TlsLeg.TARGET, OURS, THEIRS), "openssl").engine(loop.scratch)
    engine.handshake(b"")
    relay = TlsRelay(loop, channel, accepted, target, engine, tls_accepted=False)  # type: ignore[arg-type]
    relay.begin()
    relay.tls_socket = endless  # type: ignore[assignment]
    relay.close()
    assert endless.reads == MOST_DISCARDS
    for end in (near, far):
        end.close()
    loop.close()
