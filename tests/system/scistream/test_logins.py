"""Whole logins: the real programs, a real control server, a real provider, and somebody with a browser."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scistream.client.aio import Facility
from scistream.client.login import LoginStore, StoredToken
from scistream.core.endpoint import Endpoint
from support.gateways import Application, ControlServerProcess, ask, until
from support.login_users import User
from support.module_gateways import SharedGateways, serving
from support.openid_provider import (
    ALICE,
    AUDIENCE,
    BOB,
    CLIENT,
    OPAQUE_AUDIENCE,
    SCOPE,
    SECRET,
    SERVICE,
    Page,
    Person,
    ProviderProcess,
)
from support.openid_provider import globus_auth as globus_auth  # noqa: PLC0414 - a fixture
from support.openid_provider import openid as openid  # noqa: PLC0414 - a fixture


def secret_file(directory: Path, content: str = SECRET) -> Path:
    path = directory / "client.secret"
    path.touch(mode=0o600)
    path.write_text(content + "\n")
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, openid: ProviderProcess) -> Iterator[ControlServerProcess]:
    """A control server that knows users by the provider's tokens, and by shared keys."""
    directory = tmp_path_factory.mktemp("lab")
    with serving(directory) as gateways:
        gateways.authentication = [
            "--auth=oidc",
            f"--oidc-issuer={openid.issuer}",
            f"--oidc-audience={AUDIENCE}",
            "--oidc-scope=scistream",
            "--auth=shared-key",
            f"--auth-file={gateways.auth_file}",
        ]
        yield gateways.start("-v")


@pytest.fixture(scope="module")
def asking(
    tmp_path_factory: pytest.TempPathFactory, openid: ProviderProcess
) -> Iterator[ControlServerProcess]:
    """A control server that asks the provider about every token."""
    directory = tmp_path_factory.mktemp("asking")
    with serving(directory) as gateways:
        gateways.authentication = [
            "--auth=oidc",
            f"--oidc-issuer={openid.issuer}",
            f"--oidc-audience={OPAQUE_AUDIENCE}",
            "--oidc-scope=scistream",
            f"--oidc-client-id={SERVICE}",
            f"--oidc-client-secret-file={secret_file(directory)}",
            "--oidc-introspect",
        ]
        yield gateways.start("-v")


@pytest.fixture(scope="module")
def aps(
    tmp_path_factory: pytest.TempPathFactory, globus_auth: ProviderProcess
) -> Iterator[ControlServerProcess]:
    """A control server that knows users by Globus."""
    directory = tmp_path_factory.mktemp("aps")
    with serving(directory) as gateways, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{globus_auth.issuer}/")
        gateways.authentication = [
            "--auth=globus",
            f"--client-id={SERVICE}",
            f"--client-secret-file={secret_file(directory)}",
        ]
        yield gateways.start("-v")


@pytest.fixture
def user(
    tmp_path: Path,
    lab: ControlServerProcess,
    asking: ControlServerProcess,
    aps: ControlServerProcess,
    openid: ProviderProcess,
    globus_auth: ProviderProcess,
) -> User:
    made = User(tmp_path / "home", {"GLOBUS_SDK_SERVICE_URL_AUTH": f"{globus_auth.issuer}/"})
    made.write_profiles(
        f"""
[facilities.lab]
address = "{lab.address}"
certificate = "{lab.certificate}"
authenticator = "oidc"
issuer = "{openid.issuer}"
client_id = "{CLIENT}"
scope = "openid offline_access profile email scistream"
resource = "{AUDIENCE}"

[facilities.asking]
address = "{asking.address}"
certificate = "{asking.certificate}"
authenticator = "oidc"
issuer = "{openid.issuer}"
client_id = "{CLIENT}"
scope = "openid offline_access profile email scistream"
resource = "{OPAQUE_AUDIENCE}"

[facilities.aps]
address = "{aps.address}"
certificate = "{aps.certificate}"
authenticator = "globus"
client_id = "{CLIENT}"
scope = "{SERVICE}"
"""
    )
    return made


def log_in(user: User, facility: str, who: str = ALICE, *more: str) -> tuple[str, str]:
    """Log in with a pasted answer; return that, and what else was shown."""
    how = [] if facility == "aps" else ["--how=paste"]
    with user.asked("login", facility, *how, *more) as conversation:
        went_to = Person(who).visit(conversation.url())
        pasted = went_to.texts["code"] if isinstance(went_to, Page) else went_to
        finished = conversation.answer(pasted)
    assert finished.code == 0, finished.err
    assert "Logged in as" in finished.out
    return pasted, finished.err


def tokens_of(user: User) -> list[str]:
    """All secrets in the user's store."""
    found = []
    for one in json.loads(user.store.read_text())["logins"]:
        found += [one["access_token"], one["refresh_token"]]
        for other in one["others"].values():
            found += [other["access_token"], other["refresh_token"]]
    return [token for token in found if token]


def expire(user: User) -> None:
    """Let the stored tokens be due."""
    content = json.loads(user.store.read_text())
    for one in content["logins"]:
        one["expires_at"] = 1.0
        for other in one["others"].values():
            other["expires_at_seconds"] = 1
    user.store.write_text(json.dumps(content))


@pytest.mark.parametrize("facility", ["lab", "asking", "aps"])
def test_log_in_look_refresh_log_out(user: User, facility: str) -> None:
    """1 nobody; 2 log in; 3 let in, and known by name; 4 expired, refreshed in silence; 5 out; 6 nobody."""
    before = user.run("list", "--s2cs", facility)
    assert before.code == 6
    assert f"type: s2uc login {facility}" in before.err

    log_in(user, facility)
    assert stat.S_IMODE(user.store.stat().st_mode) == 0o600
    assert stat.S_IMODE(user.store.parent.stat().st_mode) == 0o700

    shown = user.run("check-auth", facility)
    assert shown.code == 0, shown.err
    assert "alice@anl.gov" in shown.out
    assert "let in   yes" in shown.out
    assert not any(token in shown.out + shown.err for token in tokens_of(user))
    with_token = user.run("check-auth", facility, "--show-token", "--json")
    assert with_token.json["logins"][0]["token"] in tokens_of(user)
    assert user.run("list", "--s2cs", facility).out == "no sessions\n"

    old = tokens_of(user)
    expire(user)
    assert user.run("list", "--s2cs", facility).code == 0
    assert tokens_of(user)[0] != old[0]
    again = user.run("login", facility)
    assert (again.code, "already logged in" in again.out) == (0, True)

    out = user.run("logout", facility)
    assert (out.code, out.out) == (0, "Successfully logged out!\n"), out.err
    assert json.loads(user.store.read_text())["logins"] == []
    assert f"type: s2uc login {facility}" in user.run("list", "--s2cs", facility).err


def test_several_facilities_are_logged_in_at_once_and_are_apart(user: User) -> None:
    log_in(user, "lab")
    log_in(user, "aps", BOB)
    names = {one["facility"]: one.get("username") for one in user.run("check-auth", "--json").json["logins"]}
    assert names == {"lab": "alice@anl.gov", "asking": None, "aps": "bob@ornl.gov"}
    assert user.run("logout", "lab").code == 0
    assert user.run("check-auth", "aps").code == 0


@pytest.mark.parametrize("how", [["--how=device"], []], ids=["asked for", "found out"])
def test_the_device_flow_needs_no_browser_here(user: User, how: list[str]) -> None:
    with user.asked("login", "lab", *how) as conversation:
        url = conversation.url("enter")  # the complete one, which follows the code
        page = Person().visit(url)
        assert isinstance(page, Page)
        assert "done" in page.texts
        finished = conversation.end()
    assert finished.code == 0, finished.err
    assert user.run("check-auth", "lab").code == 0


def test_who_refuses_on_the_device_is_not_logged_in(user: User) -> None:
    with user.asked("login", "lab", "--how=device") as conversation:
        Person(denies=True).visit(conversation.url("enter"))
        finished = conversation.end()
    assert finished.code == 6
    assert "access_denied" in finished.err
    assert not user.store.exists()


def test_the_browser_comes_back_by_itself(user: User) -> None:
    with user.asked("login", "lab", "--how=browser", "--json") as conversation:
        came_back = Person().visit(conversation.url())
        assert isinstance(came_back, str)
        import requests

        assert "Login done" in requests.get(came_back, timeout=10).text
        finished = conversation.end()
    assert finished.code == 0, finished.err
    assert finished.json["logins"][0]["username"] == "alice@anl.gov"
    assert user.run("check-auth", "lab").code == 0


def test_an_answer_to_another_login_is_not_taken(user: User) -> None:
    with (
        user.asked("login", "lab", "--how=paste") as first,
        user.asked("login", "lab", "--how=paste") as second,
    ):
        other = Person().visit(first.url())
        assert isinstance(other, str)
        finished = second.answer(other)
        assert finished.code == 6
        assert "does not belong to this login" in finished.err
        code = re.search(r"[?&]code=([^&]+)", other)
        assert code is not None
    with user.asked("login", "lab", "--how=paste") as third:
        third.url()
        # the code alone: it was made for another proof (PKCE)
        finished = third.answer(code[1])
        assert finished.code == 6
        assert "invalid_grant" in finished.err
    assert not user.store.exists()


@pytest.mark.parametrize("facility", ["lab", "aps"])
def test_garbage_for_a_code_is_refused(user: User, facility: str) -> None:
    how = [] if facility == "aps" else ["--how=paste"]
    with user.asked("login", facility, *how) as conversation:
        conversation.url()
        finished = conversation.answer("garbage")
    assert finished.code == 6, finished.err
    assert not user.store.exists()


@pytest.mark.parametrize("facility", ["lab", "aps"])
def test_a_login_that_was_withdrawn_elsewhere_says_the_command_to_type(user: User, facility: str) -> None:
    log_in(user, facility)
    stolen = user.store.read_text()
    assert user.run("logout", facility).code == 0
    user.store.write_text(stolen)  # as a copy of the file on another machine
    expire(user)
    finished = user.run("list", "--s2cs", facility)
    assert finished.code == 6
    assert f"has expired; type: s2uc login {facility}" in finished.err


def test_a_token_that_is_withdrawn_is_refused_within_its_freshness(user: User) -> None:
    log_in(user, "asking")
    stolen = user.store.read_text()
    user.run("logout", "asking")
    user.store.write_text(stolen)
    finished = user.run("list", "--s2cs", "asking")
    # it had not been seen there, so nothing is fresh
    assert finished.code == 6
    assert "not known here" in finished.err


def test_two_programs_that_refresh_at_once_spend_one_refresh_token(user: User) -> None:
    log_in(user, "lab")  # whose refresh tokens are good once
    expire(user)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(user.run("list", "--s2cs", "lab"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.code for one in results] == [0] * 4, results


def test_without_provider_a_good_token_goes_on_and_a_login_says_so_in_time(
    user: User, openid: ProviderProcess
) -> None:
    log_in(user, "lab")
    assert user.run("list", "--s2cs", "lab").code == 0  # it has the provider's keys now
    with openid.away():
        assert user.run("list", "--s2cs", "lab").code == 0
        begin_s = time.monotonic()
        finished = user.run("login", "lab", "--force", "--how=paste")
        assert finished.code == 4
        assert "cannot be asked" in finished.err
        assert time.monotonic() - begin_s < 20
        out = user.run("logout", "lab")
        assert out.code == 4
        assert len(json.loads(user.store.read_text())["logins"]) == 1  # it can be tried again
        assert user.run("logout", "lab", "--forget").code == 0
    assert json.loads(user.store.read_text())["logins"] == []


def test_a_wrong_person_is_not_let_in_by_a_right_name(user: User) -> None:
    with user.asked("login", "lab", "--how=paste") as conversation:
        page = Person(password="guess").visit(conversation.url())
        assert isinstance(page, Page)
        assert "wrong" in page.texts


def test_the_references_options_find_the_login(user: User, aps: ControlServerProcess) -> None:
    """Facts A2: login --scope, check-auth --ip and --scope, release --scope … at a server without profile."""
    profiles = user.home / "config" / "scistream" / "config.toml"
    profiles.write_text("")
    with user.asked("login", "--scope", SERVICE, "--client-id", CLIENT) as conversation:
        page = Person().visit(conversation.url("Please authenticate with Globus here"))
        assert isinstance(page, Page)
        finished = conversation.answer(page.texts["code"])
    assert "To obtain token for the scope" in finished.err
    assert "Enter the resulting Authorization Code here" in finished.err
    assert finished.code == 0, finished.err
    shown = user.run("check-auth", "--scope", SERVICE, "--show-token")
    assert f"Access Token for scope '{SCOPE}': " in shown.out
    options = ["--s2cs", aps.address, "--server_cert", aps.certificate]
    refused = user.run("release", "no-such-session", *options)
    assert (refused.code, "no token came" in refused.err) == (6, True), refused.err
    known = user.run("release", "no-such-session", *options, "--scope", SERVICE)
    assert (known.code, "there is no session" in known.err) == (7, True), known.err
    assert user.run("logout").out == "Successfully logged out!\n"


def test_check_auth_finds_the_profile_by_its_address(user: User, lab: ControlServerProcess) -> None:
    log_in(user, "lab")
    shown = user.run("check-auth", "--ip", lab.address, "--json")
    assert shown.json["logins"][0]["facility"] == "lab"
    assert shown.json["logins"][0]["accepted"] is True


@pytest.mark.parametrize("facility", ["lab", "asking", "aps"])
def test_no_secret_is_in_the_logs_of_either_program_however_much_they_say(
    user: User, request: pytest.FixtureRequest, facility: str
) -> None:
    server: ControlServerProcess = request.getfixturevalue(facility)
    pasted, shown = log_in(user, facility, ALICE, "-v")
    code = re.search(r"code=([^&]+)", pasted)
    secrets = [SECRET, code[1] if code else pasted, *tokens_of(user)]
    for arguments in (["list"], ["list", "-v"], ["check-auth", facility, "-v"]):
        where = [] if arguments[0] == "check-auth" else ["--s2cs", facility]
        expire(user)
        finished = user.run(*arguments, *where)
        assert finished.code == 0, finished.err
        shown += finished.out + finished.err
        secrets += tokens_of(user)
    shown += user.run("logout", facility, "-v").err + server.log.read_text()
    assert len(set(secrets)) > 4  # code, tokens, and those that have taken their place
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        (f'resource = "{AUDIENCE}"', f'resource = "{OPAQUE_AUDIENCE}"'),
        (f'resource = "{AUDIENCE}"', 'resource = "https://other.example/"'),
        ("email scistream", "email other"),
    ],
    ids=["token of another kind", "wrong audience", "missing scope"],
)
def test_a_login_for_something_else_is_not_let_in(user: User, was: str, instead: str) -> None:
    profiles = user.home / "config" / "scistream" / "config.toml"
    user.write_profiles(profiles.read_text().replace(was, instead, 1))
    log_in(user, "lab")
    finished = user.run("check-auth", "lab")
    assert finished.code == 6
    assert "alice@anl.gov" in finished.out
    assert "let in   no" in finished.out


def test_keys_that_change_do_not_throw_anybody_out_for_long(
    user: User, own: SharedGateways, openid: ProviderProcess
) -> None:
    own.authentication = [
        "--auth=oidc",
        f"--oidc-issuer={openid.issuer}",
        f"--oidc-audience={AUDIENCE}",
        "--oidc-scope=scistream",
    ]
    server = own.start()
    profiles = user.home / "config" / "scistream" / "config.toml"
    text = profiles.read_text().split("[facilities.asking]")[0]
    text = re.sub('address = "[^"]*"', f'address = "{server.address}"', text)
    user.write_profiles(re.sub('certificate = "[^"]*"', f'certificate = "{server.certificate}"', text))
    log_in(user, "lab")
    assert user.run("list").code == 0
    openid.tell("rotate", keep=True)
    assert user.run("list").code == 0
    expire(user)
    # signed by the new key, which is looked for at once, but not within 10 s of the last time
    assert until(lambda: user.run("list").code == 0)


def test_a_wrong_secret_of_the_gateway_is_said_to_be_the_operators(
    user: User,
    own: SharedGateways,
    tmp_path: Path,
    globus_auth: ProviderProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{globus_auth.issuer}/")
    monkeypatch.setenv("S2CS_START_CLIENT_SECRET", "not the secret")
    own.authentication = ["--auth=globus", f"--client-id={SERVICE}"]
    server = own.start()
    log_in(user, "aps")
    options = ["--s2cs", server.address, "--certificate", server.certificate, "--scope", SERVICE]
    finished = user.run("release", "x", *options)
    assert finished.code == 4
    assert "its operator has to look at client id and secret" in finished.err
    assert "not the secret" not in server.log.read_text()


def test_a_session_between_two_facilities_with_two_logins(
    user: User, application: Callable[[str], Application]
) -> None:
    app = application("app")
    log_in(user, "lab")
    log_in(user, "aps", BOB)
    opened = user.run("request", "lab", "aps", "--target", app.address, "--json")
    assert opened.code == 0, opened.err
    assert ask(opened.json["listeners"][0], b"x") == b"app:x"
    sides = user.run("status", opened.json["uid"], "--s2cs=lab", "--s2cs=aps", "--json").json["sessions"]
    owners = [one["principal"] for one in sides]
    assert owners[0].startswith(f"oidc:{ALICE}@http://127.0.0.1:")
    assert owners[1] == f"globus:{BOB}"
    assert user.run("release", opened.json["uid"], "--s2cs=lab", "--s2cs=aps").code == 0


async def test_a_program_that_goes_on_outlives_its_tokens(
    user: User, asking: ControlServerProcess, openid: ProviderProcess
) -> None:
    """As ``s2uc watch`` does: one client, calls over more time than a token lasts."""
    log_in(user, "asking")
    store = LoginStore(user.store)
    openid.tell("settings", accessTtl=2)
    try:
        expire(user)
        facility = Facility(
            endpoint=Endpoint.parse(asking.address),
            server_certificate_pem=asking.certificate.read_bytes(),
            token=StoredToken(store.all()[0].settings, "s2uc login asking", store),
        )
        seen = set()
        async with facility.connect() as client:
            for _ in range(3):
                assert await client.status() == ()
                login = store.all()[0]
                seen.add(login.access_token)
                await asyncio.sleep(max(0.0, login.expires_at - time.time()) + 0.1)
        assert len(seen) == 3
    finally:
        openid.tell("settings", accessTtl=3600)
