"""What the reference implementation does wrong with its errors and its options, done right: row 24.

Every test has real control servers, and the native data server where data flow.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.gateways import Application, Finished, finish, run_program, start_program
from support.module_gateways import (
    CALL_LIMIT_S,
    Pair,
    SharedGateways,
    calling,
    connected,
    encrypted_pair,
    new_uid,
)

Applications = Callable[[str], Application]

pytestmark = pytest.mark.timeout(60)


def complaint(finished: Finished) -> str:
    """The one line that a program failed with."""
    lines = finished.err.splitlines()
    assert len(lines) == 1, finished.err
    return lines[0]


def test_row_24_every_failure_has_an_exit_code_and_one_line_that_says_what_to_do(
    pair: Pair, own: SharedGateways, tmp_path: Path
) -> None:
    known = pair[0].options()
    wrong = tmp_path / "wrong.token"
    wrong.touch(0o600)
    wrong.write_text("not-a-token\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    at = [f"--s2cs={pair[0].address}", f"--certificate={pair[0].certificate}"]
    expected: list[tuple[str, list[str], int, str]] = [
        ("s2uc", ["release"], 2, "--help"),
        ("s2uc", ["inbound-request", "--target=127.0.0.1", *known], 3, "host:port"),
        ("s2uc", ["inbound-request", "--target=127.0.0.1:9", "--num-conn=-3", *known], 3, "num_conn"),
        ("s2uc", ["status", f"--s2cs={nobody}", f"--certificate={pair[0].certificate}"], 4, nobody),
        ("s2uc", ["inbound-request", "--target=no-host.invalid:9", "--plain", *known], 3, "no-host"),
        ("s2uc", ["status", *at], 6, "token"),
        ("s2uc", ["release", new_uid(), *at, f"--token-file={wrong}"], 6, "token"),
        ("s2uc", ["status", "never-seen", *known], 7, "never-seen"),
        (
            "appctrl",
            ["hello", new_uid(), "--role=PROD", "--address=127.0.0.1:9", "--timeout-s=1", *known],
            7,
            "1 s",
        ),
        ("s2cs", own.arguments("--data-server=none-such"), 3, "native"),
        ("s2cs", own.arguments("--port-range=9-1"), 3, "port range"),
        ("s2cs", own.arguments(f"--listen={pair[0].address}"), 5, pair[0].address),
    ]
    running = [start_program(program, *arguments) for program, arguments, *_ in expected]
    for process, (program, arguments, code, words) in zip(running, expected, strict=True):
        finished = finish(process)
        assert finished.code == code, (program, arguments, finished)
        assert words in finished.err.splitlines()[-1]
        assert "Traceback" not in finished.err


def test_row_24_the_kind_of_data_server_may_be_written_in_any_case_and_needs_no_container(
    own: SharedGateways,
) -> None:
    for kind in ("Native", "NATIVE", "native"):
        assert own.start(f"--type={kind}").ready["data_server"] == "native"
    assert own.start().ready["data_server"] == "native"
    unknown = run_program("s2cs", *own.arguments("--type=Haproxy2"))
    assert unknown.code == 3
    assert "native" in complaint(unknown)


def test_row_24_a_server_without_tls_can_be_used_by_our_client(own: SharedGateways) -> None:
    server = own.start("--ssl=False", "--encryption=optional")
    listed = run_program(
        "s2uc",
        "status",
        "--json",
        f"--s2cs=plaintext://{server.address}",
        f"--token-file={server.tokens['alice']}",
    )
    assert (listed.code, listed.json) == (0, {"sessions": []}), listed.err


def test_row_24_a_target_can_have_an_ipv6_address(pair: Pair) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as application:
        application.settimeout(CALL_LIMIT_S)
        address, uid = f"[::1]:{application.getsockname()[1]}", new_uid()
        with calling(pair[0]) as alice:
            listener = alice.open_plain(uid, address)
            with connected(listener) as near:
                far, _ = application.accept()
                with far:
                    near.sendall(b"six")
                    far.settimeout(CALL_LIMIT_S)
                    assert far.recv(100) == b"six"
            assert list(alice.status(uid).targets) == [address]
            alice.release(uid)


def test_row_24_gateways_can_be_at_ipv6_addresses(own: SharedGateways, application: Applications) -> None:
    options = ["--listen=[::1]:0", "--bind=::1", "--bind-lan=::1"]
    producer, consumer, app = own.start(*options), own.start(*options), application("app")
    with (
        calling(producer) as ours,
        calling(consumer) as theirs,
        encrypted_pair(ours, theirs, app.address) as session,
    ):
        listener = session.connect(app.address)
        assert listener.startswith("[::1]:")
        assert session.producer.listeners[0].startswith("[::1]:")
        with connected(listener) as stream:
            stream.sendall(b"six")
            stream.shutdown(socket.SHUT_WR)
            stream.settimeout(CALL_LIMIT_S)
            assert b"".join(iter(lambda: stream.recv(100), b"")) == b"app:six"
