"""Sessions of one user are apart from each other, and so are two gateways of one facility."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from support.gateways import Application, ask, can_be_bound, finish, run_program, start_program
from support.module_gateways import (
    CALL_LIMIT_S,
    SharedGateways,
    calling,
    connected,
    encrypted_pair,
    free_range,
    new_uid,
)

Applications = Callable[[str], Application]

PUBLIC_KEY = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo

pytestmark = pytest.mark.timeout(60)


def key_of(state: Path, certificate_pem: bytes) -> Path:
    """Where the gateway with this state directory keeps the private key of a session's certificate."""
    wanted = x509.load_pem_x509_certificate(certificate_pem).public_key().public_bytes(*PUBLIC_KEY)
    (found,) = (
        path
        for path in (state / "keys").iterdir()
        if serialization.load_pem_private_key(path.read_bytes(), None).public_key().public_bytes(*PUBLIC_KEY)
        == wanted
    )
    return found


@contextlib.contextmanager
def opened(listener: str, certificate: Path, key: Path) -> Iterator[ssl.SSLSocket]:
    """Open a listener of the producer's gateway as the consumer's gateway would, with this identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    with connected(listener) as stream, context.wrap_socket(stream) as secure:
        secure.settimeout(CALL_LIMIT_S)
        yield secure


def test_two_sessions_of_one_user_have_keys_of_their_own_and_one_does_not_open_the_others_listener(
    own: SharedGateways, tmp_path: Path
) -> None:
    states = {role: tmp_path / role for role in ("producer", "consumer")}
    producer, consumer = (own.start(f"--state-dir={state}") for state in states.values())
    with (
        calling(producer) as ours,
        calling(consumer) as theirs,
        socket.create_server(("127.0.0.1", 0)) as application,
        socket.create_server(("127.0.0.1", 0)) as other_application,
        encrypted_pair(ours, theirs, f"127.0.0.1:{application.getsockname()[1]}") as session,
        encrypted_pair(ours, theirs, f"127.0.0.1:{other_application.getsockname()[1]}") as other,
    ):
        application.settimeout(CALL_LIMIT_S)
        other_application.settimeout(CALL_LIMIT_S)
        session.connect(f"127.0.0.1:{application.getsockname()[1]}")
        other.connect(f"127.0.0.1:{other_application.getsockname()[1]}")
        grants = [session.producer, session.consumer, other.producer, other.consumer]
        assert len({grant.certificate for grant in grants}) == 4
        keys = [
            key_of(states[role], grant.certificate)
            for role, grant in zip(("producer", "consumer") * 2, grants, strict=True)
        ]
        assert len({key.read_bytes() for key in keys}) == 4
        assert len({key_path.resolve() for key_path in keys}) == 4

        certificates = [tmp_path / f"{number}.crt" for number in range(4)]
        for path, grant in zip(certificates, grants, strict=True):
            path.write_bytes(grant.certificate)
        # every identity but the other session's consumer is refused at the other session's listener
        refused = 0
        for certificate, key in list(zip(certificates, keys, strict=True))[:3]:
            try:
                with opened(other.producer.listeners[0], certificate, key) as stream:
                    stream.sendall(b"let me in")
                    assert stream.recv(1) == b"", "a stranger got something"
            except (ssl.SSLError, ConnectionError):
                pass
            refused += 1
        assert refused == 3
        # what each application has seen first is its own session's stream
        for grant, number, listening in (
            (session.producer, 1, application),
            (other.producer, 3, other_application),
        ):
            with opened(grant.listeners[0], certificates[number], keys[number]) as stream:
                stream.sendall(b"mine")
                far, _ = listening.accept()
                with far:
                    far.settimeout(CALL_LIMIT_S)
                    assert far.recv(4) == b"mine"
                    far.sendall(b"yours")
                    assert stream.recv(5) == b"yours"
        assert ours.status(session.uid).channels[0].connections_total == 1
        counted = ours.status(other.uid).channels[0]
        assert (counted.connections_total, counted.connections_failed) == (4, 3)


def test_two_gateways_of_one_facility_serve_sessions_side_by_side(
    own: SharedGateways, application: Applications
) -> None:
    first, last = free_range(8)
    ranges = [(first, first + 3), (first + 4, last)]
    producers = [own.start(f"--port-range={low}-{high}", "--advertise=localhost") for low, high in ranges]
    consumer, apps = own.start(), [application("one"), application("two")]

    def request(number: int) -> list[str]:
        producer = producers[number]
        return [
            "request",
            producer.address,
            consumer.address,
            f"--target={apps[number].address}",
            "--num-conn=4",
            f"--producer-certificate={producer.certificate}",
            f"--consumer-certificate={consumer.certificate}",
            f"--token-file={producer.tokens['alice']}",
            "--json",
        ]

    running = [start_program("s2uc", *request(number)) for number in range(2)]
    sessions = []
    for process in running:
        finished = finish(process)
        assert finished.code == 0, finished.err
        sessions.append(finished.json)
    for number, name in enumerate((b"one", b"two")):
        for listener in sessions[number]["listeners"]:
            assert ask(listener, b"x") == name + b":x"
        with calling(producers[number]) as alice:
            (one,) = alice.all_sessions()
            low, high = ranges[number]
            assert sorted(one.listeners) == [f"localhost:{port}" for port in range(low, high + 1)]
            # each gateway is full, and does not take the other's ports
            code = run_program("s2uc", *request(number)).code
            assert code == 5
    with calling(producers[0]) as alice:
        alice.release(sessions[0]["uid"])
        assert all(can_be_bound(f"127.0.0.1:{port}") for port in range(ranges[0][0], ranges[0][1] + 1))
    assert ask(sessions[1]["listeners"][3], b"still") == b"two:still"
    with calling(producers[0]) as alice, calling(producers[1]) as other:
        assert {one.uid for one in alice.all_sessions()}.isdisjoint(
            one.uid for one in other.all_sessions() if one.state == "connected"
        )
        uid = new_uid()
        assert len(alice.reserve(uid, apps[0].address, num_conn=4).listeners) == 4
        alice.release(uid)
