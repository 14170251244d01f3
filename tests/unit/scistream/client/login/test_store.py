"""The file with a user's logins."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from scistream.client.login import Login, LoginSettings, LoginStore, globus_scope, store_path
from scistream.errors import ConfigurationError

SERVICE = "c42c0dac-0a52-408e-a04f-5d31bfe0aef8"


def login(scope: str = "openid x", **changes: object) -> Login:
    settings = LoginSettings(kind="oidc", client_id="s2uc", scope=scope, issuer="https://idp.example")
    values: dict[str, object] = {
        "settings": settings,
        "username": "alice",
        "access_token": "secret-access",
        "refresh_token": "secret-refresh",
        "expires_at": 5.0,
        **changes,
    }
    return Login(**values)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> LoginStore:
    return LoginStore(tmp_path / "a" / "logins.json")


def test_logins_are_found_by_what_they_are_for(store: LoginStore) -> None:
    assert store.all() == []
    one, other = login(), login("openid y", others={"auth": {"access_token": "z"}})
    with store.locked():
        store.put(one)
        store.put(other)
    assert store.find(one.settings) == one
    assert store.find(other.settings) == other
    newer = login(access_token="newer")
    with store.locked():
        store.put(newer)
    assert store.find(one.settings) == newer
    assert len(store.all()) == 2
    with store.locked():
        store.remove(one.settings)
    assert store.all() == [other]


def test_only_its_owner_reads_it(store: LoginStore) -> None:
    with store.locked():
        store.put(login())
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        store.all()


@pytest.mark.parametrize(
    "content", ["", "x", "[]", "{}", '{"version": 2, "logins": []}', '{"version": 1, "logins": [{}]}']
)
def test_what_holds_no_logins_is_said_and_left_alone(store: LoginStore, content: str) -> None:
    store.path.parent.mkdir()
    store.path.touch(mode=0o600)
    store.path.write_text(content)
    with pytest.raises(ConfigurationError, match="log in again"):
        store.all()
    assert store.path.read_text() == content


def test_secrets_are_in_no_representation() -> None:
    assert "secret" not in repr(login(others={"auth": {"access_token": "secret"}}))


def test_its_place_is_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store_path() == tmp_path / "scistream" / "logins.json"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_path() == tmp_path / ".local/share/scistream/logins.json"
    monkeypatch.setenv("XDG_DATA_HOME", os.devnull)
    assert LoginStore().all() == []


def test_a_lock_is_held_by_one(store: LoginStore) -> None:
    import fcntl

    with store.locked(), store.path.with_suffix(".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_scopes_are_written_as_the_provider_wants_them() -> None:
    full = f"https://auth.globus.org/scopes/{SERVICE}/scistream"
    assert globus_scope(SERVICE) == globus_scope(full) == full
    with pytest.raises(ConfigurationError, match="neither a Globus scope"):
        globus_scope("scistream")
    settings = LoginSettings(kind="globus", client_id="x", scope=SERVICE)
    assert (settings.scope, settings.resource_server) == (full, SERVICE)
    assert login("scistream").settings.scope == "openid offline_access scistream"
    assert json.dumps(settings.key)
