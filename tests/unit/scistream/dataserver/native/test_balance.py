"""Connections go to the worker that has fewest of their session."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from scistream.dataserver.native.balance import Arrival, Balance, BalanceOfWorker, Handed

SLOT, KEY = 3, 77


@pytest.fixture
def workers() -> Iterator[list[BalanceOfWorker]]:
    balance = Balance(3)
    yield [BalanceOfWorker(balance, index) for index in range(3)]
    balance.close()


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    one, other = socket.socketpair()
    yield one
    one.close()
    other.close()


def test_the_first_connection_stays(workers: list[BalanceOfWorker], connection: socket.socket) -> None:
    for worker in workers:
        worker.open(SLOT)
    assert not workers[0].hand_over(SLOT, KEY, 0, connection)


def test_a_connection_goes_to_whoever_has_fewer(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    for worker in workers:
        worker.open(SLOT)
    workers[0].count(SLOT, 2)
    workers[1].count(SLOT, 1)
    descriptor = connection.fileno()
    assert workers[0].hand_over(SLOT, KEY, 5, connection)
    assert connection.fileno() == -1 != descriptor
    assert workers[1].receive() is None
    received = workers[2].receive()
    assert received is not None
    assert (received.key, received.channel, received.what) == (KEY, 5, Handed.ACCEPTED)
    assert received.sock.gettimeout() == 0
    received.sock.close()


def test_workers_that_do_not_listen_get_none(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    workers[0].open(SLOT)
    workers[1].open(SLOT)
    workers[1].close(SLOT, 1)
    workers[0].count(SLOT, 5)
    assert not workers[0].hand_over(SLOT, KEY, 0, connection)


def test_connections_on_the_way_count(workers: list[BalanceOfWorker]) -> None:
    for worker in workers:
        worker.open(SLOT)
    workers[0].count(SLOT, 1)
    # nobody has taken the first one yet, and still the second one does not go to the same worker
    for _ in range(2):
        one, other = socket.socketpair()
        assert workers[0].hand_over(SLOT, KEY, 0, one)
        other.close()
    for index in (1, 2):
        received = workers[index].receive()
        assert received is not None
        received.sock.close()


def test_a_count_after_the_sessions_end_is_not_taken_for_another_session(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    workers[1].open(SLOT)
    workers[1].count(SLOT, 1)
    workers[1].close(SLOT, 1)
    workers[1].count(SLOT, -1)
    workers[0].open(SLOT)
    workers[0].count(SLOT, 1)
    assert not workers[0].hand_over(SLOT, KEY, 0, connection)


def test_all_workers_connections_are_summed_and_a_dead_workers_forgotten() -> None:
    balance = Balance(3)
    workers = [BalanceOfWorker(balance, index) for index in range(3)]
    assert workers[0].total(SLOT) == 0
    for worker, connections in zip(workers, (2, 0, 5), strict=True):
        worker.open(SLOT)
        worker.count(SLOT, connections)
    assert workers[0].total(SLOT) == 7
    balance.forget(SLOT, 2)
    assert workers[0].total(SLOT) == 2
    balance.close()


def test_what_is_ready_goes_where_it_is_needed(workers: list[BalanceOfWorker]) -> None:
    for worker in workers:
        worker.open(SLOT)
    assert workers[1].neediest(SLOT, 4) == 1  # nobody has any: it may stay
    workers[0].count_ready(SLOT, 4, 2, 0)
    workers[1].count_ready(SLOT, 4, 0, 1)
    workers[2].count_ready(SLOT, 4, -1, 0)  # one waits there
    assert workers[0].neediest(SLOT, 4) == 2
    workers[0].expect(2, SLOT, 4)
    workers[0].expect(2, SLOT, 4)
    workers[0].expect(2, SLOT, 4)
    assert workers[0].neediest(SLOT, 4) == 1
    assert [worker.richest(SLOT, 4) for worker in workers] == [None, 0, 0]
    assert workers[1].richest(SLOT, 5) is None
    for _ in range(2):  # as many go there as it has ready
        assert workers[1].richest(SLOT, 4) == 0
        workers[1].take_one(0, SLOT, 4)
    assert workers[1].richest(SLOT, 4) is None


def test_a_connection_that_waits_keeps_its_time(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    workers[0].open(SLOT)
    workers[1].open(SLOT)
    assert workers[0].send(1, Arrival(KEY, 5, Handed.WAITING, 12.5, connection))
    received = workers[1].receive()
    assert received is not None
    assert (received.key, received.channel, received.what, received.due) == (KEY, 5, Handed.WAITING, 12.5)
    received.sock.close()


def test_what_a_dead_worker_had_ready_is_forgotten() -> None:
    balance = Balance(2)
    workers = [BalanceOfWorker(balance, index) for index in range(2)]
    for worker in workers:
        worker.open(SLOT)
        worker.count_ready(SLOT, 0, 3, 0)
    balance.forget(SLOT, 1)
    workers[1].open(SLOT)
    assert workers[0].richest(SLOT, 0) is None
    assert workers[1].richest(SLOT, 0) == 0
    balance.close()


def test_the_end_of_one_session_leaves_what_others_have_ready(workers: list[BalanceOfWorker]) -> None:
    for worker in workers:
        for slot in (SLOT, SLOT + 1):
            worker.open(slot)
    for slot in (SLOT, SLOT + 1):
        for channel in range(2):
            workers[0].count_ready(slot, channel, 2, 1)
    workers[0].close(SLOT + 1, 2)
    assert [workers[1].richest(SLOT, channel) for channel in range(2)] == [0, 0]
    assert workers[1].neediest(SLOT, 0) == 1
    workers[0].open(SLOT + 1)  # the place is another session's now
    assert [workers[1].richest(SLOT + 1, channel) for channel in range(2)] == [None, None]
