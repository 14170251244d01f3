"""Several authenticators at one control server."""

from __future__ import annotations

from pathlib import Path

import pytest

from scistream.auth.anonymous import Anonymous
from scistream.auth.base import Authenticator, Credentials, Principal
from scistream.auth.chain import Chain, load_chain
from scistream.auth.shared_key import SharedKey, create_token
from scistream.errors import AuthenticationError, ConfigurationError, PeerError


class Provider(Authenticator):
    """Knows one token; remembers what it was shown."""

    asks_provider = True

    def __init__(self, token: str = "", *, away: bool = False) -> None:
        self.token, self.away = token, away
        self.shown: list[str | None] = []
        self.closed = False

    @classmethod
    def from_settings(cls, settings: object) -> Provider:
        return cls()

    async def authenticate(self, credentials: Credentials) -> Principal:
        self.shown.append(credentials.token)
        if self.away:
            raise PeerError("the provider is away")
        if credentials.token == self.token:
            return Principal("provider:x")
        raise AuthenticationError("the provider does not know it")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def shared_key(auth_file: Path) -> tuple[SharedKey, str]:
    token = create_token("alice", auth_file)
    return SharedKey.from_settings({"file": str(auth_file)}), token


async def test_a_token_of_this_gateway_is_not_shown_to_a_provider(auth_file: Path) -> None:
    own, token = shared_key(auth_file)
    provider = Provider("theirs")
    chain = Chain([provider, own])
    assert (await chain.authenticate(Credentials(token, "test"))).name == "alice"
    assert provider.shown == []
    assert (await chain.authenticate(Credentials("theirs", "test"))).name == "provider:x"


async def test_who_is_not_known_is_not_told_by_whom(auth_file: Path) -> None:
    own, _ = shared_key(auth_file)
    messages = set()
    for chain in (Chain([own, Provider("x")]), Chain([own, Provider("x"), Provider("y")])):
        with pytest.raises(AuthenticationError) as refused:
            await chain.authenticate(Credentials("guess", "test"))
        messages.add(str(refused.value))
    assert len(messages) == 1
    assert "provider" not in messages.pop()


async def test_one_that_is_away_hides_no_other(auth_file: Path) -> None:
    chain = Chain([Provider(away=True), Provider("y")])
    assert (await chain.authenticate(Credentials("y", "test"))).name == "provider:x"
    with pytest.raises(PeerError, match="away"):
        await chain.authenticate(Credentials("z", "test"))


@pytest.mark.parametrize("token", [None, "", "x" * 9000, "x\n", "ü"])
async def test_what_is_no_token_is_shown_to_nobody(token: str | None) -> None:
    provider = Provider()
    with pytest.raises(AuthenticationError):
        await Chain([provider]).authenticate(Credentials(token, "test"))
    assert provider.shown == []


async def test_closing_closes_all() -> None:
    all_of_them = [Provider(), Provider()]
    await Chain(all_of_them).close()
    assert all(one.closed for one in all_of_them)


def test_none_stands_alone_and_somebody_has_to_stand_there(auth_file: Path) -> None:
    own, _ = shared_key(auth_file)
    with pytest.raises(ConfigurationError, match="takes anybody"):
        Chain([own, Anonymous()])
    with pytest.raises(ConfigurationError, match="not said"):
        Chain([])
    assert not Chain([Anonymous()]).proves_identity
    with pytest.raises(ConfigurationError, match="not installed"):
        load_chain({"shared-key": {"file": str(auth_file)}, "other": {}})
