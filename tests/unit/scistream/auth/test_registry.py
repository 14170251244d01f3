"""Authenticators by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from scistream.auth.anonymous import Anonymous
from scistream.auth.base import Credentials
from scistream.auth.registry import installed_authenticators, load_authenticator
from scistream.auth.shared_key import SharedKey, create_token
from scistream.errors import ConfigurationError


def test_the_built_in_ones_are_found(tmp_path: Path) -> None:
    create_token("alice", tmp_path / "tokens.toml")
    assert {"globus", "mtls", "none", "oidc", "shared-key"} <= set(installed_authenticators())
    assert isinstance(load_authenticator("none", {}), Anonymous)
    assert isinstance(load_authenticator("shared-key", {"file": str(tmp_path / "tokens.toml")}), SharedKey)


def test_an_unknown_name_is_an_error_that_lists_the_installed_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'globos' is not installed.*globus, mtls, none, oidc, shared-key"
    ):
        load_authenticator("globos", {})


async def test_none_knows_nobody_and_says_so() -> None:
    anonymous = load_authenticator("none", {})
    assert not anonymous.proves_identity
    callers = [Credentials(None, "x"), Credentials("token", "y")]
    assert {(await anonymous.authenticate(caller)).name for caller in callers} == {"anonymous"}
    with pytest.raises(ConfigurationError, match="no setting 'file'"):
        load_authenticator("none", {"file": "x"})
