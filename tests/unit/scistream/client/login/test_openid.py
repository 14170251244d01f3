"""The device flow's waiting, and answers that a real provider does not give: over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scistream.client.login.openid import OpenIDLogin
from scistream.client.login.settings import LoginSettings
from scistream.errors import AuthenticationError, ConfigurationError, DeadlineExceeded, PeerError


class Scripted:
    """A provider that answers its token endpoint as it is told, one answer for each call."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.metadata: dict[str, Any] = {}
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, scripted.metadata)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/device":
                    self.reply(200, scripted.device)
                else:
                    self.reply(*scripted.answers.pop(0))

            def reply(self, status: int, content: Any) -> None:
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.device: Any = {
            "device_code": "d",
            "user_code": "ABCD",
            "verification_uri": f"{self.issuer}/enter",
            "expires_in": 60,
            "interval": 1,
        }
        self.metadata = {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}/token",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "jwks_uri": f"{self.issuer}/jwks",
        }
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def provider() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.server.shutdown()
    made.server.server_close()


def client(provider: Scripted) -> OpenIDLogin:
    return OpenIDLogin(LoginSettings(kind="oidc", client_id="s2uc", scope="openid", issuer=provider.issuer))


def failure(name: str) -> tuple[int, Any]:
    return 400, {"error": name}


def test_who_is_asked_to_slow_down_does_so_for_good(provider: Scripted) -> None:
    waited: list[float] = []
    provider.answers = [
        failure("authorization_pending"),
        failure("slow_down"),
        failure("authorization_pending"),
        failure("slow_down"),
        failure("access_denied"),
    ]
    login = client(provider)
    with pytest.raises(AuthenticationError, match="access_denied"):
        login.finish_device(login.begin_device(), wait=waited.append)
    assert waited == [1, 1, 6, 6, 11]


def test_nobody_comes_in_time(provider: Scripted) -> None:
    login = client(provider)
    provider.answers = [failure("expired_token")]
    with pytest.raises(DeadlineExceeded):
        login.finish_device(login.begin_device(), wait=lambda _: None)
    with pytest.raises(DeadlineExceeded):
        login.finish_device(login.begin_device(), timeout_s=-1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, b"no json"), PeerError),
        ((200, {}), PeerError),
        ((200, {"access_token": "x", "token_type": "Bearer"}), PeerError),  # nobody has logged in
        ((200, {"access_token": "x", "token_type": "Bearer", "id_token": "a.b.c"}), AuthenticationError),
        ((500, b""), PeerError),
        (failure("unauthorized_client\n\x1b[31m"), AuthenticationError),
    ],
)
def test_other_answers_are_errors_of_ours(
    provider: Scripted, answer: tuple[int, Any], error: type[Exception]
) -> None:
    login = client(provider)
    provider.answers = [answer]
    with pytest.raises(error) as caught:
        login.finish_device(login.begin_device(), wait=lambda _: None)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "of another login"},
        {"nonce": None},
        {"aud": "another program"},
        {"iss": "https://elsewhere.example"},
        {"exp": 1},
        {"sub": None},
        {},
    ],
)
def test_who_has_logged_in_is_believed_only_if_all_fits(provider: Scripted, changes: dict[str, Any]) -> None:
    from joserfc import jwt
    from joserfc.jwk import ECKey

    key = ECKey.generate_key("P-256", {"kid": "1"})
    provider.metadata |= {"keys": [key.as_dict(private=False)]}  # it answers every GET with the same
    provider.metadata["authorization_endpoint"] = f"{provider.issuer}/authorize"
    login = client(provider)
    begun = login.begin("http://127.0.0.1:1/callback")
    claims = {
        "iss": provider.issuer,
        "aud": "s2uc",
        "sub": "alice",
        "exp": 4_000_000_000,
        "nonce": begun.nonce,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode({"alg": "ES256", "kid": "1"}, claims, key)
    provider.answers = [(200, {"access_token": "x", "token_type": "Bearer", "id_token": token})]
    answer = f"{begun.redirect_uri}?code=c&state={begun.state}"
    if not changes:
        assert login.finish(begun, answer).username == "alice"
        return
    with pytest.raises(AuthenticationError, match="cannot be trusted"):
        login.finish(begun, answer)


def test_what_the_provider_does_not_have_is_said(provider: Scripted) -> None:
    del provider.metadata["device_authorization_endpoint"]
    with pytest.raises(ConfigurationError, match="--how paste"):
        client(provider).begin_device()
    provider.metadata["token_endpoint"] = "http://192.0.2.1/token"  # secrets would go there in the clear
    provider.metadata["device_authorization_endpoint"] = f"{provider.issuer}/device"
    login = client(provider)
    with pytest.raises(PeerError, match="no https address"):
        login.finish_device(login.begin_device(), wait=lambda _: None)


def test_a_device_answer_without_code_is_an_error(provider: Scripted) -> None:
    provider.device = {"device_code": "d"}
    with pytest.raises(PeerError, match="RFC 8628"):
        client(provider).begin_device()
