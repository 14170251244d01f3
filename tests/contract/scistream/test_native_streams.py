"""What the native data server does with streams, and haproxy, nginx and stunnel do not.

They end a connection in order, whatever has ended it at the other side, so that a stream that was cut can
look complete; they take the end of TCP for the end of TLS; and they read before there is a target.
"""

from __future__ import annotations

import socket

import pytest

from support.relays import (
    LOCALHOST,
    Path,
    accept,
    connect,
    cut,
    endpoint,
    fill,
    random_bytes,
    receive,
    receive_all,
    receive_until_reset,
    until,
)
from support.tls_peer import Peer, tls_context


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_a_reset_arrives_as_a_reset_after_the_data(native_path: Path, from_target: bool) -> None:
    with native_path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        one.sendall(b"first")
        assert receive(other, 5) == b"first"
        cut(one)
        assert receive_until_reset(other) == b""


def test_what_came_before_a_reset_is_delivered_first(native_path: Path) -> None:
    data = random_bytes(300_000)
    with native_path.joined() as (near, far):
        near.sendall(data)
        # all of it has reached the first gateway: the kernel of the sender has nothing left to drop
        until(
            lambda: native_path.hops[1].statistics()[0].bytes_to_target == len(data), "bytes at the gateway"
        )
        cut(near)
        assert receive_until_reset(far) == data


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_a_reset_passes_a_stalled_direction(native_path: Path, from_target: bool) -> None:
    with native_path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        sent = fill(one)
        cut(one)
        got = receive_until_reset(other)
        assert len(got) <= sent
        until(lambda: native_path.hops[0].statistics()[0].connections_open == 0, "first gateway forgets it")
        until(lambda: native_path.hops[1].statistics()[0].connections_open == 0, "second gateway forgets it")


def test_a_reset_after_the_end_of_the_other_direction_arrives(native_path: Path) -> None:
    with native_path.joined() as (near, far):
        near.sendall(b"last words")
        near.shutdown(socket.SHUT_WR)
        assert receive_all(far) == b"last words"
        cut(near)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            far.sendall(bytes(1 << 27))


def test_nothing_is_read_from_a_client_before_its_target_is_there(native_path: Path) -> None:
    # a target whose queue is full neither accepts nor refuses
    with socket.socket() as deaf:
        deaf.bind((LOCALHOST, 0))
        deaf.listen(0)
        with connect(deaf):
            hop = native_path.hop([endpoint(deaf)], None)
            with connect(hop.listeners[0]) as near:
                near.sendall(b"patience")
                until(lambda: hop.statistics()[0].connections_total == 1, "accepted")
                assert hop.statistics()[0].bytes_to_target == 0
                # all eight bytes wait in the kernel's queue of the accepted socket, none in the data server
                assert _receive_queue_of(near) == 8


def _receive_queue_of(client: socket.socket) -> int:
    """Bytes that the kernel holds for the process at the other end of `client`."""
    local, remote = client.getsockname()[1], client.getpeername()[1]
    with open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            ports = [int(address.rsplit(":", 1)[1], 16) for address in fields[1:3]]
            if ports == [remote, local]:
                return int(fields[4].split(":")[1], 16)
    raise AssertionError("no such connection")


def test_a_stream_without_close_notify_is_not_passed_on_as_complete(native_tls_path: Path) -> None:
    path = native_tls_path
    application = path.listening()
    producer = path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        peer = Peer(raw)
        context = tls_context(path.consumer_identity, path.producer_identity)
        peer.handshake(context, last_words=b"half a fra")
        with accept(application) as far:
            assert receive(far, 10) == b"half a fra"
            raw.shutdown(socket.SHUT_WR)
            assert receive_until_reset(far) == b""


def test_the_end_of_a_peer_that_omits_close_notify_is_passed_on_as_an_end(native_tls_path: Path) -> None:
    path = native_tls_path
    path.peer_omits_close_notify = True
    application = path.listening()
    producer = path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        peer = Peer(raw)
        context = tls_context(path.consumer_identity, path.producer_identity)
        peer.handshake(context, last_words=b"question")
        with accept(application) as far:
            raw.shutdown(socket.SHUT_WR)
            assert receive_all(far) == b"question"
            far.sendall(b"answer")
            far.shutdown(socket.SHUT_WR)
            while b"answer" not in peer.opened:
                peer.receive()


@pytest.mark.parametrize("came", [1, 4, 5, 9_000, -1])
def test_an_end_in_the_middle_of_a_record_is_a_cut_for_every_peer(native_tls_path: Path, came: int) -> None:
    path = native_tls_path
    path.peer_omits_close_notify = True
    application = path.listening()
    producer = path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        peer = Peer(raw)
        peer.handshake(tls_context(path.consumer_identity, path.producer_identity), last_words=b"whole")
        with accept(application) as far:
            assert receive(far, 5) == b"whole"
            peer.tls.write(bytes(16_000))
            raw.sendall(peer.outgoing.read()[:came])
            raw.shutdown(socket.SHUT_WR)
            assert receive_until_reset(far) == b""


def test_a_reset_of_a_peer_that_omits_close_notify_is_a_reset(native_tls_path: Path) -> None:
    path = native_tls_path
    path.peer_omits_close_notify = True
    application = path.listening()
    producer = path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        context = tls_context(path.consumer_identity, path.producer_identity)
        Peer(raw).handshake(context, last_words=b"half a fra")
        with accept(application) as far:
            assert receive(far, 10) == b"half a fra"
            cut(raw)
            assert receive_until_reset(far) == b""
