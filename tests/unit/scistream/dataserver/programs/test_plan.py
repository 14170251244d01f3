"""From a start message to what a program is to forward."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.programs.plan import FIRST_DESCRIPTOR, plan_of

BODY: dict[str, Any] = {
    "uid": "one",
    "rate_mbps": 5,
    "tls": None,
    "targets": [
        [[socket.AF_INET, ["10.0.0.1", 80]], [socket.AF_INET6, ["::1", 80, 0, 0]]],
        [[socket.AF_INET6, ["fe80::1", 81, 0, 2]], [socket.AF_INET6, ["fe80::1%eth0", 81, 0, 2]]],
    ],
}


def test_channels_take_the_targets_in_turn_with_all_their_addresses() -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        plan = plan_of(BODY, listeners)
        ports = [listener.getsockname()[1] for listener in listeners]
    assert [channel.descriptor for channel in plan.channels] == [
        FIRST_DESCRIPTOR + index for index in range(3)
    ]
    assert [channel.listener for channel in plan.channels] == [Endpoint("127.0.0.1", port) for port in ports]
    assert plan.channels[0].addresses == (Endpoint("10.0.0.1", 80), Endpoint("::1", 80))
    assert plan.channels[2].addresses == plan.channels[0].addresses
    assert not plan.accepts_tls
    assert not plan.dials_tls


def test_a_link_local_address_keeps_its_interface() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        plan = plan_of(BODY, [one, other])
    assert plan.channels[1].addresses == (Endpoint("fe80::1%2", 81), Endpoint("fe80::1%eth0", 81))


def test_the_encrypted_leg_is_one_of_both() -> None:
    tls = {"certificate": "a", "private_key": "secret", "peer_certificate": "c"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for leg in ("listener", "target"):
            plan = plan_of({**BODY, "tls": {"leg": leg, **tls}}, [listener])
            assert (plan.accepts_tls, plan.dials_tls) == (leg == "listener", leg == "target")
            assert "secret" not in repr(plan)
