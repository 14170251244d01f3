"""``s2uc probe`` as its users type it: through two real gateways with TLS, and where something is wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.gateways import (
    TIMEOUT_S,
    Application,
    Finished,
    Gateways,
    finish,
    run_program,
    start_program,
    until,
)
from support.probes import application as application_that
from support.probes import read_to_end
from support.terminal import Terminal

GREETING = b"scistream-probe/1 hello\n"
WORK = ["--data-gb=100", "--flop-per-gb=1e13", "--local-flops=1e12", "--remote-flops=1e14"]

Profiles = Callable[..., dict[str, str]]


def s2uc(*arguments: str | Path, **environment: str) -> Finished:
    return run_program("s2uc", *arguments, **environment)


@contextmanager
def far_end(*more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A far end in a process of its own, and where it listens; the test ends it."""
    process = start_program("s2uc", "probe", "--serve=127.0.0.1:0", "--json", *more)
    try:
        assert process.stdout is not None
        (address,) = json.loads(process.stdout.readline())["listeners"]
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def events(finished: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in finished.out.splitlines()]


@pytest.fixture
def env(gateways: Gateways, profiles: Profiles) -> dict[str, str]:
    """The user's profiles of two gateways."""
    return profiles(aps=gateways.start(), alcf=gateways.start())


def open_session(target: str, env: dict[str, str], *more: str) -> dict[str, Any]:
    opened = s2uc("request", "aps", "alcf", f"--target={target}", "--json", *more, **env)
    assert opened.code == 0, opened.err
    assert opened.json["encrypted"]
    result: dict[str, Any] = opened.json
    return result


def test_a_session_through_two_gateways_is_measured_on_all_its_channels(env: dict[str, str]) -> None:
    with far_end("--once") as (far, target):
        session = open_session(target, env, "--num-conn=2")
        probed = s2uc(
            *("probe", session["uid"], "--seconds=1", "--connections=2", "--json", *WORK),
            *("--theta=3", "--bandwidth-gbps=10", "--data-rate-gbps=0.001"),
            **env,
        )
        assert probed.code == 0, probed.err
        far_end_said = finish(far)
    found = probed.json
    assert found["uid"] == session["uid"]
    assert found["listeners"] == session["listeners"]
    assert (found["encrypted"], found["connections"], found["seconds"]) == (True, 4, 1)
    rate_gbps = found["to_consumer_gbps"]
    assert rate_gbps > 0
    assert found["to_producer_gbps"] > 0
    trip = found["round_trip"]
    assert 0 < trip["min_ms"] <= trip["p50_ms"] <= trip["p90_ms"] <= trip["p99_ms"] <= trip["max_ms"]
    assert found["alpha"] == pytest.approx(rate_gbps / 10)
    assert found["keep_up_factor"] == pytest.approx(rate_gbps / 0.001)
    assert found["local_s"] == pytest.approx(1000)
    assert found["streaming_s"] == pytest.approx(800 / rate_gbps + 10)
    assert found["files_s"] == pytest.approx(2400 / rate_gbps + 10)
    assert found["break_even_alpha"] == pytest.approx(80 / 990)
    assert far_end_said.code == 0, far_end_said.err
    (event,) = events(far_end_said)
    assert event["event"] == "probed"
    assert event["to_peer_gbps"] == pytest.approx(rate_gbps, abs=1e-8)
    # what was carried is what the gateways have counted, at least
    sides = s2uc("status", session["uid"], "--json", **env).json["sessions"]
    for side in sides:
        assert [channel["connections_failed"] for channel in side["channels"]] == [0, 0]
        assert all(channel["bytes_from_target"] > 0 for channel in side["channels"])


def test_the_rate_that_paced_gateways_keep_a_session_to_is_what_is_measured(
    gateways: Gateways, profiles: Profiles
) -> None:
    env = profiles(aps=gateways.start("--pace"), alcf=gateways.start("--pace"))
    with far_end() as (_, target):
        session = open_session(target, env, "--rate=20")
        probed = s2uc("probe", session["uid"], "--seconds=3", "--json", **env)
    assert probed.code == 0, probed.err
    # gateways share it among open connections: an idle one of the probe's own would halve it
    for direction in ("to_consumer_gbps", "to_producer_gbps"):
        assert 0.013 < probed.json[direction] < 0.022


def test_the_report_says_when_the_result_is_there_and_whether_the_detector_is_followed(
    env: dict[str, str],
) -> None:
    with far_end() as (_, target):
        session = open_session(target, env)
        probed = s2uc(
            *("probe", session["uid"], "--seconds=0.5", *WORK, "--theta=3", "--bandwidth-gbps=0.5"),
            "--data-rate-gbps=100000",
            **env,
        )
    assert (probed.code, probed.err) == (0, "")
    for text in (
        "1 channel, 1 connection, TLS between the gateways",
        "producer → consumer",
        "consumer → producer",
        "round trip           median",
        "of 0.5 Gb/s",
        "100000 Gb/s: the session is TOO SLOW",
        "local              1000 s",
        "streaming is done before local above 0.808 Gb/s (alpha = 1.62), more than the line carries",
        "files is done before local above 2.42 Gb/s",
    ):
        assert text in probed.out


def test_listeners_are_probed_by_hand_without_a_control_server() -> None:
    with far_end("--once") as (far, target):
        probed = s2uc("probe", f"--listener={target}", "--seconds=0.5", "--json")
        assert probed.code == 0, probed.err
        assert finish(far).code == 0
    assert (probed.json["uid"], probed.json["encrypted"], probed.json["local_s"]) == (None, None, None)


def test_an_application_in_place_of_the_far_end_has_got_a_greeting_and_nothing_more(
    env: dict[str, str], application: Callable[[str], Application]
) -> None:
    silent = application("detector")  # which reads until the end and answers then
    session = open_session(silent.address, env)
    probed = s2uc("probe", session["uid"], **env)
    assert (probed.code, probed.out) == (4, "")
    assert "it is an application, or nothing is there" in probed.err
    assert "s2uc probe --serve" in probed.err
    assert until(lambda: silent.received) == [GREETING]


def test_an_application_that_answers_is_recognized_by_its_first_byte(env: dict[str, str]) -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"220 detector ready\r\n")
        received.append(read_to_end(connection))

    with application_that(answer) as target:
        session = open_session(str(target), env)
        probed = s2uc("probe", session["uid"], "--json", **env)
    assert (probed.code, probed.out) == (4, "")
    assert "220 detector ready" in probed.err
    assert "probably your application" in probed.err
    assert received == [GREETING]


def test_a_far_end_that_is_killed_is_said_by_the_near_end(env: dict[str, str]) -> None:
    with far_end() as (far, target):
        session = open_session(target, env)
        with Terminal("probe", session["uid"], "--seconds=60", "--connections=2", **env) as terminal:
            terminal.expect("round trip  0.")
            far.kill()
            far.communicate()
            terminal.expect("s2uc: error: the far end of the probe stopped answering")
            assert terminal.process.wait(TIMEOUT_S) == 4
    without = s2uc("probe", session["uid"], **env)
    assert without.code == 4
    assert "start 's2uc probe --serve HOST:PORT' at the session's target" in without.err


def test_a_far_end_that_is_killed_while_bytes_flow_is_said_by_the_near_end(env: dict[str, str]) -> None:
    with far_end() as (far, target):
        session = open_session(target, env)
        with Terminal("probe", session["uid"], "--seconds=10", **env) as terminal:
            terminal.expect("producer → consumer  1.")
            far.kill()
            far.communicate()
            terminal.expect("to consumer: the connection broke")
            assert terminal.process.wait(TIMEOUT_S) == 4


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_probe_that_is_interrupted_ends_clean_and_so_does_its_far_end(
    env: dict[str, str], signum: signal.Signals, code: int
) -> None:
    with far_end() as (far, target):
        session = open_session(target, env)
        with Terminal("probe", session["uid"], "--seconds=3", **env) as terminal:
            terminal.expect("producer → consumer  1.")
            terminal.process.send_signal(signum)
            assert terminal.process.wait(TIMEOUT_S) == code
            assert "Traceback" not in terminal.seen
        assert far.stdout is not None
        assert json.loads(far.stdout.readline())["event"] == "broken_off"
        again = s2uc("probe", session["uid"], "--seconds=0.5", "--json", **env)
        assert again.code == 0, again.err
        assert json.loads(far.stdout.readline())["event"] == "probed"
        far.send_signal(signum)
        ended = finish(far)
    assert (ended.code, ended.out, ended.err) == (code, "", "")


def test_a_far_end_once_whose_near_end_dies_ends_with_an_error(env: dict[str, str]) -> None:
    with far_end("--once") as (far, target):
        session = open_session(target, env)
        with Terminal("probe", session["uid"], "--seconds=10", **env) as terminal:
            terminal.expect("round trip  0.")
            terminal.process.kill()
            terminal.process.wait(TIMEOUT_S)
        ended = finish(far)
    assert ended.code == 4
    assert [one["event"] for one in events(ended)] == ["broken_off", "error"]


def test_a_session_that_is_not_there_or_has_ended_is_not_probed(env: dict[str, str]) -> None:
    missing = s2uc("probe", "never-seen", **env)
    assert missing.code == 7
    assert "never-seen" in missing.err
    with far_end() as (_, target):
        session = open_session(target, env)
        elsewhere = s2uc("probe", session["uid"], "--s2cs=aps", **env)
        assert elsewhere.code == 7
        assert "name the consumer's one with --s2cs" in elsewhere.err
        assert s2uc("release", session["uid"], **env).code == 0
        ended = s2uc("probe", session["uid"], **env)
    assert ended.code == 7
    assert "is released" in ended.err


def test_another_control_server_that_is_away_does_not_keep_from_probing(env: dict[str, str]) -> None:
    with far_end() as (_, target):
        session = open_session(target, env)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        probed = s2uc(
            *("probe", session["uid"], "--seconds=0.5", "--s2cs=alcf", f"--s2cs={nobody}", "--json"), **env
        )
        assert probed.code == 0, probed.err
        alone = s2uc("probe", session["uid"], f"--s2cs={nobody}", **env)
    assert alone.code == 4
    assert nobody in alone.err


def test_a_port_that_the_application_holds_cannot_be_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = s2uc("probe", f"--serve={address}")
    assert (refused.code, refused.out) == (5, "")
    assert address in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "give either SESSION"),
        (["uid", "--listener=127.0.0.1:1"], 2, "give either SESSION"),
        (["uid", "--once"], 2, "--once goes with --serve"),
        (["uid", "--serve=127.0.0.1:0"], 2, "'SESSION' is for the near end"),
        (["--serve=127.0.0.1:0", "--theta=2"], 2, "'--theta' is for the near end"),
        (["uid", "--theta=2"], 2, "needs --data-gb, --flop-per-gb, --local-flops, --remote-flops"),
        (["uid", "--data-gb=2", "--local-flops=1"], 2, "needs --flop-per-gb, --remote-flops"),
        (["uid", *WORK, "--theta=0.5"], 3, "theta is 0.5"),
        (["uid", "--data-rate-gbps=-1"], 3, "data_rate_gbps is -1"),
        (["uid", "--seconds=0"], 2, "--seconds"),
        (["uid", "--connections=0"], 2, "--connections"),
        (["--listener=nowhere"], 3, "'nowhere' names no port"),
        (["--serve=nowhere"], 3, "'nowhere' names no port"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_is_done(
    arguments: list[str], code: int, complaint: str
) -> None:
    refused = s2uc("probe", *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert complaint in refused.err
