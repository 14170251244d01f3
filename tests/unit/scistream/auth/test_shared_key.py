"""Tokens that are handed out: made, kept as hashes, recognised, refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from scistream.auth.base import Credentials
from scistream.auth.shared_key import (
    SharedKey,
    create_token,
    create_token_file,
    hash_token,
    read_token_file,
)
from scistream.errors import AuthenticationError, ConfigurationError


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def authenticator(auth_file: Path) -> SharedKey:
    return SharedKey.from_settings({"file": str(auth_file)})


async def test_each_token_names_its_holder(auth_file: Path) -> None:
    tokens = {name: create_token(name, auth_file) for name in ("alice", "bob")}
    shared_key = authenticator(auth_file)
    for name, token in tokens.items():
        assert (await shared_key.authenticate(Credentials(token, "test"))).name == name


async def test_one_holder_can_have_several_tokens(auth_file: Path) -> None:
    tokens = [create_token("alice", auth_file) for _ in range(3)]
    assert len(set(tokens)) == 3
    shared_key = authenticator(auth_file)
    assert {(await shared_key.authenticate(Credentials(token, "test"))).name for token in tokens} == {"alice"}


@pytest.mark.parametrize("token", [None, "", "guess", "ü", "\udcff"])
async def test_anything_else_is_refused_without_being_repeated(auth_file: Path, token: str | None) -> None:
    create_token("alice", auth_file)
    with pytest.raises(AuthenticationError) as refused:
        await authenticator(auth_file).authenticate(Credentials(token, "ipv4:192.0.2.1:4"))
    assert "alice" not in str(refused.value)
    assert not token or token not in str(refused.value).replace("guessed", "")


async def test_the_hash_in_the_file_is_no_token(auth_file: Path) -> None:
    token = create_token("alice", auth_file)
    content = auth_file.read_text()
    assert token not in content
    assert hash_token(token) in content
    with pytest.raises(AuthenticationError):
        await authenticator(auth_file).authenticate(Credentials(hash_token(token), "test"))


def test_both_files_belong_to_their_owner_alone(auth_file: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "alice.token"
    create_token_file("alice", auth_file, token_file)
    for path in (auth_file, token_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert hash_token(read_token_file(token_file)) in auth_file.read_text()
    assert sorted(tmp_path.iterdir()) == sorted([auth_file, token_file])


def test_an_existing_token_file_is_not_overwritten_and_nothing_changes(
    auth_file: Path, tmp_path: Path
) -> None:
    token_file = tmp_path / "alice.token"
    create_token_file("alice", auth_file, token_file)
    before = auth_file.read_bytes(), token_file.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        create_token_file("alice", auth_file, token_file)
    assert (auth_file.read_bytes(), token_file.read_bytes()) == before


def test_a_name_that_is_none_leaves_no_file(auth_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a name"):
        create_token_file('x" = 1\n', auth_file, tmp_path / "x.token")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_files_open_to_others_are_not_used(auth_file: Path, tmp_path: Path, mode: int) -> None:
    token_file = tmp_path / "alice.token"
    create_token_file("alice", auth_file, token_file)
    auth_file.chmod(mode)
    token_file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        authenticator(auth_file)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_token_file(token_file)


@pytest.mark.parametrize(
    "content",
    [
        "tokens = 1",
        "[tokens]\nshort = 'alice'",
        f"[tokens]\n{'0' * 64} = 1",
        f"[tokens]\n{'0' * 64} = 'a b'",
        "[other]",
        "no toml",
        "",
        b"\xff\xfe",
    ],
)
def test_files_that_are_no_token_files_are_refused(auth_file: Path, content: str | bytes) -> None:
    auth_file.touch(mode=0o600)
    auth_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError):
        authenticator(auth_file)


def test_settings_are_checked(auth_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="s2cs token"):
        SharedKey.from_settings({})
    with pytest.raises(ConfigurationError, match="no setting 'other'"):
        SharedKey.from_settings({"file": "x", "other": "y"})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        authenticator(auth_file)


@pytest.mark.parametrize("content", [b"", b"two words\n", b"\xff\n", b"\x00\n"])
def test_a_token_file_holds_one_token(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="one token"):
        read_token_file(path)
