"""Users who are known by certificates of the facility's own authority, at the real control server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from scistream.auth.secret_files import create_secret_file
from scistream.wire import scistream_pb2 as pb
from scistream.wire.scistream_pb2_grpc import ControlStub
from support.authorities import Authority
from support.gateways import ControlServerProcess
from support.login_users import User
from support.module_gateways import SharedGateways, calling, serving


@pytest.fixture
def facility(tmp_path: Path) -> Authority:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    authority.write_crl(tmp_path / "facility.crl")
    return authority


@pytest.fixture
def gateways(tmp_path: Path, facility: Authority) -> Iterator[SharedGateways]:
    with serving(tmp_path) as made:
        made.authentication = [
            "--auth=mtls",
            f"--client-ca={tmp_path / 'ca.pem'}",
            f"--client-crl={tmp_path / 'facility.crl'}",
        ]
        yield made


def status(
    server: ControlServerProcess, issued: tuple[bytes, bytes] | None, address: str | None = None
) -> Any:
    """Ask with a client certificate, or without; return the answer, or the error."""
    certificate, key = issued or (None, None)
    credentials = grpc.ssl_channel_credentials(server.certificate.read_bytes(), key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address or server.address, credentials, options=options) as channel:
        stub: Any = ControlStub(channel)  # type: ignore[no-untyped-call]
        try:
            return stub.status(pb.StatusRequest(), timeout=10)
        except grpc.RpcError as error:
            return error


def test_who_has_a_certificate_is_known_and_others_do_not_get_through_the_handshake(
    gateways: SharedGateways, facility: Authority
) -> None:
    server = gateways.start()
    alice = facility.issue("alice", email="alice@anl.gov")
    assert list(status(server, alice).sessions) == []
    stranger = Authority("Facility CA").issue("alice", email="alice@anl.gov")  # the same names, another key
    expired = facility.issue("alice", end=datetime.now(UTC) - timedelta(seconds=10))
    for refused in (None, stranger, expired):
        assert status(server, refused).code() is grpc.StatusCode.UNAVAILABLE
    with calling(server, token="any") as caller:
        assert _code(caller) is grpc.StatusCode.UNAVAILABLE


def test_one_that_is_withdrawn_is_refused_at_once(
    gateways: SharedGateways, facility: Authority, tmp_path: Path
) -> None:
    server = gateways.start()
    alice, bob = facility.issue("alice"), facility.issue("bob")
    assert list(status(server, alice).sessions) == []
    facility.withdraw(alice[0])
    facility.write_crl(tmp_path / "facility.crl")
    refused = status(server, alice)
    assert (refused.code(), "is withdrawn" in refused.details()) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert list(status(server, bob).sessions) == []
    facility.write_crl(tmp_path / "facility.crl", next_update=datetime.now(UTC) - timedelta(hours=1))
    assert "operator has to renew" in status(server, bob).details()


def test_beside_tokens_certificates_have_a_port_of_their_own(
    gateways: SharedGateways, facility: Authority
) -> None:
    assert gateways.authentication is not None
    gateways.authentication += ["--auth=shared-key", f"--auth-file={gateways.auth_file}"]
    gateways.authentication += ["--listen-mtls=127.0.0.1:0"]
    server = gateways.start()
    alice = facility.issue("alice")
    assert list(status(server, alice, server.ready["mtls_address"]).sessions) == []
    assert status(server, None, server.ready["mtls_address"]).code() is grpc.StatusCode.UNAVAILABLE
    with calling(server) as caller:  # by token, at the other port
        assert caller.all_sessions() == []
    # where no certificate is asked for, none is seen
    assert status(server, alice).code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_user_client_shows_the_certificate_of_its_profile(
    gateways: SharedGateways, facility: Authority, tmp_path: Path
) -> None:
    server = gateways.start()
    user = User(tmp_path / "home")
    certificate, key = facility.issue("alice", email="alice@anl.gov")
    create_secret_file(user.home / "alice.key", key)
    (user.home / "alice.crt").write_bytes(certificate)
    profile = (
        f'[facilities.lab]\naddress = "{server.address}"\ncertificate = "{server.certificate}"\n'
        'authenticator = "mtls"\n'
    )
    user.write_profiles(profile)
    refused = user.run("list")
    assert refused.code == 4, refused.err
    assert "client_certificate and client_key in its profile" in refused.err
    user.write_profiles(
        profile
        + f'client_certificate = "{user.home / "alice.crt"}"\nclient_key = "{user.home / "alice.key"}"\n'
    )
    assert user.run("list").out == "no sessions\n"
    shown = user.run("check-auth", "lab", "--json").json["logins"][0]
    assert (shown["accepted"], shown["by"]) == (True, "client certificate")
    assert shown["username"] == "CN=alice,O=Test"
    (user.home / "alice.key").chmod(0o644)
    assert "chmod 600" in user.run("list").err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--auth=mtls"], "--client-ca FILE"),
        (["--auth=mtls", "--client-ca=tokens.toml"], "no PEM certificates"),
        (["--auth=mtls", "--client-ca=ca.pem", "--ssl=False"], "needs TLS"),
        (["--auth=mtls", "--client-ca=ca.pem", "--listen-mtls=127.0.0.1:0"], "leave it out"),
        (
            ["--auth=mtls", "--client-ca=ca.pem", "--auth=shared-key", "--auth-file=tokens.toml"],
            "--listen-mtls HOST:PORT",
        ),
        (["--auth=mtls", "--client-ca=ca.pem", "--client-crl=other.crl"], "signed by none"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(
    gateways: SharedGateways, facility: Authority, tmp_path: Path, options: list[str], complaint: str
) -> None:
    from support.gateways import run_program

    Authority("Other").write_crl(tmp_path / "other.crl")
    gateways.authentication = ["--no-state"]
    with contextlib.chdir(tmp_path):
        finished = run_program("s2cs", *gateways.arguments(*options))
    assert finished.code == 3
    assert complaint in finished.err.splitlines()[-1]
    assert json.loads(finished.out)["event"] == "error"


def _code(caller: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        caller.all_sessions()
    code: grpc.StatusCode = refused.value.code()
    return code
