"""Signed tokens and the keys of their provider: rotation, and how often it is asked for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from scistream.auth.oidc import OpenIDConnect
from scistream.auth.provider import Provider
from scistream.auth.provider_keys import ProviderKeys
from scistream.errors import AuthenticationError, ConfigurationError, PeerError
from support.openid_provider import ALICE, AUDIENCE, ProviderProcess

from .conftest import with_token

REFRESH_S = 0.4


def connect(openid: ProviderProcess, *, max_age_s: float = 60, issuer: str | None = None) -> OpenIDConnect:
    provider = Provider(issuer or openid.issuer)
    keys = ProviderKeys(provider, max_age_s=max_age_s, refresh_s=REFRESH_S)
    return OpenIDConnect(provider, audience=AUDIENCE, scope="scistream", keys=keys)


@pytest.fixture
async def oidc(openid: ProviderProcess) -> AsyncIterator[OpenIDConnect]:
    made = connect(openid)
    yield made
    await made.close()


async def test_a_new_key_is_known_at_once_and_the_old_one_as_long_as_it_is_published(
    oidc: OpenIDConnect, openid: ProviderProcess
) -> None:
    before = with_token(openid.token(resource=AUDIENCE))
    await oidc.authenticate(before)
    openid.tell("rotate", keep=True)
    await asyncio.sleep(REFRESH_S)
    after = with_token(openid.token(resource=AUDIENCE))
    assert (await oidc.authenticate(after)).name == (await oidc.authenticate(before)).name
    openid.tell("rotate", keep=False)
    await asyncio.sleep(REFRESH_S)
    await oidc.authenticate(with_token(openid.token(resource=AUDIENCE)))
    for old in (before, after):
        with pytest.raises(AuthenticationError):
            await oidc.authenticate(old)


async def test_a_key_that_is_taken_back_is_not_believed_for_longer_than_keys_are_kept(
    openid: ProviderProcess,
) -> None:
    oidc = connect(openid, max_age_s=REFRESH_S)
    token = with_token(openid.token(resource=AUDIENCE))
    await oidc.authenticate(token)
    openid.tell("rotate", keep=False)
    await asyncio.sleep(REFRESH_S)
    with pytest.raises(AuthenticationError):
        await oidc.authenticate(token)
    await oidc.close()


async def test_unknown_keys_do_not_make_it_ask_more_often(
    oidc: OpenIDConnect, openid: ProviderProcess
) -> None:
    claims = {
        "iss": openid.issuer,
        "sub": ALICE,
        "aud": AUDIENCE,
        "scope": "scistream",
        "exp": int(time.time()) + 60,
    }
    strange = [with_token(openid.sign(claims, header={"kid": f"k{number}"})) for number in range(20)]
    await oidc.authenticate(with_token(openid.token(resource=AUDIENCE)))
    before, begin_s = openid.count("/jwks"), time.monotonic()
    results = await asyncio.gather(*map(oidc.authenticate, strange), return_exceptions=True)
    assert {type(one) for one in results} == {AuthenticationError}
    assert openid.count("/jwks") - before <= 1 + (time.monotonic() - begin_s) / REFRESH_S


async def test_a_provider_that_was_never_reached_is_an_error_in_time_and_is_asked_again(
    openid: ProviderProcess,
) -> None:
    oidc = connect(openid)
    token = with_token(openid.token(resource=AUDIENCE))
    with openid.silent():
        begin_s = time.monotonic()
        with pytest.raises(PeerError, match="ask again"):
            await oidc.authenticate(token)
        assert time.monotonic() - begin_s < 4
    await asyncio.sleep(REFRESH_S)
    await oidc.authenticate(token)
    await oidc.close()


async def test_an_issuer_that_calls_itself_otherwise_is_not_believed(openid: ProviderProcess) -> None:
    oidc = connect(openid, issuer=openid.issuer.replace("127.0.0.1", "localhost"))
    with pytest.raises(PeerError, match="calls itself"):
        await oidc.authenticate(with_token(openid.token(resource=AUDIENCE)))
    await oidc.close()


@pytest.mark.parametrize("issuer", ["http://idp.example", "idp.example", "ftp://idp.example", "https://"])
def test_secrets_are_sent_over_https_only(issuer: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        Provider(issuer)
