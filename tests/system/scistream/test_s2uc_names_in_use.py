"""What is asked for under a name in use: refused, or the same session, which goes on with its streams."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from scistream.cli.s2uc.sides import cons_req, prod_req
from scistream.core.endpoint import Endpoint
from scistream.core.limits import Limits
from support.gateways import (
    TIMEOUT_S,
    Application,
    Finished,
    Gateways,
    ask,
    finish,
    run_program,
    start_program,
)

Applications = Callable[[str], Application]
Profiles = Callable[..., dict[str, str]]


def s2uc(*arguments: str | Path, **environment: str) -> Finished:
    return run_program("s2uc", *arguments, **environment)


def test_no_command_that_fails_ends_the_session_that_was_there_or_cuts_its_stream(
    gateways: Gateways, application: Applications, profiles: Profiles
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    same = ["request", "aps", "alcf", "--uid=A", f"--target={app.address}"]
    opened = s2uc(*same, "--json", **env)
    assert opened.code == 0, opened.err
    listener = opened.json["listeners"][0]
    some_certificate = f"--peer-certificate={gateways.certificate}"
    as_opened = ["--num-conn=1", "--rate=0"]
    failing: dict[str, tuple[list[str], int]] = {
        "another target": (["request", "aps", "alcf", "--uid=A", "--target=127.0.0.1:9"], 7),
        "more channels": ([*same, "--num-conn=2"], 7),
        "no time": ([*same, "--timeout-s=0.0001"], 7),
        "nobody at the consumer's": (
            ["request", "aps", "127.0.0.1:1", "--uid=A", f"--target={app.address}"],
            4,
        ),
        "inbound": (["inbound-request", "--uid=A", "--s2cs=aps"], 7),
        "inbound, no time": (["inbound-request", "--uid=A", "--s2cs=aps", "--timeout-s=0.0001"], 7),
        "inbound, same, other target": (
            ["inbound-request", "--uid=A", "--s2cs=aps", *as_opened, "--target=127.0.0.1:9"],
            7,
        ),
        "inbound, same, no file": (
            [
                *("inbound-request", "--uid=A", "--s2cs=aps", *as_opened, f"--target={app.address}"),
                "--certificate-out=/nowhere/at/all",
            ],
            3,
        ),
        "prod-req": (["prod-req", "--uid=A", "--s2cs=aps", "--num-conn=3"], 7),
        "prod-req, same, no file": (
            ["prod-req", "--uid=A", "--s2cs=aps", *as_opened, "--certificate-out=/nowhere/at/all"],
            3,
        ),
        "outbound": (["outbound-request", "A", listener, "--s2cs=alcf", some_certificate], 7),
        "outbound at the producer's": (
            ["outbound-request", "A", listener, "--s2cs=aps", some_certificate],
            7,
        ),
        "cons-req": (
            ["cons-req", "A", listener, "--s2cs=alcf", some_certificate, "--timeout-s=2"],
            7,
        ),
    }
    endpoint = Endpoint.parse(listener)
    with socket.create_connection((endpoint.host, endpoint.port), TIMEOUT_S) as stream:
        for number, (what, (arguments, code)) in enumerate(failing.items()):
            stream.sendall(bytes([number]))
            failed = s2uc(*arguments, **env)
            assert failed.code == code, (what, failed)
            sides = s2uc("status", "A", "--json", **env).json["sessions"]
            assert [side["state"] for side in sides] == ["connected", "connected"], what
        stream.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: stream.recv(65536), b"")) == b"detector:" + bytes(range(len(failing)))

    again = s2uc(*same, "--json", **env)
    assert (again.code, again.json["listeners"]) == (0, opened.json["listeners"])
    assert ask(listener, b"hi") == b"detector:hi"


def test_a_session_is_led_elsewhere_by_its_name_alone(
    gateways: Gateways, application: Applications, profiles: Profiles
) -> None:
    aps, alcf = gateways.start(), gateways.start()
    first, second, third = (application(name) for name in ("first", "second", "third"))
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request", "aps", "alcf", "--uid=A", f"--target={first.address}", "--json", **env)
    listener = opened.json["listeners"][0]
    updated = s2uc("update", "A", "--s2cs=aps", f"--target={second.address}", "--json", **env)
    assert (updated.code, updated.err) == (0, "")
    assert updated.json["encrypted"] is True
    assert ask(listener, b"hi") == b"second:hi"
    updated = s2uc("update", "A", "--role=prod", f"--target={third.address}", "--json", *aps.options())
    assert (updated.code, updated.json["encrypted"]) == (0, True)
    assert ask(listener, b"hi") == b"third:hi"
    assert s2uc("update", "nobody", "--s2cs=aps", f"--target={third.address}", **env).code == 7


def test_a_side_that_was_never_connected_is_not_until_it_is_said_with_whom(gateways: Gateways) -> None:
    # a gateway that would serve it in the clear
    aps = gateways.start("--encryption=optional")
    assert s2uc("inbound-request", "--uid=A", *aps.options()).code == 0
    refused = s2uc("update", "A", *aps.options())
    assert refused.code == 2
    assert "--peer-certificate" in refused.err
    (side,) = s2uc("status", "A", "--json", *aps.options()).json["sessions"]
    assert side["state"] == "announced"


# --- what is said of one side ----------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "side"), [("PROD", ["prod-req", "--num-conn=1"]), ("CONS", ["cons-req"])])
def test_what_a_waiting_command_says_is_to_be_typed_works_when_it_is_typed(
    gateways: Gateways, application: Applications, role: str, side: list[str]
) -> None:
    aps, app = gateways.start("--encryption=optional"), application("detector")
    name = ["--uid=A"] if role == "PROD" else ["A", "127.0.0.1:9", "--plain"]
    waiting = start_program("s2uc", *side, *name, "--json", *aps.options())
    assert waiting.stderr is not None
    hint = waiting.stderr.readline()
    program, *arguments = shlex.split(hint.partition(" for: ")[2].replace("HOST:PORT", app.address))
    said = run_program(program, *arguments)
    assert said.code == 0, (hint, said.err)
    finished = finish(waiting)
    assert (finished.code, finished.err) == (0, "")
    assert finished.json["listeners"]


def test_whether_a_side_is_encrypted_is_not_said_before_it_is_known(gateways: Gateways) -> None:
    aps, clear = gateways.start("--encryption=optional"), gateways.start("--encryption=none")
    in_json = s2uc("inbound-request", "--uid=A", "--json", *aps.options()).json
    assert (in_json["connected"], in_json["encrypted"]) == (False, None)
    assert "encrypted    not yet" in s2uc("inbound-request", "--uid=B", *aps.options()).out
    plain = s2uc("inbound-request", "--uid=C", "--plain", "--json", *aps.options()).json
    assert (plain["connected"], plain["encrypted"], "certificate" in plain) == (True, False, False)
    assert s2uc("inbound-request", "--uid=A", "--json", *clear.options()).json["encrypted"] is False


@pytest.mark.parametrize("command", [prod_req, cons_req])
def test_the_gateway_is_the_first_to_say_that_no_application_came(command: object) -> None:
    (default,) = [one.default for one in command.params if one.name == "timeout_s"]  # type: ignore[attr-defined]
    assert default > Limits().hello_timeout_s


def test_that_no_application_came_is_said_in_the_gateways_words(gateways: Gateways) -> None:
    aps = gateways.start("--hello-timeout-s=1")
    late = s2uc("prod-req", "--uid=A", *aps.options())
    assert late.code == 7
    assert "hello" in late.err.splitlines()[-1]
    assert "did not answer" not in late.err


# --- values that cannot be meant -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["request", "gw:1", "GW:1", "--target=a:1"], 3, "same control server"),
        (["request", "localhost:1", "[::1]:1", "--target=a:1"], 3, "same control server"),
        (["request", "a:1", "b:1", "--target=a:1", "--uid="], 2, "--uid"),
        (["inbound-request", "--uid="], 2, "--uid"),
        (["prod-req", "--uid="], 2, "--uid"),
        (["inbound-request", "--target=a:1", "--remote_ip=b"], 2, "--remote-ip"),
        (["inbound-request", "--target=a:1", "--receiver-ports=7"], 2, "--receiver-ports"),
        (["request", "a:1", "b:1", "--target=a:1", "--timeout-s=nan"], 2, "--timeout-s"),
        (["request", "a:1", "b:1", "--target=a:1", "--timeout-s=inf"], 2, "--timeout-s"),
        (["inbound-request", "--timeout-s=-1"], 2, "--timeout-s"),
        (["prod-req", "--timeout-s=0"], 2, "--timeout-s"),
        (["list", "--timeout-s=0"], 2, "--timeout-s"),
        (["update", "A", "--role=producer"], 2, "--role"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_called(
    arguments: list[str], code: int, said: str
) -> None:
    refused = s2uc(*arguments)
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err


def test_targets_beyond_the_channels_are_said_not_to_be_used(
    gateways: Gateways, application: Applications, profiles: Profiles
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    targets = [f"--target={app.address}", "--target=127.0.0.1:77", "--num-conn=1"]
    for command in (["request", "aps", "alcf"], ["inbound-request", "--s2cs=aps"]):
        opened = s2uc(*command, *targets, **env)
        assert opened.code == 0
        assert "127.0.0.1:77" in opened.err
