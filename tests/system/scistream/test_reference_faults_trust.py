"""What the reference implementation does wrong with keys, names, tokens, errors, done right: a test per row.

Rows 6, 13, 14 and 21 to 25. Every test has real control servers, and the native data server where data flow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.wire import scistream_pb2 as pb
from support.gateways import (
    Application,
    Finished,
    ask,
    can_be_bound,
    finish,
    run_program,
    start_program,
    until,
)
from support.module_gateways import (
    CALL_LIMIT_S,
    Caller,
    Pair,
    SharedGateways,
    calling,
    connected,
    encrypted_pair,
    family,
    new_uid,
    refused,
)

Applications = Callable[[str], Application]

#: The reference client waits so long for the answer to HELLO.
REFERENCE_LIMIT_S = 5.0
SUPPORTED_VERSIONS_TLS_1_3 = bytes.fromhex("002b00020304")

pytestmark = pytest.mark.timeout(60)


class WireTap:
    """Stands between the two gateways, passes everything on, and keeps it: what the network sees."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.seen = {"there": bytearray(), "back": bytearray()}
        self.sockets: list[socket.socket] = [self.listener]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                host, _, port = self.target.rpartition(":")
                far = socket.create_connection((host, int(port)), CALL_LIMIT_S)
                self.sockets += near, far
                for way, source, sink in (("there", near, far), ("back", far, near)):
                    thread = threading.Thread(target=self._pass_on, args=(way, source, sink), daemon=True)
                    self.threads.append(thread)
                    thread.start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.seen[way] += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):  # not connected any more
                one.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(CALL_LIMIT_S)
        for one in self.sockets:
            one.close()


@pytest.fixture
def wire_tap() -> Iterator[Callable[[str], WireTap]]:
    made: list[WireTap] = []

    def start(target: str) -> WireTap:
        made.append(WireTap(target))
        return made[-1]

    yield start
    for one in made:
        one.close()


def complaint(finished: Finished) -> str:
    """The one line that a program failed with."""
    lines = finished.err.splitlines()
    assert len(lines) == 1, finished.err
    return lines[0]


# --- row 6 ---------------------------------------------------------------------------------------------


def test_row_06_what_crosses_the_network_is_tls_1_3_and_cannot_be_read(
    pair: Pair, application: Applications, wire_tap: Callable[[str], WireTap]
) -> None:
    app, marker = application("app"), b"the-beam-is-mine-" * 500
    with (
        calling(pair[0]) as ours,
        calling(pair[1]) as theirs,
        encrypted_pair(ours, theirs, app.address) as session,
    ):
        tap = wire_tap(session.producer.listeners[0])
        listener = session.connect(app.address, through=tap.address)
        assert ask(listener, marker) == b"app:" + marker
        assert app.received == [marker]
        seen = {way: bytes(data) for way, data in tap.seen.items()}
    assert min(map(len, seen.values())) > len(marker)
    assert all(b"the-beam" not in data for data in seen.values())
    # the first record back is a handshake (22) of a ServerHello (2) that chooses TLS 1.3
    hello = seen["back"][: 5 + int.from_bytes(seen["back"][3:5], "big")]
    assert (hello[0], hello[5]) == (22, 2)
    assert SUPPORTED_VERSIONS_TLS_1_3 in hello


def test_row_06_who_does_not_hold_the_sessions_key_does_not_reach_the_application(
    pair: Pair, application: Applications, tmp_path: Path
) -> None:
    app = application("app")
    with (
        calling(pair[0]) as ours,
        calling(pair[1]) as theirs,
        encrypted_pair(ours, theirs, app.address) as session,
    ):
        listener = session.connect(app.address)
        gateway = session.producer.listeners[0]
        own_certificate, own_key = make_session_certificate(session.uid)  # with the same name in it
        (tmp_path / "certificate.pem").write_bytes(own_certificate)
        (tmp_path / "key.pem").write_bytes(own_key)
        for certificate in (None, tmp_path / "certificate.pem"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate is not None:
                context.load_cert_chain(certificate, tmp_path / "key.pem")
            with (
                connected(gateway) as stream,
                contextlib.suppress(ssl.SSLError, ConnectionError),
                context.wrap_socket(stream) as secure,
            ):
                secure.sendall(b"let me in")
                assert secure.recv(100) == b""
        for said in (b"let me in\r\n" * 100, session.uid.encode() * 10):
            with connected(gateway) as stream, contextlib.suppress(ConnectionError):
                stream.sendall(said)
                assert b"app:" not in b"".join(iter(lambda: stream.recv(100), b""))
        assert not app.threads  # nobody has been connected to it
        assert ask(listener, b"me") == b"app:me"


# --- rows 13 and 14 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uid", ["../../escaped", "/escaped", "a/../escaped", "escaped\0.x", "escaped\n", "", "e" * 65, "escapéd"]
)
def test_row_13_a_uid_that_could_be_more_than_a_name_is_refused_by_every_call(
    own_with_state: tuple[SharedGateways, Caller], uid: str
) -> None:
    gateways, alice = own_with_state
    calls = {
        "req": lambda: alice.req(uid).result(),
        "hello": lambda: alice.hello(uid, ["127.0.0.1:9"]).result(),
        "update": lambda: alice.update(uid, ["127.0.0.1:9"]),
        "release": lambda: alice.release(uid),
        "status": lambda: alice.status(uid),
        "renew": lambda: alice.stub.renew(pb.RenewRequest(uid=uid), metadata=alice.metadata),
    }
    if not uid:
        del calls["status"]  # all of one's own
    for name, call in calls.items():
        assert refused(call)[0] is grpc.StatusCode.INVALID_ARGUMENT, name
    assert alice.all_sessions() == []
    for root in (gateways.directory, Path.home(), Path.cwd()):
        assert not [one for one in root.glob("*") if "escap" in one.name]
    assert not [one for one in gateways.directory.rglob("*") if "escap" in one.name]


@pytest.fixture(scope="module")
def own_with_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SharedGateways, Caller]]:
    from support.module_gateways import serving

    directory = tmp_path_factory.mktemp("gateways")
    with (
        serving(directory) as gateways,
        calling(gateways.start(f"--state-dir={directory / 'state'}", "--encryption=optional")) as alice,
    ):
        yield gateways, alice


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:9\nlisten evil\n  bind 127.0.0.1:7777",
        "127.0.0.1:9 backup",
        "127.0.0.1 :9",
        "$(touch escaped):9",
        "a;b:9",
        "a{b}:9",
        "-oProxyCommand=x:9",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1",
        "",
    ],
)
def test_row_14_an_address_that_is_none_is_refused_and_opens_no_listener(
    pair: Pair, application: Applications, address: str
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        waiting = alice.req(uid)
        assert refused(alice.hello(uid, [address]).result)[0] is grpc.StatusCode.INVALID_ARGUMENT
        alice.hello(uid, [app.address]).result()
        before = _listening(pair)
        code, details = refused(lambda: alice.update(uid, [app.address, address]))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "\n" not in details
        assert _listening(pair) == before
        assert list(waiting.result().prod_listeners) == [app.address]
        alice.release(uid)


def _listening(pair: Pair) -> set[int]:
    return {
        connection.laddr.port
        for process in family(pair[0])
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


# --- row 21 --------------------------------------------------------------------------------------------


def test_row_21_a_uid_of_our_client_is_random(pair: Pair) -> None:
    uids = []
    for _ in range(2):
        opened = run_program(
            "s2uc", "inbound-request", "--target=127.0.0.1:9", "--plain", "--json", *pair[0].options()
        )
        assert opened.code == 0, opened.err
        uids.append(uuid.UUID(opened.json["uid"]))
    assert [one.version for one in uids] == [4, 4]
    assert uids[0] != uids[1]
    with calling(pair[0]) as alice:
        for one in uids:
            alice.release(str(one))


def test_row_21_no_secret_is_in_argv_in_the_log_or_in_a_file_that_others_can_read(
    own: SharedGateways, application: Applications, tmp_path: Path
) -> None:
    state, app = tmp_path / "state", application("app")
    server = own.start("-vv", f"--state-dir={state}")
    secret = server.tokens["alice"].read_text().strip()
    # both sides at one server: its own users' sessions of one uid are two
    with (
        calling(server) as ours,
        calling(server, "bob") as theirs,
        encrypted_pair(ours, theirs, app.address) as session,
    ):
        listener = session.connect(app.address)
        assert ask(listener, b"x") == b"app:x"
        for process in family(server):
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert secret.encode() not in arguments
            assert b"PRIVATE KEY" not in arguments
            assert session.uid.encode() not in arguments
        kept = [path for path in (state, *state.rglob("*")) if not path.is_symlink()]
        shown = {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in kept}
        assert not [path for path, mode in shown.items() if int(mode, 8) & 0o077], shown
        assert not [path for path in files_in(state) if secret.encode() in path.read_bytes()]
    # with the session its key is gone
    assert not [path for path in files_in(state) if b"PRIVATE KEY" in path.read_bytes()]
    log = server.log.read_text()
    assert session.uid in log
    assert secret not in log
    assert "PRIVATE KEY" not in log


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


# --- row 22 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "INVALID_TOKEN", "not-a-token", ""], ids=repr)
def test_row_22_without_a_token_every_call_is_unauthenticated_whatever_its_uid(
    pair: Pair, token: str | None
) -> None:
    known, unknown = new_uid(), new_uid()
    with calling(pair[0]) as alice, calling(pair[0], None) as stranger:
        alice.reserve(known, "127.0.0.1:9")
        if token is not None:
            stranger.metadata = (("authorization", token),)
        said: dict[str, set[str]] = {}
        for uid in (known, unknown, "../../no uid at all"):
            calls = {
                "req": lambda uid=uid: stranger.req(uid).result(),
                "hello": lambda uid=uid: stranger.hello(uid, ["127.0.0.1:9"]).result(),
                "update": lambda uid=uid: stranger.update(uid, ["127.0.0.1:9"]),
                "release": lambda uid=uid: stranger.release(uid),
                "status": lambda uid=uid: stranger.status(uid),
                "renew": lambda uid=uid: stranger.stub.renew(
                    pb.RenewRequest(uid=uid), metadata=stranger.metadata
                ),
            }
            for name, call in calls.items():
                code, details = refused(call)
                assert code is grpc.StatusCode.UNAUTHENTICATED, (name, uid)
                said.setdefault(name, set()).add(_without_port(details))
        # nobody learns from the text which uids there are
        assert {name: len(texts) for name, texts in said.items()} == dict.fromkeys(said, 1)
        assert alice.status(known).state == "announced"
        alice.release(known)


def _without_port(details: str) -> str:
    """Without the caller's own port, by which the server names it."""
    return "".join(one for one in details if not one.isdigit())


# --- row 23 --------------------------------------------------------------------------------------------


def test_row_23_an_authenticated_session_at_any_host_can_be_released_by_its_user_alone(
    own: SharedGateways, application: Applications
) -> None:
    server, app = own.start("--listen=127.0.0.2:0", "--encryption=optional"), application("app")
    with calling(server) as alice, calling(server, "bob") as bob:
        uid = new_uid()
        listener = alice.open_plain(uid, app.address)
        without = run_program(
            "s2uc", "release", uid, f"--s2cs={server.address}", f"--certificate={server.certificate}"
        )
        assert without.code == 6
        bob.release(uid)  # fine, as for any session that he does not have
        assert ask(listener, b"x") == b"app:x"
        released = run_program("s2uc", "release", uid, *server.options())
        assert released.code == 0, released.err
        assert alice.status(uid).state == "released"
        assert can_be_bound(listener)


# --- row 24 --------------------------------------------------------------------------------------------


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
        ("s2uc", ["inbound-request", "--target=no-host.invalid:9", "--plain", *known], 4, "no-host"),
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
        f"--s2cs={server.address}",
        "--ssl=False",
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


# --- row 25 --------------------------------------------------------------------------------------------

_SLOW_AUTHENTICATOR = """
import asyncio
from scistream.auth.base import Authenticator, Principal

class Slow(Authenticator):
    @classmethod
    def from_settings(cls, settings):
        return cls()

    async def authenticate(self, token, peer):
        if token == "slow":
            await asyncio.Event().wait()  # a provider that does not answer
        return Principal(token or "nobody")
"""


@pytest.fixture
def slow_authenticator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install an authenticator, as a facility would install its own, whose token "slow" is never answered."""
    site = tmp_path / "site"
    described = site / "slow_authenticator-1.dist-info"
    described.mkdir(parents=True)
    (site / "slow_authenticator.py").write_text(_SLOW_AUTHENTICATOR)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-authenticator\nVersion: 1\n")
    (described / "entry_points.txt").write_text(
        "[scistream.authenticators]\nslow = slow_authenticator:Slow\n"
    )
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{inherited}" if inherited else str(site))
    return "slow"


def test_row_25_an_authenticator_that_does_not_answer_holds_nobody_else_up_and_is_not_waited_for_long(
    own: SharedGateways, application: Applications, slow_authenticator: str
) -> None:
    app = application("app")
    own.authenticated = False
    arguments = [one for one in own.arguments() if one != "--auth=none"]
    own.arguments = lambda *more: [*arguments, f"--auth={slow_authenticator}", *more]  # type: ignore[method-assign]
    server = own.start("--encryption=optional")
    with calling(server, token="slow") as stuck, calling(server, token="quick") as quick:
        begin_s = time.monotonic()
        waiting = [stuck.req(new_uid()) for _ in range(20)]
        uid = new_uid()
        listener = quick.open_plain(uid, app.address)
        assert ask(listener, b"x") == b"app:x"
        quick.release(uid)
        assert not any(call.done() for call in waiting)
        for call in waiting:
            code, details = refused(call.result)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "again" in details
        # before those who call give up by themselves, and learn nothing
        assert time.monotonic() - begin_s < REFERENCE_LIMIT_S
        assert {one.uid: one.state for one in quick.all_sessions()} == {uid: "released"}
    assert until(lambda: can_be_bound(listener))
