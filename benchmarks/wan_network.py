"""Four hosts in namespaces: application, gateway, delay line, gateway, application.

::

    consumer 10.9.1.2 --veth-- 10.9.1.1 gateway 10.9.0.1 ==line==
    10.9.0.2 gateway 10.9.2.1 --veth-- 10.9.2.2 producer

The gateways forward packets too, so that the same hosts have a direct path. Nothing is left behind: the
namespaces have no name and end with the processes in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wan_line import DelayLine, Line, inside, new_namespace

CONSUMER, CONSUMER_GATEWAY_LAN, CONSUMER_GATEWAY_WAN = "10.9.1.2", "10.9.1.1", "10.9.0.1"
PRODUCER, PRODUCER_GATEWAY_LAN, PRODUCER_GATEWAY_WAN = "10.9.2.2", "10.9.2.1", "10.9.0.2"


@dataclass(frozen=True)
class Network:
    """Descriptors of the four namespaces, and the line's processes."""

    consumer: int
    consumer_gateway: int
    producer_gateway: int
    producer: int
    line: DelayLine


@contextlib.contextmanager
def network(line: Line) -> Iterator[Network]:
    """Build it; take it down afterwards."""
    with contextlib.ExitStack() as stack:
        names = []
        for _ in range(4):
            names.append(new_namespace())
            stack.callback(os.close, names[-1])
        consumer, near, far, producer = names
        _veth(consumer, near, CONSUMER, CONSUMER_GATEWAY_LAN)
        _veth(producer, far, PRODUCER, PRODUCER_GATEWAY_LAN)
        delay_line = DelayLine(line, near, far, "wan")
        stack.callback(delay_line.close)
        for gateway, own, other, network_there in (
            (near, CONSUMER_GATEWAY_WAN, PRODUCER_GATEWAY_WAN, "10.9.2.0/24"),
            (far, PRODUCER_GATEWAY_WAN, CONSUMER_GATEWAY_WAN, "10.9.1.0/24"),
        ):
            _ip(gateway, f"addr add {own}/24 dev wan")
            _ip(gateway, "link set wan up txqueuelen 20000")
            _ip(gateway, f"route add {network_there} via {other}")
            with inside(gateway):
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield Network(consumer, near, far, producer, delay_line)


def _veth(host: int, gateway: int, host_address: str, gateway_address: str) -> None:
    _ip(host, f"link add lan type veth peer name lan netns /proc/{os.getpid()}/fd/{gateway}")
    for namespace, address in ((host, host_address), (gateway, gateway_address)):
        _ip(namespace, "link set lo up")
        _ip(namespace, f"addr add {address}/24 dev lan")
        _ip(namespace, "link set lan up")
    _ip(host, f"route add default via {gateway_address}")


def _ip(namespace: int, command: str) -> None:
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise FileNotFoundError("the program ip (package iproute2) is needed")
    with inside(namespace):
        subprocess.run([program, *command.split()], check=True)
