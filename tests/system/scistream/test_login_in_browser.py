"""A login as a person does it: a real browser goes through the pages of the provider, and comes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.login_users import User
from support.openid_provider import ALICE, AUDIENCE, CLIENT, PEOPLE, ProviderProcess
from support.openid_provider import openid as openid  # noqa: PLC0414 - a fixture

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page of a browser that knows nobody and reaches this machine alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=shutil.which("chromium"), args=_FLAGS
        )
        try:
            yield context.new_page()
        finally:
            context.close()


@pytest.mark.peer("chromium")
def test_a_person_logs_in_and_the_browser_says_that_it_is_done(
    openid: ProviderProcess, tmp_path: Path, page: Any
) -> None:
    user = User(tmp_path / "home")
    profile = f"""
[facilities.lab]
address = "127.0.0.1:1"
authenticator = "oidc"
issuer = "{openid.issuer}"
client_id = "{CLIENT}"
scope = "openid offline_access profile email scistream"
resource = "{AUDIENCE}"
"""
    user.write_profiles(profile)
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    with user.asked("login", "lab", "--how=browser", "--json") as conversation:
        page.goto(conversation.url())
        page.get_by_label("Name").fill(PEOPLE[ALICE]["username"])
        page.get_by_label("Password").fill(PEOPLE[ALICE]["password"])
        page.get_by_role("button", name="Sign in").click()
        assert CLIENT in page.inner_text("body")
        page.get_by_role("button", name="Allow").click()
        page.get_by_role("heading", name="Login done").wait_for()
        finished = conversation.end()
    assert finished.code == 0, finished.err
    assert finished.json["logins"][0]["username"] == "alice@anl.gov"
    assert user.store.exists()
    assert all(url.startswith("http://127.0.0.1:") for url in asked_for), asked_for
