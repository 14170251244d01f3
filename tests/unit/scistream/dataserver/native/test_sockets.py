"""Pipes are lent and reused; sockets are tuned, reset and asked for what is unsent."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from scistream.dataserver.native import sockets
from scistream.dataserver.native.sockets import (
    PipePool,
    close_in_order,
    is_kept_alive,
    is_tuned,
    keep_alive,
    reset,
    tune,
    unacknowledged_bytes,
    why_no_congestion_control,
)
from support.relays import accept, connect, listening, receive_until_reset


@pytest.fixture
def pool() -> Iterator[PipePool]:
    pool = PipePool()
    yield pool
    pool.close()


def test_an_empty_pipe_is_used_again(pool: PipePool) -> None:
    first = pool.borrow()
    pool.give_back(first)
    assert pool.borrow() == first
    assert pool.lent == 1
    pool.give_back(first)
    assert pool.lent == 0


def test_a_pipe_with_bytes_is_never_lent_again(pool: PipePool) -> None:
    pipe = pool.borrow()
    os.write(pipe[1], b"another session's bytes")
    pool.discard(pipe)
    again = pool.borrow()
    with pytest.raises(BlockingIOError):
        os.read(again[0], 1)
    pool.give_back(again)


def test_only_so_many_pipes_are_kept(pool: PipePool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pipes = [pool.borrow() for _ in range(sockets.IDLE_PIPES + 20)]
    for pipe in pipes:
        pool.give_back(pipe)
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * sockets.IDLE_PIPES


def test_a_smaller_pipe_is_taken_where_the_kernel_refuses_a_large_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = fcntl.fcntl

    def strict(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ and argument > 256 * 1024:
            raise PermissionError
        return int(real(descriptor, command, argument))

    monkeypatch.setattr(sockets.fcntl, "fcntl", strict)
    pool = PipePool()
    pipe = pool.borrow()
    assert real(pipe[1], fcntl.F_GETPIPE_SZ) == 256 * 1024
    pool.give_back(pipe)
    pool.close()


def test_reset_is_a_reset() -> None:
    with listening() as listener, connect(listener) as client:
        reset(accept(listener))
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_unacknowledged_bytes_are_those_that_the_peers_kernel_has_not() -> None:
    with listening() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with connect(listener) as client, accept(listener) as server:
            assert unacknowledged_bytes(client) == 0
            client.setblocking(False)
            client.send(bytes(100_000))
            assert 0 < unacknowledged_bytes(client) < 100_000
            assert len(server.recv(1)) == 1


def test_tuning_a_listener_tunes_what_it_accepts() -> None:
    with listening() as listener:
        tune(listener, "reno")
        keep_alive(listener, 120)
        with connect(listener), accept(listener) as server:
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert is_tuned(server)
            assert is_kept_alive(server)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle_s, interval_s, probes = (server.getsockopt(socket.IPPROTO_TCP, name) for name in options)
            assert idle_s + interval_s * probes == 120
            name = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert name.rstrip(b"\0") == b"reno"


def test_an_unknown_congestion_control_leaves_the_kernels() -> None:
    with socket.socket() as sock:
        before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        tune(sock, "no-such-control")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == before


@pytest.mark.parametrize("complete", [True, False])
def test_a_tuned_connection_ends_well_only_when_it_is_closed_in_order(complete: bool) -> None:
    with listening() as listener:
        tune(listener, None)
        near = connect(listener)
        accepted = accept(listener)
        accepted.sendall(b"all of it")
        if complete:
            close_in_order(accepted)
            assert near.recv(100) == b"all of it"
            assert near.recv(1) == b""
        else:
            accepted.close()  # as the kernel does when a process is killed
            receive_until_reset(near)
        near.close()


def test_a_congestion_control_is_permitted_or_refused_with_a_reason() -> None:
    assert why_no_congestion_control("reno") == ""
    assert why_no_congestion_control("no-such-one")
