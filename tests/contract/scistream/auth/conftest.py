"""Every authenticator, with a way to make credentials for it that are good, and some that are not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.base import Authenticator, Credentials
from scistream.auth.globus import Globus
from scistream.auth.lookups import ProviderLookups
from scistream.auth.mtls import ClientCertificates
from scistream.auth.oidc import OpenIDConnect
from scistream.auth.provider import Provider
from scistream.auth.provider_keys import ProviderKeys
from scistream.auth.shared_key import SharedKey, create_token, hash_token
from support.authorities import Authority
from support.openid_provider import (
    ALICE,
    AUDIENCE,
    OPAQUE_AUDIENCE,
    SCOPE,
    SECRET,
    SERVICE,
    ProviderProcess,
)
from support.openid_provider import globus_auth as globus_auth  # noqa: PLC0414 - a fixture
from support.openid_provider import openid as openid  # noqa: PLC0414 - a fixture

PEER = "ipv4:192.0.2.1:4"
#: Answers of a provider are fresh for so long here: short, so that a test can wait for it.
FRESH_S = 0.5


def with_token(token: str) -> Credentials:
    return Credentials(token, PEER)


@dataclass
class Subject:
    """One authenticator under test."""

    kind: str
    authenticator: Authenticator
    make: dict[str, Callable[[], Credentials]]
    revoke: Callable[[Credentials], None] | None = None
    provider: ProviderProcess | None = None
    others: list[Authenticator] = field(default_factory=list)


def _shared_key(tmp_path: Path) -> Subject:
    path = tmp_path / "tokens.toml"
    token = create_token("alice", path)
    return Subject(
        "shared-key",
        SharedKey.from_settings({"file": str(path)}),
        {
            "good": lambda: with_token(token),
            "wrong": lambda: with_token(token[:-1] + ("x" if token[-1] != "x" else "y")),
            "the hash": lambda: with_token(hash_token(token)),
        },
    )


def _mtls(tmp_path: Path) -> Subject:
    authority = Authority()
    crl = tmp_path / "facility.crl"
    authority.write_crl(crl)
    (tmp_path / "ca.pem").write_bytes(authority.pem)

    def proven(**about: Any) -> Credentials:
        return Credentials(None, PEER, authority.issue("alice", email="alice@anl.gov", **about)[0])

    def revoke(credentials: Credentials) -> None:
        authority.withdraw(credentials.certificate or b"")
        authority.write_crl(crl)

    return Subject(
        "mtls",
        ClientCertificates.from_settings({"ca": str(tmp_path / "ca.pem"), "crl": str(crl)}),
        {
            "good": proven,
            "expired": lambda: proven(end=datetime.now(UTC) - timedelta(seconds=5)),
            "garbage": lambda: Credentials(None, PEER, b"-----BEGIN CERTIFICATE-----\nx\n"),
        },
        revoke,
    )


def _claims(provider: ProviderProcess, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": provider.issuer,
        "sub": ALICE,
        "aud": AUDIENCE,
        "scope": "scistream",
        "iat": now,
        "exp": now + 600,
        "jti": "x",
        **changes,
    }


def _signed(provider: ProviderProcess) -> Subject:
    at = Provider(provider.issuer)
    authenticator = OpenIDConnect(
        at, audience=AUDIENCE, scope="scistream", keys=ProviderKeys(at, max_age_s=FRESH_S, refresh_s=FRESH_S)
    )

    def signed(header: dict[str, Any] | None = None, *, foreign: bool = False, **changes: Any) -> Credentials:
        claims = {name: value for name, value in _claims(provider, **changes).items() if value is not None}
        return with_token(provider.sign(claims, header=header or {}, foreign=foreign))

    def unsigned() -> Credentials:
        """Return a token that claims to need no signature."""
        import base64
        import json

        parts = ({"alg": "none"}, _claims(provider))
        head, body = (
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
        )
        return with_token(f"{head}.{body}.AA")

    def by_public_key() -> Credentials:
        """Return a token whose "shared secret" is the provider's public key."""
        from joserfc import jwt
        from joserfc.jwk import OctKey

        public = next(key for key in at.published_keys() if key["kty"] == "EC")
        secret = OctKey.import_key(str(public["x"]))
        header = {"alg": "HS256", "kid": public["kid"]}
        return with_token(jwt.encode(header, _claims(provider), secret, algorithms=["HS256"]))

    return Subject(
        "oidc-signed",
        authenticator,
        {
            "good": lambda: with_token(provider.token(resource=AUDIENCE)),
            "wrong": lambda: signed(foreign=True),
            "expired": lambda: signed(exp=int(time.time()) - 60),
            "without expiry": lambda: signed(exp=None),
            "not yet valid": lambda: signed(nbf=int(time.time()) + 600),
            "wrong audience": lambda: with_token(provider.token(resource="https://other.example/")),
            "missing scope": lambda: with_token(provider.token(resource=AUDIENCE, scope="other")),
            "wrong issuer": lambda: signed(iss="https://elsewhere.example"),
            "unknown key": lambda: signed({"kid": "nobody's"}),
            "without subject": lambda: signed(sub=None),
            "unsigned": unsigned,
            "signed by the public key": by_public_key,
        },
        provider=provider,
    )


def _asked(provider: ProviderProcess) -> Subject:
    audience = OPAQUE_AUDIENCE
    at = Provider(provider.issuer)

    def build(secret: str) -> OpenIDConnect:
        made = OpenIDConnect(at, audience=audience, scope="scistream", client=(SERVICE, secret))
        made._lookups = ProviderLookups("the provider", made.ask, fresh_s=FRESH_S)
        return made

    def good() -> Credentials:
        return with_token(provider.token(resource=audience))

    return Subject(
        "oidc-asked",
        build(SECRET),
        {
            "good": good,
            "wrong": lambda: with_token("x" * 43),
            "wrong audience": lambda: with_token(provider.token(resource="https://opaque.other.example/")),
            "missing scope": lambda: with_token(provider.token(resource=audience, scope="other")),
            "refresh token": lambda: with_token(provider.token(resource=audience, kind="RefreshToken")),
        },
        lambda credentials: provider.tell("revoke", token=credentials.token) and None,
        provider,
        [build("not the secret")],
    )


def _globus(provider: ProviderProcess) -> Subject:
    def build(secret: str) -> Globus:
        made = Globus(SERVICE, secret)
        made._lookups = ProviderLookups("Globus Auth", made.ask, fresh_s=FRESH_S)
        return made

    return Subject(
        "globus",
        build(SECRET),
        {
            "good": lambda: with_token(provider.token(scope=SCOPE)),
            "wrong": lambda: with_token("x" * 43),
            "wrong audience": lambda: with_token(provider.token(scope="openid")),
            "missing scope": lambda: with_token(provider.token(scope=f"{SCOPE}_of_another_kind")),
            "refresh token": lambda: with_token(provider.token(scope=SCOPE, kind="RefreshToken")),
        },
        lambda credentials: provider.tell("revoke", token=credentials.token) and None,
        provider,
        [build("not the secret")],
    )


@pytest.fixture(scope="module", autouse=True)
def _providers(openid: ProviderProcess, globus_auth: ProviderProcess) -> None:
    """Start them before the first test, as no test may leave a process behind."""


#: What is tried at which one. What one does not have (a shared key has no audience) is not tried there.
ATTACKS = {
    "shared-key": ["wrong", "the hash"],
    "mtls": ["expired", "garbage"],
    "oidc-signed": [
        "wrong",
        "expired",
        "without expiry",
        "not yet valid",
        "wrong audience",
        "missing scope",
        "wrong issuer",
        "unknown key",
        "without subject",
        "unsigned",
        "signed by the public key",
    ],
    "oidc-asked": ["wrong", "wrong audience", "missing scope", "refresh token"],
    "globus": ["wrong", "wrong audience", "missing scope", "refresh token"],
}
KINDS = tuple(ATTACKS)
#: Those that ask a provider about each token that they do not know.
ASKING = ("oidc-asked", "globus")


@pytest.fixture(params=KINDS)
async def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    match request.param:
        case "shared-key":
            made = _shared_key(tmp_path)
        case "mtls":
            made = _mtls(tmp_path)
        case "oidc-signed":
            made = _signed(request.getfixturevalue("openid"))
        case "oidc-asked":
            made = _asked(request.getfixturevalue("openid"))
        case _:
            provider = request.getfixturevalue("globus_auth")
            monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{provider.issuer}/")
            made = _globus(provider)
    yield made
    for one in (made.authenticator, *made.others):
        await one.close()
