"""Every data server with every other, as between two facilities that have chosen differently."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from scistream.core.endpoint import Endpoint
from scistream.errors import DataServerError
from support.data_servers import options_of
from support.matrix import CELLS, CONTAINER_CELLS, Backends, Cell, Crossing, Payload
from support.relays import (
    LOCALHOST,
    Background,
    Hop,
    Identity,
    LoopThread,
    Path,
    accept,
    connect,
    endpoint,
    nobody_came,
    nothing_is_said,
    receive,
    turned_away,
    until,
)
from support.tls_peer import stranger_talks, tls_context

LENGTH = 100_000_000


@pytest.fixture(scope="module")
def facilities(thread: LoopThread, request: pytest.FixtureRequest) -> Iterator[Backends]:
    backends = Backends(thread, lambda kind: options_of(kind, request))
    yield backends
    backends.close()


@pytest.fixture(scope="module")
def payloads() -> tuple[Payload, Payload]:
    return Payload(LENGTH), Payload(LENGTH)


@pytest.fixture(scope="module", params=[*CELLS, *CONTAINER_CELLS])
def cell(request: pytest.FixtureRequest, facilities: Backends) -> Cell:
    """A cell whose data servers are open, and stay open for the other cells."""
    facilities.opened("producer", request.param.producer)
    facilities.opened("consumer", request.param.consumer)
    return request.param


def test_a_pair_carries_100_megabytes_both_ways_and_lets_nobody_else_in(
    cell: Cell, facilities: Backends, payloads: tuple[Payload, Payload]
) -> None:
    with Crossing.over(facilities, cell) as session:
        if not cell.exists:
            _stunnel_refuses(session)
            return
        producer = session.start_producer()
        consumer = session.start_consumer([endpoint(listener) for listener in producer.listeners])
        session.carry(consumer, *payloads)
        if cell.encrypted:
            with Crossing.over(facilities, cell, uid="other") as other:
                other.start_producer()
                _nobody_else_gets_in(session, producer, other)
            with Crossing.over(facilities, cell, uid="other") as other:
                _nobody_else_is_dialled(session, other)


def _stunnel_refuses(session: Crossing) -> None:
    """Each stunnel refuses its side of a plain session; another data server has nothing against it."""
    nowhere = [Endpoint(LOCALHOST, 9)]
    for kind, path in (
        (session.cell.producer, session.producer_side),
        (session.cell.consumer, session.consumer_side),
    ):
        if kind == "stunnel":
            with pytest.raises(DataServerError, match=r"not encrypted.*--encryption required"):
                path.hop(nowhere, None, channels=session.cell.channels)
        else:
            path.hop(nowhere, None, channels=session.cell.channels)


def _strangers(session: Crossing, other: Crossing) -> list[ssl.SSLContext | None]:
    known = session.producer_side.producer_identity
    return [
        None,  # plain TCP
        tls_context(None, known),  # no certificate
        tls_context(Identity.make("session"), known),  # one that it has made, with the session's name
        tls_context(other.consumer_side.consumer_identity, known),  # the right one of another session
    ]


def _nobody_else_gets_in(session: Crossing, producer: Hop, other: Crossing) -> None:
    until(lambda: not any(one.connections_open for one in producer.statistics()), "all streams are closed")
    before = producer.statistics()
    strangers = _strangers(session, other)
    for listener in producer.listeners:
        for context in strangers:
            stranger_talks(listener, context)
    failed = [one.connections_failed + len(strangers) for one in before]
    until(lambda: [one.connections_failed for one in producer.statistics()] == failed, "all are refused")
    for then, now in zip(before, producer.statistics(), strict=True):
        assert now.bytes_to_target <= then.bytes_to_target
        assert now.bytes_from_target <= then.bytes_from_target
    assert all(nobody_came(application) for application in session.applications)


def _nobody_else_is_dialled(session: Crossing, other: Crossing) -> None:
    """The consumer's data server says nothing to another session's, even to one that lets it in."""
    other.producer_side.consumer_identity = session.consumer_side.consumer_identity
    others_producer = other.start_producer()
    consumer = session.start_consumer([endpoint(listener) for listener in others_producer.listeners])
    resets = session.consumer_side.resets
    # at once, since haproxy tries again for some seconds
    turning_away = [
        Background(lambda at=listener: turned_away(at, saying=b"secret", resets=resets))
        for listener in consumer.listeners
    ]
    assert all(one.result() for one in turning_away)
    until(lambda: all(one.connections_failed == 1 for one in consumer.statistics()), "all are refused")
    assert not any(one.bytes_to_target for one in consumer.statistics())
    assert not any(one.bytes_to_target for one in others_producer.statistics())
    # nginx judges the other's certificate when the handshake is over: somebody may come, and is silent
    assert all(nothing_is_said(application) for application in other.applications)


def test_an_ipv6_target_is_reached(path: Path) -> None:
    application = path.listening("::1")
    consumer, _ = path.both(endpoint(application))
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"there")
        assert receive(far, 5) == b"there"
        far.sendall(b"back")
        assert receive(near, 4) == b"back"


def test_a_channel_carries_200_connections_one_after_the_other(path: Path) -> None:
    application = path.listening()
    consumer, _ = path.both(endpoint(application))
    for number in range(200):
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            near.sendall(b"question %3d" % number)
            assert receive(far, 12) == b"question %3d" % number
            far.sendall(b"answer %3d" % number)
            assert receive(near, 10) == b"answer %3d" % number
    until(lambda: consumer.statistics()[0].connections_open == 0, "all are closed")
    assert consumer.statistics()[0].connections_failed == 0
