"""What the reference implementation does wrong with keys and secrets, done right: a test per row.

Rows 6 and 21. Every test has real control servers and the native data server.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scistream.auth.certificates import make_session_certificate
from support.gateways import Application, ask, run_program
from support.module_gateways import (
    CALL_LIMIT_S,
    Pair,
    SharedGateways,
    calling,
    connected,
    encrypted_pair,
    family,
)

Applications = Callable[[str], Application]

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
