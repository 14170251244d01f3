"""What the reference does wrong with names and addresses from the wire, done right: a test per row.

Rows 13 and 14. Every test has real control servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from scistream.wire import scistream_pb2 as pb
from support.gateways import Application
from support.module_gateways import (
    Caller,
    Pair,
    SharedGateways,
    calling,
    family,
    new_uid,
    refused,
    serving,
)

Applications = Callable[[str], Application]

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    "uid", ["../../escaped", "/escaped", "a/../escaped", "escaped\0.x", "escaped\n", "", "e" * 65, "escapéd"]
)
def test_row_13_a_uid_that_could_be_more_than_a_name_is_refused_by_every_call(
    own_with_state: tuple[SharedGateways, Caller], uid: str
) -> None:
    gateways, alice = own_with_state
    calls = {
        "req": lambda: alice.req(uid).result(),
        "hello": lambda: alice.hello(uid, ["127.0.0.1:9"]).result(),
        "update": lambda: alice.update(uid, ["127.0.0.1:9"]),
        "release": lambda: alice.release(uid),
        "status": lambda: alice.status(uid),
        "renew": lambda: alice.stub.renew(pb.RenewRequest(uid=uid), metadata=alice.metadata),
    }
    if not uid:
        del calls["status"]  # all of one's own
    for name, call in calls.items():
        assert refused(call)[0] is grpc.StatusCode.INVALID_ARGUMENT, name
    assert alice.all_sessions() == []
    for root in (gateways.directory, Path.home(), Path.cwd()):
        assert not [one for one in root.glob("*") if "escap" in one.name]
    assert not [one for one in gateways.directory.rglob("*") if "escap" in one.name]


@pytest.fixture(scope="module")
def own_with_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SharedGateways, Caller]]:
    directory = tmp_path_factory.mktemp("gateways")
    with (
        serving(directory) as gateways,
        calling(gateways.start(f"--state-dir={directory / 'state'}", "--encryption=optional")) as alice,
    ):
        yield gateways, alice


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:9\nlisten evil\n  bind 127.0.0.1:7777",
        "127.0.0.1:9 backup",
        "127.0.0.1 :9",
        "$(touch escaped):9",
        "a;b:9",
        "a{b}:9",
        "-oProxyCommand=x:9",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1",
        "",
    ],
)
def test_row_14_an_address_that_is_none_is_refused_and_opens_no_listener(
    pair: Pair, application: Applications, address: str
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        waiting = alice.req(uid)
        assert refused(alice.hello(uid, [address]).result)[0] is grpc.StatusCode.INVALID_ARGUMENT
        alice.hello(uid, [app.address]).result()
        before = _listening(pair)
        code, details = refused(lambda: alice.update(uid, [app.address, address]))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "\n" not in details
        assert _listening(pair) == before
        assert list(waiting.result().prod_listeners) == [app.address]
        alice.release(uid)


def _listening(pair: Pair) -> set[int]:
    return {
        connection.laddr.port
        for process in family(pair[0])
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
