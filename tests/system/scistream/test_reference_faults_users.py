"""What the reference implementation does wrong with who is asking, done right: a test per row.

Rows 22, 23 and 25. Every test has real control servers, and the native data server where data flow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from scistream.wire import scistream_pb2 as pb
from support.gateways import Application, ask, can_be_bound, run_program, until
from support.module_gateways import Pair, SharedGateways, calling, new_uid, refused

Applications = Callable[[str], Application]

#: The reference client waits so long for the answer to HELLO.
REFERENCE_LIMIT_S = 5.0

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("token", [None, "INVALID_TOKEN", "not-a-token", ""], ids=repr)
def test_row_22_without_a_token_every_call_is_unauthenticated_whatever_its_uid(
    pair: Pair, token: str | None
) -> None:
    known, unknown = new_uid(), new_uid()
    with calling(pair[0]) as alice, calling(pair[0], None) as stranger:
        alice.reserve(known, "127.0.0.1:9")
        if token is not None:
            stranger.metadata = (("authorization", token),)
        said: dict[str, set[str]] = {}
        for uid in (known, unknown, "../../no uid at all"):
            calls = {
                "req": lambda uid=uid: stranger.req(uid).result(),
                "hello": lambda uid=uid: stranger.hello(uid, ["127.0.0.1:9"]).result(),
                "update": lambda uid=uid: stranger.update(uid, ["127.0.0.1:9"]),
                "release": lambda uid=uid: stranger.release(uid),
                "status": lambda uid=uid: stranger.status(uid),
                "renew": lambda uid=uid: stranger.stub.renew(
                    pb.RenewRequest(uid=uid), metadata=stranger.metadata
                ),
            }
            for name, call in calls.items():
                code, details = refused(call)
                assert code is grpc.StatusCode.UNAUTHENTICATED, (name, uid)
                said.setdefault(name, set()).add(_without_port(details))
        # nobody learns from the text which uids there are
        assert {name: len(texts) for name, texts in said.items()} == dict.fromkeys(said, 1)
        assert alice.status(known).state == "announced"
        alice.release(known)


def _without_port(details: str) -> str:
    """Without the caller's own port, by which the server names it."""
    return "".join(one for one in details if not one.isdigit())


def test_row_23_an_authenticated_session_at_any_host_can_be_released_by_its_user_alone(
    own: SharedGateways, application: Applications
) -> None:
    server, app = own.start("--listen=127.0.0.2:0", "--encryption=optional"), application("app")
    with calling(server) as alice, calling(server, "bob") as bob:
        uid = new_uid()
        listener = alice.open_plain(uid, app.address)
        without = run_program(
            "s2uc", "release", uid, f"--s2cs={server.address}", f"--certificate={server.certificate}"
        )
        assert without.code == 6
        bob.release(uid)  # fine, as for any session that he does not have
        assert ask(listener, b"x") == b"app:x"
        released = run_program("s2uc", "release", uid, *server.options())
        assert released.code == 0, released.err
        assert alice.status(uid).state == "released"
        assert can_be_bound(listener)


_SLOW_AUTHENTICATOR = """
import asyncio
from scistream.auth.base import Authenticator, Principal

class Slow(Authenticator):
    @classmethod
    def from_settings(cls, settings):
        return cls()

    async def authenticate(self, credentials):
        token = credentials.token
        if token == "slow":
            await asyncio.Event().wait()  # a provider that does not answer
        return Principal(token or "nobody")
"""


@pytest.fixture
def slow_authenticator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install an authenticator, as a facility would install its own, whose token "slow" is never answered."""
    site = tmp_path / "site"
    described = site / "slow_authenticator-1.dist-info"
    described.mkdir(parents=True)
    (site / "slow_authenticator.py").write_text(_SLOW_AUTHENTICATOR)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-authenticator\nVersion: 1\n")
    (described / "entry_points.txt").write_text(
        "[scistream.authenticators]\nslow = slow_authenticator:Slow\n"
    )
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{inherited}" if inherited else str(site))
    return "slow"


def test_row_25_an_authenticator_that_does_not_answer_holds_nobody_else_up_and_is_not_waited_for_long(
    own: SharedGateways, application: Applications, slow_authenticator: str
) -> None:
    app = application("app")
    own.authenticated = False
    arguments = [one for one in own.arguments() if one != "--auth=none"]
    own.arguments = lambda *more: [*arguments, f"--auth={slow_authenticator}", *more]  # type: ignore[method-assign]
    server = own.start("--encryption=optional")
    with calling(server, token="slow") as stuck, calling(server, token="quick") as quick:
        begin_s = time.monotonic()
        waiting = [stuck.req(new_uid()) for _ in range(20)]
        uid = new_uid()
        listener = quick.open_plain(uid, app.address)
        assert ask(listener, b"x") == b"app:x"
        quick.release(uid)
        assert not any(call.done() for call in waiting)
        for call in waiting:
            code, details = refused(call.result)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "again" in details
        # before those who call give up by themselves, and learn nothing
        assert time.monotonic() - begin_s < REFERENCE_LIMIT_S
        assert {one.uid: one.state for one in quick.all_sessions()} == {uid: "released"}
    assert until(lambda: can_be_bound(listener))
