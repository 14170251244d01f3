"""Connections go to the worker that has fewest of their session."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from scistream.dataserver.native.balance import Balance, BalanceOfWorker

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
    key, channel, accepted = received
    assert (key, channel) == (KEY, 5)
    assert accepted.gettimeout() == 0
    accepted.close()


def test_workers_that_do_not_listen_get_none(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    workers[0].open(SLOT)
    workers[1].open(SLOT)
    workers[1].close(SLOT)
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
        received[2].close()


def test_a_count_after_the_sessions_end_is_not_taken_for_another_session(
    workers: list[BalanceOfWorker], connection: socket.socket
) -> None:
    workers[1].open(SLOT)
    workers[1].count(SLOT, 1)
    workers[1].close(SLOT)
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
