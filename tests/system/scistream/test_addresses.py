"""Sessions at all kinds of addresses, with more channels than targets and the reverse: real traffic."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from support.gateways import Application, ask, finish, start_program
from support.module_gateways import (
    CALL_LIMIT_S,
    Pair,
    SharedGateways,
    calling,
    connected,
    encrypted_pair,
)

Applications = Callable[[str], Application]

pytestmark = pytest.mark.timeout(60)


def ask_at(listener: str, message: bytes) -> bytes:
    """Send `message` to an address of any family, and return all that comes back."""
    with connected(listener) as stream:
        stream.sendall(message)
        stream.shutdown(socket.SHUT_WR)
        stream.settimeout(CALL_LIMIT_S)
        return b"".join(iter(lambda: stream.recv(65536), b""))


@pytest.mark.parametrize(
    ("options", "lan", "advertised", "local"),
    [
        (["--advertise=localhost"], "127.0.0.1", "localhost", "127.0.0.1"),
        (["--advertise=localhost", "--advertise-lan=localhost"], "localhost", "localhost", "127.0.0.1"),
        (["--bind=localhost", "--bind-lan=localhost"], "localhost", "localhost", ""),
        (
            ["--listen=[::1]:0", "--bind=::1", "--advertise=::1", "--bind-lan=::1"],
            "[::1]",
            "[::1]",
            "::1",
        ),
        (["--listen=localhost:0", "--listener-ip=::1"], "[::1]", "[::1]", "::1"),
    ],
    ids=["advertise-localhost", "both-localhost", "bind-localhost", "ipv6", "listener-ip-v6"],
)
def test_a_session_through_gateways_at_such_addresses_carries_bytes_end_to_end(
    own: SharedGateways,
    application: Applications,
    options: list[str],
    lan: str,
    advertised: str,
    local: str,
) -> None:
    producer, consumer, app = own.start(*options), own.start(*options), application("app")
    finished = finish(
        start_program(
            "s2uc",
            "request",
            producer.address,
            consumer.address,
            f"--target={app.address}",
            "--num-conn=2",
            f"--producer-certificate={producer.certificate}",
            f"--consumer-certificate={consumer.certificate}",
            f"--token-file={producer.tokens['alice']}",
            "--json",
        )
    )
    assert finished.code == 0, finished.err
    session = finished.json
    assert session["encrypted"] is True
    assert len(session["listeners"]) == 2
    for number, listener in enumerate(session["listeners"]):
        assert listener.rpartition(":")[0] == lan
        message = b"%d" % number * 100_000
        assert ask_at(listener, message) == b"app:" + message
    with calling(producer) as ours, calling(consumer) as theirs:
        for caller in (ours, theirs):
            (seen,) = caller.all_sessions()
            assert seen.state == "connected"
            assert [channel.connections_total for channel in seen.channels] == [1, 1]
        (here,), (there,) = ours.all_sessions(), theirs.all_sessions()
        assert {one.rpartition(":")[0] for one in here.listeners} == {advertised}
        assert list(there.targets) == list(here.listeners)
        if local:  # the address really listened at, whatever it is advertised as
            for listener in here.listeners:
                socket.create_connection((local, int(listener.rpartition(":")[2])), CALL_LIMIT_S).close()
        for caller in (ours, theirs):
            caller.release(session["uid"])


def test_a_target_that_is_named_is_reached(pair: Pair, application: Applications) -> None:
    app = application("app")
    named = app.address.replace("127.0.0.1", "localhost")
    with (
        calling(pair[0]) as ours,
        calling(pair[1]) as theirs,
        encrypted_pair(ours, theirs, named) as session,
    ):
        assert ask(session.connect(named), b"x") == b"app:x"
        assert list(ours.status(session.uid).targets) == [named]


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
@pytest.mark.parametrize(
    ("channels", "names"),
    [(5, ["a"]), (2, ["a", "b", "c", "d", "e"]), (5, ["a", "b"]), (1, ["a"])],
    ids=["5-to-1", "2-to-5", "5-to-2", "1-to-1"],
)
def test_channels_and_targets_need_not_be_as_many_and_each_channel_carries_bytes_to_its_own(
    pair: Pair, application: Applications, channels: int, names: list[str], encrypted: bool
) -> None:
    """Channel i leads to target i; where there are fewer targets, they are taken in turn."""
    apps = [application(name) for name in names]
    targets = [app.address for app in apps]
    with calling(pair[0]) as ours, calling(pair[1]) as theirs:
        uid = f"{channels}-{len(names)}-{encrypted}"
        waiting = ours.req(uid, "PROD", channels), theirs.req(uid, "CONS", channels)
        ours.hello(uid, targets).result()
        theirs.hello(uid, role="CONS").result()
        here, there = waiting[0].result(), waiting[1].result()
        assert len(here.listeners) == len(there.listeners) == channels
        assert list(here.prod_listeners) == targets
        certificates = (there.certificate, here.certificate) if encrypted else (b"", b"")
        ours.update(uid, targets, certificates[0])
        theirs.update(uid, list(here.listeners), certificates[1])
        for channel, listener in enumerate(there.listeners):
            name = names[channel % len(names)].encode()
            message = b"%d" % channel * 200_000
            assert ask(listener, message) == name + b":" + message
        for caller in (ours, theirs):
            session = caller.status(uid)
            assert [one.bytes_to_target for one in session.channels] == [200_000] * channels
            assert session.encrypted is encrypted
            caller.release(uid)
        unused = apps[channels:]
        assert not any(app.threads for app in unused)
