"""What the reference implementation does wrong with sessions, done right: one test for each row of that list.

Rows 1 to 5 and 15 to 17: sessions that share things, calls that block each other, calls out of order. Every
test has real control servers, the native data server and real traffic.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest

from support.delay_relay import DelayRelay
from support.gateways import Application, ControlServerProcess, ask, can_be_bound, until
from support.module_gateways import (
    Pair,
    SharedGateways,
    Together,
    calling,
    connected,
    encrypted_pair,
    family,
    is_refused,
    new_uid,
    refused,
)
from support.reference_client import HELLO_PAUSE_S

Applications = Callable[[str], Application]

#: What a call may take while the machine is busy with others.
PROMPT_S = 5.0

pytestmark = pytest.mark.timeout(60)


def listening_ports(server: ControlServerProcess) -> set[int]:
    """Every TCP port that the control server or one of its processes listens on."""
    ports = set()
    for process in family(server):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                ports.add(connection.laddr.port)
    return ports


def open_sockets(server: ControlServerProcess) -> int:
    """How many sockets the control server and its processes hold; workers keep a spare pipe each besides."""
    links = []
    for process in family(server):
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(str(link.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_row_01_release_ends_the_forwarding_and_leaves_no_process(
    pair: Pair, application: Applications
) -> None:
    server, app = pair[0], application("app")
    with calling(server) as alice, contextlib.ExitStack() as streams:
        first = new_uid()  # what the server opens once, and this connection to it, are no leak
        assert ask(alice.open_plain(first, app.address), b"x") == b"app:x"
        alice.release(first)
        before = [process.pid for process in family(server)], listening_ports(server), open_sockets(server)
        uids = [new_uid() for _ in range(20)]
        listeners = [alice.open_plain(uid, app.address) for uid in uids]
        assert [ask(listener, b"x") for listener in listeners] == [b"app:x"] * len(uids)
        in_use = [streams.enter_context(connected(listener)) for listener in listeners]
        for stream in in_use:
            stream.sendall(b"in mid-stream")
        for uid in uids:
            alice.release(uid)
        # the answer to release is the proof: nothing is waited for after it
        assert all(map(is_refused, listeners))
        assert all(map(can_be_bound, listeners))
        for stream in in_use:
            stream.settimeout(PROMPT_S)
            with contextlib.suppress(ConnectionResetError):
                assert stream.recv(100) == b""
        assert {alice.status(uid).state for uid in uids} == {"released"}
        assert [process.pid for process in family(server)] == before[0]
        assert listening_ports(server) == before[1]
        until(lambda: open_sockets(server) <= before[2])


def test_row_02_simultaneous_requests_lead_each_user_to_their_own_application(
    pair: Pair, application: Applications
) -> None:
    users = ["alice", "bob"] * 6
    apps = [application(f"{user}-{number}") for number, user in enumerate(users)]
    uids = [new_uid() for _ in users]
    with contextlib.ExitStack() as stack:
        sides = [[stack.enter_context(calling(server, user)) for server in pair] for user in users]

        def set_up(number: int) -> bytes:
            ours, theirs = sides[number]
            producer = ours.open_plain(uids[number], apps[number].address)
            return ask(theirs.open_consumer(uids[number], [producer]), b"who?")

        answers = Together().run([lambda number=number: set_up(number) for number in range(len(users))])
        assert answers == [app.name.encode() + b":who?" for app in apps]
        for uid, callers in zip(uids, sides, strict=True):
            for caller in callers:
                caller.release(uid)


def test_row_03_simultaneous_hellos_get_the_answers_of_their_own_sessions(
    pair: Pair, application: Applications
) -> None:
    apps = [application(f"app-{number}") for number in range(20)]
    uids = [new_uid() for _ in apps]
    with calling(pair[0]) as requests, calling(pair[0]) as hellos:
        waiting = [requests.req(uid, num_conn=2) for uid in uids]
        said = [hellos.hello(uid, [app.address]) for uid, app in zip(uids, apps, strict=True)]
        told = [list(one.result().listeners) for one in said]
        grants = [one.result() for one in waiting]
        assert [list(grant.listeners) for grant in grants] == told
        assert [list(grant.prod_listeners) for grant in grants] == [[app.address] for app in apps]
        assert len({listener for grant in grants for listener in grant.listeners}) == 2 * len(apps)
        for uid in uids:
            requests.release(uid)


def test_row_04_requests_that_wait_block_nobody_and_are_freed_when_their_callers_go(
    pair: Pair, application: Applications
) -> None:
    app = application("app")
    with calling(pair[0]) as waiters, calling(pair[0]) as other:
        calls = {uid: waiters.req(uid) for uid in (new_uid() for _ in range(100))}
        until(lambda: sum(one.state == "reserved" for one in other.all_sessions()) >= len(calls))
        begin_s = time.monotonic()
        uid = new_uid()
        listener = other.open_plain(uid, app.address)
        assert ask(listener, b"x") == b"app:x"
        other.release(uid)
        assert time.monotonic() - begin_s < PROMPT_S

        gone, staying = list(calls)[:50], list(calls)[50:]
        ports = {uid: list(other.status(uid).listeners) for uid in gone}
        for uid in gone:
            calls[uid].cancel()
        until(lambda: all(other.status(uid).state == "released" for uid in gone))
        assert all(can_be_bound(listener) for uid in gone for listener in ports[uid])
        for uid in staying:
            other.hello(uid, [app.address]).result()
        assert [list(calls[uid].result().prod_listeners) for uid in staying] == [[app.address]] * 50
        for uid in staying:
            other.release(uid)


def test_row_05_a_hello_that_overtakes_its_request_waits_for_it(
    pair: Pair, application: Applications
) -> None:
    server, apps = pair[0], [application(f"app-{number}") for number in range(5)]
    # REQ over a path with a round trip of 0.6 s, HELLO over a short one: the pause of the reference's client
    # is over long before REQ arrives
    with (
        DelayRelay(f"tcp://{server.address}", delay_s=0.3) as path,
        calling(server, at=path.address.removeprefix("tcp://")) as far,
        calling(server) as near,
    ):
        uids = [new_uid() for _ in apps]
        begin_s = time.monotonic()
        waiting = [far.req(uid) for uid in uids]
        time.sleep(HELLO_PAUSE_S)  # what is tested, not what is waited for
        said = [near.hello(uid, [app.address]) for uid, app in zip(uids, apps, strict=True)]
        assert [list(one.result().prod_listeners) for one in waiting] == [[app.address] for app in apps]
        assert [one.code() for one in said] == [grpc.StatusCode.OK] * len(apps)
        assert time.monotonic() - begin_s > 2 * 0.3 + HELLO_PAUSE_S
        for uid, app in zip(uids, apps, strict=True):
            grant = near.update(uid, [app.address])
            assert ask(grant.listeners[0], b"x") == app.name.encode() + b":x"
            near.release(uid)


def test_row_15_a_second_update_leads_new_connections_elsewhere_and_old_ones_finish(
    pair: Pair, application: Applications
) -> None:
    first, second, uid = application("first"), application("second"), new_uid()
    with calling(pair[0]) as alice:
        listener = alice.open_plain(uid, first.address)
        with connected(listener) as old:
            old.sendall(b"begun before, ")
            until(lambda: alice.status(uid).channels[0].bytes_to_target)
            grant = alice.update(uid, [second.address])
            assert list(grant.listeners) == [listener]
            assert [ask(listener, b"x") for _ in range(40)] == [b"second:x"] * 40
            old.sendall(b"ended after")
            old.shutdown(socket.SHUT_WR)
            old.settimeout(PROMPT_S)
            assert b"".join(iter(lambda: old.recv(100), b"")) == b"first:begun before, ended after"
        assert list(alice.status(uid).targets) == [second.address]
        alice.release(uid)


def test_row_15_an_encrypted_session_is_led_elsewhere_too(pair: Pair, application: Applications) -> None:
    first, second = application("first"), application("second")
    with (
        calling(pair[0]) as ours,
        calling(pair[1]) as theirs,
        encrypted_pair(ours, theirs, first.address) as session,
    ):
        listener = session.connect(first.address)
        assert ask(listener, b"x") == b"first:x"
        ours.update(session.uid, [second.address], session.consumer.certificate)
        assert [ask(listener, b"x") for _ in range(10)] == [b"second:x"] * 10
        assert ours.status(session.uid).encrypted


def test_row_16_an_update_before_hello_is_refused_and_nothing_is_forwarded(
    pair: Pair, application: Applications
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        waiting = alice.req(uid)
        until(lambda: any(one.uid == uid and one.state == "reserved" for one in alice.all_sessions()))
        code, details = refused(lambda: alice.update(uid, [app.address]))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert uid in details
        assert "hello" in details
        session = alice.status(uid)
        assert (session.state, list(session.targets), list(session.channels)) == ("reserved", [], [])
        alice.hello(uid, [app.address]).result()
        assert list(waiting.result().listeners) == list(session.listeners)
        assert not app.threads  # nobody has connected
        alice.update(uid, [app.address])
        assert ask(session.listeners[0], b"x") == b"app:x"
        alice.release(uid)


def test_row_17_release_answers_the_request_that_waits_for_hello(pair: Pair) -> None:
    uids = [new_uid() for _ in range(5)]
    with calling(pair[0]) as alice, calling(pair[0]) as other:
        waiting = [alice.req(uid) for uid in uids]
        until(lambda: {one.uid for one in other.all_sessions() if one.state == "reserved"} >= set(uids))
        begin_s = time.monotonic()
        for uid in uids:
            other.release(uid)
        for uid, call in zip(uids, waiting, strict=True):
            code, details = refused(call.result)
            assert (code, uid in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert time.monotonic() - begin_s < PROMPT_S


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_row_17_a_signal_ends_a_control_server_on_which_requests_wait(
    own: SharedGateways, signum: int, code: int
) -> None:
    server = own.start()
    with calling(server) as alice, ThreadPoolExecutor(1) as threads:
        waiting = [alice.req(new_uid()) for _ in range(20)]
        until(lambda: sum(one.state == "reserved" for one in alice.all_sessions()) == len(waiting))
        begin_s = time.monotonic()
        ending = threads.submit(server.stop, signum)
        codes = {refused(call.result)[0] for call in waiting}
        assert ending.result(30) == (code, [])
        assert time.monotonic() - begin_s < 5
    assert codes <= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE}
