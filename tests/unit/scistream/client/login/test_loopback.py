"""The page that takes the browser back."""

from __future__ import annotations

import threading

import pytest
import requests

from scistream.client.login.loopback import Loopback
from scistream.errors import DeadlineExceeded


def test_only_the_answer_to_this_login_ends_the_waiting() -> None:
    with Loopback() as loopback:
        answers: list[str] = []
        waiting = threading.Thread(target=lambda: answers.append(loopback.wait("state", 10)))
        waiting.start()
        base = loopback.redirect_uri.rpartition("/")[0]
        for strange in ("/favicon.ico", "/callback", "/callback?state=other&code=x", "/other?state=state"):
            assert requests.get(base + strange, timeout=5).status_code == 404
        assert answers == []
        page = requests.get(f"{loopback.redirect_uri}?state=state&code=x", timeout=5)
        assert (page.status_code, "Login done" in page.text) == (200, True)
        assert "code=x" not in page.text
        waiting.join(5)
    assert answers == [f"{loopback.redirect_uri}?state=state&code=x"]


def test_nobody_comes() -> None:
    with Loopback() as loopback, pytest.raises(DeadlineExceeded, match="--how paste"):
        loopback.wait("state", 0.05)
