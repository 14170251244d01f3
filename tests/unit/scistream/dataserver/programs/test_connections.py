"""The kernel's counters of this process's own connections, and whose they are."""

from __future__ import annotations

import contextlib
import os
import socket

from scistream.core.endpoint import Endpoint
from scistream.dataserver import TlsLeg
from scistream.dataserver.programs.connections import (
    Connection,
    Ended,
    connections_of,
    open_figures,
    read_connection,
    with_ended,
)
from scistream.dataserver.programs.plan import Channel, Plan
from support.relays import Identity, credentials, endpoint, receive


def _mine(sock: socket.socket) -> Connection:
    inode = os.fstat(sock.fileno()).st_ino
    return next(one for one in connections_of([os.getpid()]) if one.inode == inode)


def test_payload_is_counted_exactly_from_the_first_to_the_last_byte() -> None:
    for host in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
            near = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            far = stack.enter_context(listener.accept()[0])
            assert (_mine(near).sent, _mine(near).received) == (0, 0)
            near.sendall(bytes(100_000))
            assert len(receive(far, 100_000)) == 100_000
            far.sendall(b"x" * 30)
            assert len(receive(near, 30)) == 30
            assert (_mine(near).sent, _mine(near).received) == (100_000, 30)
            assert (_mine(far).sent, _mine(far).received) == (30, 100_000)
            # the end of a stream is no byte of it
            near.shutdown(socket.SHUT_WR)
            assert far.recv(1) == b""
            assert (_mine(near).sent, _mine(near).received) == (100_000, 30)
            assert (_mine(far).sent, _mine(far).received) == (30, 100_000)
            assert _mine(near).local == endpoint(near)
            assert _mine(near).remote == endpoint(listener)


def test_an_ipv4_connection_of_an_ipv6_socket_has_ipv4_addresses() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as far:
            assert _mine(far).local == Endpoint("127.0.0.1", port)


def test_a_process_that_is_gone_has_no_connections() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert connections_of([pid]) == []


def test_a_message_without_counters_is_no_connection() -> None:
    assert read_connection(socket.AF_INET, bytes(72)) is None


def _plan(*, tls: bool, same_target: bool) -> Plan:
    channels = tuple(
        Channel(
            name=f"channel{index}",
            descriptor=3 + index,
            listener=Endpoint("127.0.0.1" if index == 0 else "0.0.0.0", 100 + index),
            addresses=(Endpoint("10.0.0.1", 80 if same_target else 80 + index),),
        )
        for index in range(2)
    )
    identity = Identity(b"", b"")
    return Plan(
        uid="s",
        channels=channels,
        tls=credentials(TlsLeg.LISTENER, identity, identity) if tls else None,
        rate_mbps=0,
    )


def _accepted(port: int, inode: int, sent: int = 0, received: int = 0) -> Connection:
    return Connection(Endpoint("127.0.0.1", port), Endpoint("1.1.1.1", 9), sent, received, inode)


def _dialled(port: int, inode: int, sent: int, received: int) -> Connection:
    return Connection(Endpoint("127.0.0.1", 999), Endpoint("10.0.0.1", port), sent, received, inode)


def _addresses(plan: Plan) -> list[set[Endpoint]]:
    return [set(channel.addresses) for channel in plan.channels]


def test_plain_connections_count_where_they_were_accepted() -> None:
    plan = _plan(tls=False, same_target=True)
    found = [_accepted(100, 1, 5, 6), _accepted(101, 2, 7, 8), _accepted(101, 3, 1, 1), _dialled(80, 4, 6, 5)]
    assert open_figures(plan, _addresses(plan), found) == [[1, 6, 5], [2, 9, 8]]


def test_encrypted_connections_count_where_they_were_dialled() -> None:
    plan = _plan(tls=True, same_target=False)
    found = [
        _accepted(100, 1, 999, 999),
        _accepted(101, 2, 999, 999),
        _dialled(81, 3, 7, 8),
        _dialled(80, 4, 5, 6),
    ]
    assert open_figures(plan, _addresses(plan), found) == [[1, 5, 6], [1, 7, 8]]


def test_connections_to_a_common_target_belong_to_the_channels_in_their_order() -> None:
    plan = _plan(tls=True, same_target=True)
    found = [_accepted(101, 1), _accepted(100, 2), _dialled(80, 3, 5, 6), _dialled(80, 4, 7, 8)]
    assert open_figures(plan, _addresses(plan), found) == [[1, 7, 8], [1, 5, 6]]


def test_what_has_ended_and_what_is_open_make_all() -> None:
    assert with_ended([[0, 3, 1, 10, 20]], [[2, 5, 6]]) == [[2, 5, 1, 15, 26]]


def test_what_is_said_to_have_ended_is_left_out_while_its_socket_lives() -> None:
    def accepted(port: int) -> Connection:
        return Connection(Endpoint("127.0.0.1", 5100), Endpoint("127.0.0.1", port), 0, 0, port)

    ended = Ended()
    ended.add(Endpoint("127.0.0.1", 1001))
    assert ended.left_out([accepted(1001), accepted(1002)]) == [accepted(1002)]
    assert ended.left_out([accepted(1001)]) == []
    assert ended.left_out([]) == []
    # its socket is gone: the same address is another connection now
    assert ended.left_out([accepted(1001)]) == [accepted(1001)]
