"""Reverse channels between real gateways: negotiated, carried, retargeted, outliving, released."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream import client
from scistream.auth.certificates import write_certificate
from scistream.client import aio
from scistream.core.endpoint import Endpoint
from support.gateways import (
    Application,
    ControlServerProcess,
    Finished,
    Gateways,
    ask,
    can_be_bound,
    finish,
    run_program,
    start_program,
    until,
)
from support.module_gateways import free_range

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from wan_line import Line, inside, new_namespace
from wan_network import CONSUMER_GATEWAY_WAN, PRODUCER_GATEWAY_WAN, network

Applications = Callable[[str], Application]
Profiles = Callable[..., dict[str, str]]
PRODUCER, CONSUMER = "10.9.0.2", "10.9.0.1"
IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "ip"


def s2uc(*arguments: str | Path, **environment: str) -> Finished:
    return run_program("s2uc", *arguments, **environment)


def connections_to(addresses: list[str]) -> int:
    """How many TCP connections some process has to listeners at `addresses`."""
    ports = {Endpoint.parse(address).port for address in addresses}
    found = (one for one in psutil.net_connections("tcp") if one.status != psutil.CONN_TIME_WAIT)
    return sum(bool(one.raddr) and one.raddr.port in ports for one in found)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("plain", [False, True], ids=["tls", "plain"])
def test_a_reverse_session_from_request_to_release(
    gateways: Gateways, application: Applications, profiles: Profiles, plain: bool, channels: int
) -> None:
    first, last = free_range(2 * channels)
    encryption = f"--encryption={'none' if plain else 'required'}"
    aps = gateways.start(encryption)
    alcf = gateways.start(encryption, f"--port-range={first}-{last}")
    app, other = application("detector"), application("other")
    env = profiles(aps=aps, alcf=alcf)
    before = [descriptors(server) for server in (aps, alcf)]
    opened = s2uc(
        "request", "aps", "alcf", "--reverse", f"--target={app.address}", f"--num-conn={channels}",
        "--json", *(["--plain"] if plain else []), **env,
    )  # fmt: skip
    assert opened.code == 0, opened.err
    uid, listeners = opened.json["uid"], opened.json["listeners"]
    assert (len(listeners), opened.json["encrypted"]) == (channels, not plain)
    message = os.urandom(1_000_000)
    for listener in listeners:
        assert ask(listener, message) == b"detector:" + message

    # all ports are the consumer's: another session finds none there, and the producer's side needs none
    full = s2uc("request", "aps", "alcf", "--reverse", f"--target={app.address}", **env)
    assert (full.code, f"0 of {2 * channels} free" in full.err) == (5, True), full
    carried = channels * (2 * len(message) + len(b"detector:"))
    producer, consumer = until(lambda: sides(uid, env, carried))
    for side in (producer, consumer):
        assert side["reverse"]
        assert side["state"] == "connected"
        assert all(one["connections_total"] == 1 for one in side["channels"])
        assert not any(one["connections_open"] for one in side["channels"])
    assert producer["listeners"] == []
    shown = s2uc("status", uid, "--s2cs=aps", **env).out
    assert f"(the other gateway is dialled) → {app.address}" in shown
    assert "reverse: the producer's gateway dials the consumer's" in shown
    assert producer["targets"] == [app.address]
    meeting = consumer["targets"]
    assert {Endpoint.parse(one).port for one in (*listeners, *meeting)} == set(range(first, last + 1))
    assert connections_to(meeting) >= 4 * channels

    assert s2uc("update", uid, "--s2cs=aps", f"--target={other.address}", **env).code == 0
    assert ask(listeners[0], b"hi") == b"other:hi"
    assert s2uc("release", uid, **env).code == 0
    assert all(map(can_be_bound, (*listeners, *meeting)))
    assert connections_to(meeting) == 0
    assert [descriptors(server) for server in (aps, alcf)] == pytest.approx(before, abs=4)


def sides(uid: str, env: dict[str, str], carried: int) -> list[dict[str, Any]] | None:
    """Both sides of the session, the producer's first, once they have counted so many bytes."""
    found = s2uc("status", uid, "--s2cs=aps", "--s2cs=alcf", "--json", **env).json["sessions"]
    counted = all(
        sum(channel["bytes_to_target"] + channel["bytes_from_target"] for channel in side["channels"])
        == carried
        for side in found
    )
    return found if counted and not any(c["connections_open"] for s in found for c in s["channels"]) else None


def descriptors(server: ControlServerProcess) -> int:
    family = psutil.Process(server.process.pid).children(recursive=True)
    return sum(process.num_fds() for process in family)


@pytest.mark.peer("haproxy")
@pytest.mark.parametrize("kinds", [("haproxy", "native"), ("native", "haproxy")], ids="-".join)
def test_a_data_server_that_cannot_is_refused_and_nothing_is_left(
    gateways: Gateways, application: Applications, profiles: Profiles, kinds: tuple[str, str]
) -> None:
    aps, alcf = (gateways.start(f"--type={kind}") for kind in kinds)
    env = profiles(aps=aps, alcf=alcf)
    refused = s2uc("request", "aps", "alcf", "--reverse", f"--target={application('a').address}", **env)
    assert refused.code == 7
    assert "cannot have reverse channels" in refused.err
    assert "--type native" in refused.err
    assert s2uc("list", **env).out == "no sessions\n"


def test_one_person_for_each_side(
    gateways: Gateways, application: Applications, tmp_path: Path, profiles: Profiles
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    opened = s2uc(
        "inbound-request", "--reverse", "--s2cs=aps", f"--target={app.address}", "--rate=0",
        f"--certificate-out={ours}", **env,
    )  # fmt: skip
    assert opened.code == 0, opened.err
    uid = opened.out.split()[1]
    assert "--reverse --num-conn 1" in opened.out
    assert "--reverse-listener HOST:PORT" in opened.out
    theirs_with = ["outbound-request", uid, "--reverse", "--s2cs=alcf", f"--peer-certificate={ours}"]
    wrong = s2uc(*theirs_with, "127.0.0.1:5", **env)
    assert (wrong.code, "leave PRODUCER_LISTENERS out" in wrong.err) == (2, True)
    there = s2uc(*theirs_with, "--rate=0", f"--certificate-out={theirs}", "--json", **env)
    assert there.code == 0, there.err
    assert there.json["connected"]
    update = ["update", uid, "--s2cs=aps", "--role=PROD", f"--peer-certificate={theirs}"]
    nowhere = s2uc(*update, **env)
    assert nowhere.code == 3
    assert "update names 0 reverse listeners" in nowhere.err
    meeting = [f"--reverse-listener={one}" for one in there.json["reverse_listeners"]]
    assert s2uc(*update, *meeting, **env).code == 0
    assert ask(there.json["listeners"][0], b"hi") == b"detector:hi"


def test_the_client_library_opens_reverse_sessions(gateways: Gateways, application: Applications) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    target = Endpoint.parse(app.address)
    with client.open_session(synchronous(aps), synchronous(alcf), targets=[target], reverse=True) as session:
        assert ask(str(session.listeners[0]), b"hi") == b"detector:hi"
        both = session.status()
        assert both.producer.reverse
        assert both.consumer.reverse


def synchronous(server: ControlServerProcess) -> client.Facility:
    one = server.facility()
    return client.Facility(
        endpoint=one.endpoint, server_certificate_pem=one.server_certificate_pem, token=one.token
    )


async def test_the_asynchronous_client_library_too(gateways: Gateways, application: Applications) -> None:
    aps, alcf, other = gateways.start(), gateways.start(), application("other")
    targets = [Endpoint.parse(application("detector").address)]
    async with aio.open_session(aps.facility(), alcf.facility(), targets=targets, reverse=True) as session:
        assert ask(str(session.listeners[0]), b"hi") == b"detector:hi"
        await session.retarget([Endpoint.parse(other.address)])
        assert ask(str(session.listeners[0]), b"hi") == b"other:hi"


def test_connections_that_are_ready_keep_no_session_alive(
    gateways: Gateways, application: Applications, profiles: Profiles
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    wishes = ["--reverse", "--idle-timeout-s=1", f"--target={app.address}"]
    opened = s2uc("request", "aps", "alcf", *wishes, "--json", **env)
    uid = opened.json["uid"]
    ended = until(
        lambda: [
            side
            for side in s2uc("status", uid, "--s2cs=aps", "--s2cs=alcf", "--json", **env).json["sessions"]
            if side["state"] == "expired"
        ]
    )
    assert "no byte moved for 1 s" in ended[0]["reason"]


def test_ipv6_on_all_legs(gateways: Gateways, application: Applications, profiles: Profiles) -> None:
    app = application("detector")
    gateways.certificate, gateways.private_key = write_certificate(gateways.directory / "six", ["::1"])
    six = ["--listen=[::1]:0", "--bind=::1", "--advertise=::1", "--bind-lan=::1"]
    aps, alcf = gateways.start(*six), gateways.start(*six)
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request", "aps", "alcf", "--reverse", f"--target={app.address}", "--json", **env)
    assert opened.code == 0, opened.err
    assert opened.json["listeners"][0].startswith("[::1]:")
    assert ask(opened.json["listeners"][0], b"hi") == b"detector:hi"


# --- what outlives what ------------------------------------------------------------------------------------


class Stream:
    """A connection that sends random bytes until it is told to end, and gets all of them back."""

    def __init__(self, address: str) -> None:
        at = Endpoint.parse(address)
        self.socket = socket.create_connection((at.host, at.port), 30)
        self.sent = bytearray()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    def _send(self) -> None:
        while not self.ending.wait(0.001):
            chunk = os.urandom(20_000)
            self.socket.sendall(chunk)
            self.sent += chunk
        self.socket.shutdown(socket.SHUT_WR)

    def finish(self) -> bool:
        """End it; return whether all has come back."""
        self.ending.set()
        with self.socket:
            back = b"".join(iter(lambda: self.socket.recv(1 << 20), b""))
        self.thread.join(30)
        return back == b"detector:" + self.sent


def test_a_stream_spans_the_kill_of_both_control_servers(
    gateways: Gateways, application: Applications, profiles: Profiles, tmp_path: Path
) -> None:
    app = application("detector")
    folders = [f"--state-dir={tmp_path / name}" for name in ("producer", "consumer")]
    both = [gateways.start(folder) for folder in folders]
    env = profiles(aps=both[0], alcf=both[1])
    opened = s2uc("request", "aps", "alcf", "--reverse", f"--target={app.address}", "--json", **env).json
    uid, listener = opened["uid"], opened["listeners"][0]
    with contextlib.ExitStack() as stack:
        stream = Stream(listener)
        stack.callback(stream.ending.set)
        until(lambda: len(stream.sent) > 1_000_000)
        for server in both:
            server.process.kill()
            server.process.wait(30)
            assert server.process.stdout is not None
            server.process.stdout.close()
        assert ask(listener, b"alone") == b"detector:alone"
        both = [gateways.start(folder) for folder in folders]
        assert [one.ready["recovered"] for one in both] == [1, 1]
        env = profiles(aps=both[0], alcf=both[1])
        so_far = len(stream.sent)
        until(lambda: len(stream.sent) > so_far + 1_000_000)
        assert ask(listener, b"again") == b"detector:again"
        assert stream.finish()
    meeting = s2uc("status", uid, "--s2cs=alcf", "--json", **env).json["sessions"][0]["targets"]
    # led elsewhere by those that have adopted it
    other = application("other")
    assert s2uc("update", uid, "--s2cs=aps", f"--target={other.address}", **env).code == 0
    assert ask(listener, b"hi") == b"other:hi"
    assert s2uc("release", uid, **env).code == 0
    assert connections_to(meeting) == 0
    assert all(map(can_be_bound, (listener, *meeting)))
    for server in both:
        server.stop(signal.SIGINT)
    gateways.running.clear()


def test_a_reservation_outlives_the_control_server_with_all_its_ports(
    gateways: Gateways, tmp_path: Path
) -> None:
    folder = f"--state-dir={tmp_path / 'consumer'}"
    first, last = free_range(4)
    server = gateways.start(folder, f"--port-range={first}-{last}")
    ports = [f"127.0.0.1:{port}" for port in range(first, last + 1)]
    waiting = start_program(
        "s2uc", "cons-req", "one", "--reverse", "--num-conn=2", "--rate=0", "--plain", *server.options()
    )
    until(lambda: s2uc("status", "one", *server.options()).code == 0)
    assert not any(map(can_be_bound, ports))
    server.process.kill()
    server.process.wait(30)
    assert server.process.stdout is not None
    server.process.stdout.close()
    assert finish(waiting).code == 4
    assert all(map(can_be_bound, ports))
    server = gateways.start(folder, f"--port-range={first}-{last}")
    assert not any(map(can_be_bound, ports))
    (side,) = s2uc("status", "one", "--json", *server.options()).json["sessions"]
    assert (side["state"], side["reverse"], len(side["listeners"])) == ("reserved", True, 2)
    assert s2uc("release", "one", *server.options()).code == 0
    assert all(map(can_be_bound, ports))
    del gateways.running[0]


# --- a gateway that nobody reaches -------------------------------------------------------------------------


@pytest.fixture
def far() -> Iterator[tuple[int, int]]:
    """(the producer's, the consumer's) namespace. From the consumer's none reaches the producer's gateway."""
    if os.geteuid() != 0 or not shutil.which(IP):
        pytest.skip("needs root and the program ip (package iproute2)")
    producer, consumer = new_namespace(), new_namespace()

    def run(namespace: int, *commands: str) -> None:
        with inside(namespace):
            for command in commands:
                subprocess.run([IP, *command.split()], check=True)

    try:
        run(
            producer,
            "link set lo up",
            f"link add wan type veth peer name wan netns /proc/{os.getpid()}/fd/{consumer}",
            "addr add 10.9.0.9/24 dev wan",  # what it dials from
            f"addr add {PRODUCER}/32 dev lo",
            "link set wan up",
        )
        run(
            consumer,
            "link set lo up",
            f"addr add {CONSUMER}/24 dev wan",
            "link set wan up",
            f"route add blackhole {PRODUCER}/32",
        )
        yield producer, consumer
    finally:
        os.close(producer)
        os.close(consumer)


def serve_in(namespace: int, stack: contextlib.ExitStack, host: str = "127.0.0.1") -> Application:
    """An application in `namespace`, which is stopped with `stack`."""
    with inside(namespace):
        listener = stack.enter_context(socket.create_server((host, 0)))
    app = Application("detector", listener)
    serving = threading.Thread(target=app.serve, daemon=True)
    serving.start()

    def stop() -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for one in (serving, *app.threads):
            one.join(30)

    stack.callback(stop)
    return app


@pytest.fixture
def apart(gateways: Gateways, far: tuple[int, int]) -> tuple[ControlServerProcess, ControlServerProcess]:
    """A gateway in each namespace."""
    gateways.certificate, gateways.private_key = write_certificate(
        gateways.directory / "net", [PRODUCER, CONSUMER]
    )
    servers = []
    for namespace, host in zip(far, (PRODUCER, CONSUMER), strict=True):
        with inside(namespace):
            wan = [f"--listen={host}:0", f"--bind={host}", f"--advertise={host}"]
            servers.append(gateways.start(*wan, "--bind-lan=127.0.0.1", "--peer-timeout=3"))
    return servers[0], servers[1]


def test_a_gateway_that_cannot_be_reached_streams_in_reverse_and_not_otherwise(
    apart: tuple[ControlServerProcess, ControlServerProcess], far: tuple[int, int], profiles: Profiles
) -> None:
    producer, consumer = far
    env = profiles(aps=apart[0], alcf=apart[1])
    with inside(consumer), pytest.raises(OSError, match=r"route|argument|unreach"):
        socket.create_connection((PRODUCER, Endpoint.parse(apart[0].address).port), 3)
    message = os.urandom(3_000_000)
    with contextlib.ExitStack() as stack:
        app = serve_in(producer, stack)
        # the user is at the producer's facility, from which both control servers are reached
        with inside(producer):
            forward = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env)
            reverse = s2uc("request", "aps", "alcf", "--reverse", f"--target={app.address}", "--json", **env)
        assert (forward.code, reverse.code) == (0, 0), (forward.err, reverse.err)
        with inside(consumer):
            assert ask(reverse.json["listeners"][0], message) == b"detector:" + message
            with pytest.raises(ConnectionError):
                ask(forward.json["listeners"][0], message)
        with inside(producer):
            for opened in (forward, reverse):
                assert s2uc("release", opened.json["uid"], **env).code == 0


def test_a_path_that_was_gone_without_a_word_is_found_again(
    apart: tuple[ControlServerProcess, ControlServerProcess], far: tuple[int, int], profiles: Profiles
) -> None:
    producer, consumer = far
    env = profiles(aps=apart[0], alcf=apart[1])
    with contextlib.ExitStack() as stack:
        app = serve_in(producer, stack)
        with inside(producer):
            opened = s2uc("request", "aps", "alcf", "--reverse", f"--target={app.address}", "--json", **env)
            uid, listener = opened.json["uid"], opened.json["listeners"][0]
            (side,) = s2uc("status", uid, "--s2cs=alcf", "--json", **env).json["sessions"]
            meeting = side["targets"]
            until(lambda: established_to(meeting) >= 4)
        with inside(consumer):
            subprocess.run([IP, "link", "set", "wan", "down"], check=True)
        # both sides notice that what was ready is dead
        for namespace in far:
            with inside(namespace):
                until(lambda: established_to(meeting) == 0)
        with inside(consumer):
            subprocess.run([IP, "link", "set", "wan", "up"], check=True)
            assert ask(listener, b"hi") == b"detector:hi"
        with inside(producer):
            assert s2uc("release", uid, **env).code == 0


def established_to(addresses: list[str]) -> int:
    """How many established connections this namespace has with a port of `addresses`, at either end."""
    ports = {Endpoint.parse(address).port for address in addresses}
    return sum(
        one.status == psutil.CONN_ESTABLISHED and (one.raddr.port in ports or one.laddr.port in ports)
        for one in psutil.net_connections("tcp")
        if one.raddr
    )


@pytest.mark.skipif(not Path("/dev/net/tun").exists() or not shutil.which("ss"), reason="needs tun and ss")
@pytest.mark.parametrize("plain", [False, True], ids=["tls", "plain"])
def test_the_wide_area_leg_is_fitted_to_a_long_path_at_both_sides(
    gateways: Gateways, profiles: Profiles, plain: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    hosts = PRODUCER_GATEWAY_WAN, CONSUMER_GATEWAY_WAN
    gateways.certificate, gateways.private_key = write_certificate(gateways.directory / "net", hosts)
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(Line(round_trip_ms=40, rate_gbps=1, queue_mb=5)))
        both = net.producer_gateway, net.consumer_gateway
        servers = []
        for namespace, host in zip(both, hosts, strict=True):
            options = [f"--listen={host}:0", f"--bind={host}", f"--advertise={host}", "--dscp=46"]
            with inside(namespace):
                subprocess.run([IP, "link", "set", "lo", "up"], check=True)
                servers.append(gateways.start(*options, f"--encryption={'none' if plain else 'required'}"))
        env = profiles(aps=servers[0], alcf=servers[1])
        app = serve_in(net.producer_gateway, stack)
        with inside(net.producer_gateway):
            wishes = ["--reverse", f"--target={app.address}", *(["--plain"] if plain else [])]
            opened = s2uc("request", "aps", "alcf", *wishes, "--json", **env)
            assert opened.code == 0, opened.err
            uid = opened.json["uid"]
            (side,) = s2uc("status", uid, "--s2cs=alcf", "--json", **env).json["sessions"]
        at = Endpoint.parse(opened.json["listeners"][0])
        meeting = Endpoint.parse(side["targets"][0]).port
        with inside(net.consumer_gateway):
            near = stack.enter_context(socket.create_connection((at.host, at.port), 30))
        near.sendall(bytes(1_000_000))
        for namespace in both:
            with inside(namespace):
                legs = until(lambda: wide_area_legs(meeting))
            assert all("tos:0xb8" in leg for leg in legs)
            # those that are ready have not been fitted yet
            (fitted,) = (leg for leg in legs if " bbr " in leg)
            sizes = re.search(r"skmem:\(r\d+,rb(\d+),t\d+,tb(\d+)", fitted)
            assert sizes
            assert min(map(int, sizes.groups())) > 8_000_000
        near.shutdown(socket.SHUT_WR)
        assert near.recv(9, socket.MSG_WAITALL) == b"detector:"
        with inside(net.producer_gateway):
            assert s2uc("release", uid, **env).code == 0


def wide_area_legs(meeting: int) -> list[str]:
    """What ss shows of each connection to the port `meeting`, once one of them has got BBR."""
    shown = subprocess.run(["ss", "-Htinm", "--tos"], capture_output=True, text=True, check=True).stdout
    blocks = re.split(r"\n(?=\S)", shown.strip())
    legs = [" ".join(block.split()) for block in blocks if f":{meeting} " in f"{block} "]
    return legs if any(" bbr " in leg for leg in legs) else []
