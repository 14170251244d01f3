"""What the reference does wrong when something cannot start, or starts again, done right: a test per row.

Rows 10 to 12. Every test has real control servers, the native data server and real traffic.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from support.gateways import (
    Application,
    ControlServerProcess,
    Finished,
    ask,
    can_be_bound,
    run_program,
    until,
)
from support.module_gateways import (
    Pair,
    SharedGateways,
    calling,
    connected,
    free_range,
    new_uid,
    refused,
)

Applications = Callable[[str], Application]

PROMPT_S = 5.0
NOWHERE = "no-such-host.invalid:5001"

pytestmark = pytest.mark.timeout(60)


def test_row_10_a_port_that_another_program_holds_is_not_given_to_anybody(
    own: SharedGateways, application: Applications
) -> None:
    first, last = free_range(4)
    server, app = own.start("--encryption=optional", f"--port-range={first}-{last}"), application("app")
    with calling(server) as alice, socket.create_server(("127.0.0.1", first + 1)):
        uid = new_uid()
        grant = alice.reserve(uid, app.address, num_conn=3)
        assert {int(one.rpartition(":")[2]) for one in grant.listeners} == {first, first + 2, last}
        alice.update(uid, [app.address])
        assert [ask(one, b"x") for one in grant.listeners] == [b"app:x"] * 3
        alice.release(uid)
        code, _ = refused(lambda: alice.req(new_uid(), num_conn=4).result())
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_row_10_an_update_to_a_host_that_is_not_known_is_refused_and_changes_nothing(
    pair: Pair, application: Applications
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        grant = alice.reserve(uid, NOWHERE)
        for targets in ([NOWHERE], [app.address, NOWHERE]):
            code, details = refused(lambda targets=targets: alice.update(uid, targets))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "no-such-host.invalid" in details
            session = alice.status(uid)
            assert (session.state, session.reason) == ("announced", "")
        alice.update(uid, [app.address])
        assert ask(grant.listeners[0], b"x") == b"app:x"
        alice.release(uid)


def test_row_10_a_session_that_is_connected_goes_on_after_an_update_to_a_host_that_is_not_known(
    pair: Pair, application: Applications
) -> None:
    old, new, uid = application("old"), application("new"), new_uid()
    with calling(pair[0]) as alice:
        listener = alice.open_plain(uid, old.address)
        with connected(listener) as stream:
            stream.sendall(b"before, ")
            until(lambda: alice.status(uid).channels[0].bytes_to_target)
            code, _ = refused(lambda: alice.update(uid, [NOWHERE]))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            session = alice.status(uid)
            assert (session.state, session.reason, session.restarts) == ("connected", "", 0)
            assert list(session.targets) == [old.address]
            assert ask(listener, b"x") == b"old:x"
            alice.update(uid, [new.address])
            assert ask(listener, b"x") == b"new:x"
            stream.sendall(b"after")
            stream.shutdown(socket.SHUT_WR)
            stream.settimeout(PROMPT_S)
            assert b"".join(iter(lambda: stream.recv(100), b"")) == b"old:before, after"
        alice.release(uid)


@contextlib.contextmanager
def without_descriptors(server: ControlServerProcess) -> Iterator[None]:
    """Let the native data server open no more files: it cannot be given the listeners of a session."""
    (supervisor,) = psutil.Process(server.process.pid).children()
    limits = supervisor.rlimit(resource.RLIMIT_NOFILE)
    supervisor.rlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    yield
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have been replaced
        supervisor.rlimit(resource.RLIMIT_NOFILE, limits)


def test_row_10_a_data_server_that_cannot_start_is_an_error_of_update_and_of_the_session(
    own: SharedGateways, application: Applications
) -> None:
    server, app = own.start("--encryption=optional"), application("app")
    with calling(server) as alice:
        earlier, uid = new_uid(), new_uid()
        listener = alice.open_plain(earlier, app.address)
        with without_descriptors(server):
            grant = alice.reserve(uid, app.address)
            code, details = refused(lambda: alice.update(uid, [app.address]))
        assert code is grpc.StatusCode.INTERNAL
        assert "data server" in details
        failed = until(lambda: (now := alice.status(uid)).state == "failed" and now)
        assert failed.reason in details
        assert until(lambda: all(map(can_be_bound, grant.listeners)))
        # neither the session before nor the one after it shares its fate
        until(lambda: alice.status(earlier).state == "connected")
        assert ask(listener, b"x") == b"app:x"
        assert ask(alice.open_plain(new_uid(), app.address), b"x") == b"app:x"


def test_row_10_a_certificate_that_is_none_is_an_error_of_update(
    pair: Pair, application: Applications
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        alice.reserve(uid, app.address)
        code, details = refused(lambda: alice.update(uid, [app.address], b"no certificate"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "certificate" in details
        assert alice.status(uid).state == "announced"
        alice.release(uid)
        assert not app.threads


def test_row_10_the_user_clients_exit_code_tells_what_has_failed(
    own: SharedGateways, application: Applications
) -> None:
    server, app = own.start("--encryption=optional"), application("app")

    def opened(target: str) -> Finished:
        return run_program(
            "s2uc", "inbound-request", f"--target={target}", "--plain", "--json", *server.options()
        )

    unknown = opened(NOWHERE)
    assert (unknown.code, unknown.out) == (3, "")
    assert "no-such-host.invalid" in unknown.err
    with without_descriptors(server):
        not_started = opened(app.address)
    assert (not_started.code, not_started.out) == (4, "")
    assert "data server" in not_started.err
    with calling(server) as alice:
        assert {one.state for one in alice.all_sessions()} == {"released", "failed"}


def test_row_11_after_a_crash_sessions_are_found_again_and_their_ports_lead_nobody_astray(
    own: SharedGateways, application: Applications, tmp_path: Path
) -> None:
    first, last = free_range(4)
    options = [
        f"--state-dir={tmp_path / 'state'}",
        "--encryption=optional",
        f"--port-range={first}-{last}",
    ]
    server, old, new = own.start(*options), application("old"), application("new")
    begin, middle, end = (os.urandom(500_000) for _ in range(3))
    kept = new_uid()
    with calling(server) as alice:
        listener = alice.open_plain(kept, old.address)
    with connected(listener) as stream:
        stream.sendall(begin)
        own.kill(server)
        stream.sendall(middle)  # nobody controls it now
        again = own.start(*options, f"--listen={server.address}")
        stream.sendall(end)
        stream.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: stream.recv(65536), b""))
    assert hashlib.sha256(answer).digest() == hashlib.sha256(b"old:" + begin + middle + end).digest()
    with calling(again) as alice:
        found = alice.status(kept)
        assert (found.state, list(found.listeners)) == ("connected", [listener])
        other = new_uid()
        elsewhere = alice.open_plain(other, new.address)
        assert elsewhere != listener
        # the reference shares one port between both sessions here, 23 connections to 17
        assert [ask(listener, b"x") for _ in range(20)] == [b"old:x"] * 20
        assert [ask(elsewhere, b"x") for _ in range(20)] == [b"new:x"] * 20
        for uid in (kept, other):
            alice.release(uid)
        assert all(map(can_be_bound, [listener, elsewhere]))


def test_row_11_sigterm_leaves_no_process_and_no_port(own: SharedGateways, application: Applications) -> None:
    server, app = own.start("--encryption=optional"), application("app")
    with calling(server) as alice:
        listener = alice.open_plain(new_uid(), app.address)
        assert ask(listener, b"x") == b"app:x"
    assert server.stop() == (143, [])
    assert can_be_bound(listener)
    assert can_be_bound(server.address)


def test_row_12_a_second_control_server_on_the_same_port_is_refused_and_takes_no_calls(
    pair: Pair, own: SharedGateways
) -> None:
    first = pair[0]
    second = run_program("s2cs", *own.arguments(f"--listen={first.address}"))
    assert second.code == 5
    assert first.address in second.err
    for _ in range(20):
        with calling(first) as alice:  # a connection of its own each time
            alice.release("none")


def test_row_12_a_second_control_server_on_the_same_state_directory_is_refused(
    own: SharedGateways, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first = own.start(f"--state-dir={state}")
    second = run_program("s2cs", *own.arguments(f"--state-dir={state}"))
    assert second.code == 5
    assert str(state) in second.err
    with calling(first) as alice:
        assert alice.all_sessions() == []
