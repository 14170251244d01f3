"""What every authenticator has to do, with real providers, keys and authorities behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from scistream.auth.base import Credentials
from scistream.errors import AuthenticationError, PeerError
from support.openid_provider import OPAQUE_AUDIENCE, SCOPE

from .conftest import ASKING, ATTACKS, FRESH_S, PEER, Subject, with_token

# A control server waits 4 s for all authenticators together.
BOUND_S = 4.0


async def refused(subject: Subject, credentials: Credentials) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await subject.authenticator.authenticate(credentials)
    return str(caught.value)


async def test_good_credentials_name_the_same_principal_every_time(subject: Subject) -> None:
    first = await subject.authenticator.authenticate(subject.make["good"]())
    again = await subject.authenticator.authenticate(subject.make["good"]())
    assert first.name == again.name
    assert first.authenticator == subject.kind.split("-")[0] or subject.kind == "shared-key"
    assert "alice" in first.username
    if subject.kind != "shared-key":
        assert first.name.startswith(f"{first.authenticator}:")
        assert "alice@anl.gov" in first.identities
        assert first.expires_at is not None
        assert first.expires_at > time.time()


@pytest.mark.attack("a token or certificate: {attack}", authenticator="{subject}")
@pytest.mark.parametrize(
    ("subject", "attack"),
    [(kind, attack) for kind, attacks in ATTACKS.items() for attack in attacks],
    indirect=["subject"],
)
async def test_what_is_not_good_is_refused_and_not_repeated(
    subject: Subject, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credentials = subject.make[attack]()
    message = await refused(subject, credentials)
    assert PEER in message
    for secret in (credentials.token, "alice"):
        if secret:
            assert secret not in message
            assert secret not in caplog.text.replace("[]", "")


@pytest.mark.parametrize("token", [None, "", " ", "x\ny", "ü", "\udcff", "x" * 9000, "a.b.c", "a" * 8192])
async def test_garbage_and_huge_tokens_are_refused(subject: Subject, token: str | None) -> None:
    message = await refused(subject, Credentials(token, PEER))
    assert not token or len(token) < 3 or token not in message


@pytest.mark.parametrize("subject", ["mtls", *ASKING], indirect=True)
async def test_what_is_withdrawn_is_refused_soon(subject: Subject) -> None:
    assert subject.revoke is not None
    credentials = subject.make["good"]()
    await subject.authenticator.authenticate(credentials)
    subject.revoke(credentials)
    await asyncio.sleep(FRESH_S)  # what was known is fresh for so long
    await refused(subject, credentials)


def down(subject: Subject, how: str) -> contextlib.AbstractContextManager[None]:
    """Take the provider away: nobody listens, or it takes calls and says nothing."""
    assert subject.provider is not None
    return subject.provider.away() if how == "gone" else subject.provider.silent()


@pytest.mark.parametrize("how", ["gone", "silent"])
@pytest.mark.parametrize("subject", ["oidc-signed", *ASKING], indirect=True)
async def test_without_provider_the_known_go_on_and_others_are_told_in_time(
    subject: Subject, how: str
) -> None:
    known, unknown = subject.make["good"](), subject.make["good"]()
    if subject.kind == "oidc-signed":  # whose keys are known needs nobody: a new authenticator has none
        first = await subject.authenticator.authenticate(known)
        await asyncio.sleep(FRESH_S)
        with down(subject, how):
            assert await subject.authenticator.authenticate(known) == first
            assert (await subject.authenticator.authenticate(unknown)).name == first.name
        return
    first = await subject.authenticator.authenticate(known)
    await asyncio.sleep(FRESH_S)
    with down(subject, how):
        begin_s = time.monotonic()
        assert await subject.authenticator.authenticate(known) == first
        assert time.monotonic() - begin_s < BOUND_S
        # which has found it out: the next ones do not wait for it
        begin_s = time.monotonic()
        assert await subject.authenticator.authenticate(known) == first
        assert time.monotonic() - begin_s < 0.5
        begin_s = time.monotonic()
        with pytest.raises(PeerError) as caught:
            await subject.authenticator.authenticate(unknown)
        assert time.monotonic() - begin_s < BOUND_S
        assert "ask again" in str(caught.value)
        assert str(unknown.token) not in str(caught.value)


@pytest.mark.parametrize("subject", ASKING, indirect=True)
async def test_a_known_token_ends_with_its_own_expiry_even_without_provider(subject: Subject) -> None:
    assert subject.provider is not None
    meant_for = {"scope": SCOPE} if subject.kind == "globus" else {"resource": OPAQUE_AUDIENCE}
    credentials = with_token(subject.provider.token(ttl=2, **meant_for))
    principal = await subject.authenticator.authenticate(credentials)
    assert principal.expires_at is not None
    with down(subject, "gone"):
        await asyncio.sleep(max(0.0, principal.expires_at - time.time()) + 0.1)
        assert "expired" in await refused(subject, credentials)


@pytest.mark.parametrize("subject", ASKING, indirect=True)
async def test_a_wrong_secret_is_the_operators_to_mend(subject: Subject) -> None:
    with pytest.raises(PeerError, match="client id and secret") as caught:
        await subject.others[0].authenticate(subject.make["good"]())
    assert "not the secret" not in str(caught.value)


@pytest.mark.parametrize("subject", ASKING, indirect=True)
async def test_a_token_is_asked_about_once_by_however_many(subject: Subject) -> None:
    assert subject.provider is not None
    path = "/v2/oauth2/token/introspect" if subject.kind == "globus" else "/token/introspection"
    credentials = subject.make["good"]()
    before = subject.provider.count(path)
    found = await asyncio.gather(*(subject.authenticator.authenticate(credentials) for _ in range(50)))
    assert len(set(found)) == 1
    assert subject.provider.count(path) == before + 1
    await asyncio.sleep(FRESH_S)
    await subject.authenticator.authenticate(credentials)
    assert subject.provider.count(path) == before + 2


@pytest.mark.parametrize("subject", ASKING, indirect=True)
async def test_the_event_loop_goes_on_while_a_provider_is_waited_for(subject: Subject) -> None:
    credentials = subject.make["good"]()
    with down(subject, "silent"):
        waiting = asyncio.ensure_future(subject.authenticator.authenticate(credentials))
        worst_s = 0.0
        while not waiting.done():
            begin_s = time.monotonic()
            await asyncio.sleep(0.01)
            worst_s = max(worst_s, time.monotonic() - begin_s)
        assert worst_s < 1.0
        with pytest.raises(PeerError):
            waiting.result()
