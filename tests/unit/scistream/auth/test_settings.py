"""Settings of authenticators that are missing or wrong, and extras that are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scistream.auth.registry import load_authenticator
from scistream.client.login import LoginSettings
from scistream.client.login.globus import GlobusLogin
from scistream.client.login.openid import OpenIDLogin
from scistream.errors import ConfigurationError

GLOBUS = {"client_id": "x", "client_secret": "hush"}
OIDC = {"issuer": "https://idp.example", "audience": "a"}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("globus", {}, "--client-id ID"),
        ("globus", {"client_id": "x"}, "--client-secret-file FILE"),
        ("globus", {**GLOBUS, "client_secret_file": "x"}, "twice"),
        ("globus", {**GLOBUS, "issuer": "x"}, "no setting 'issuer'"),
        ("globus", {"client_id": "x", "client_secret_file": "missing"}, "cannot be read"),
        ("oidc", {}, "--oidc-issuer URL"),
        ("oidc", {"issuer": "https://idp.example"}, "--oidc-audience NAME"),
        ("oidc", {**OIDC, "issuer": "http://idp.example"}, "no https address"),
        ("oidc", {**OIDC, "introspect": "true"}, "--oidc-client-id"),
        ("oidc", {**OIDC, "client_id": "x"}, "--oidc-client-secret-file"),
        ("oidc", {**OIDC, "client_secret": "hush"}, "needs a client id"),
        ("oidc", {**OIDC, "ca": "missing"}, "is not there"),
        ("mtls", {}, "--client-ca FILE"),
        ("mtls", {"ca": "missing"}, "cannot be read"),
    ],
)
def test_each_is_one_clear_line(
    name: str, settings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        load_authenticator(name, settings)
    assert expected in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_authenticator("globus", {"client_id": "x", "client_secret_file": str(path)})


@pytest.mark.parametrize("module", ["globus_sdk", "joserfc", "requests", "authlib"])
def test_a_missing_extra_is_one_clear_line(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    service = "c42c0dac-0a52-408e-a04f-5d31bfe0aef8"
    what = {
        "globus_sdk": (
            lambda: load_authenticator("globus", GLOBUS),
            lambda: GlobusLogin(LoginSettings(kind="globus", client_id="x", scope=service)),
        ),
        "joserfc": (lambda: load_authenticator("oidc", OIDC),),
        "requests": (lambda: load_authenticator("oidc", OIDC),),
        "authlib": (
            lambda: OpenIDLogin(
                LoginSettings(kind="oidc", client_id="x", scope="", issuer="https://idp.example")
            ),
        ),
    }[module]
    for one in what:
        with pytest.raises(ConfigurationError, match=r"pip install 'ministream\[(globus|oidc)\]'"):
            one()
