"""The machine that is measured on: its cores, its congestion control, what to say of it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from scistream.bench.peers import PROGRAMS, program, version
from scistream.errors import ConfigurationError

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LOOPBACK = "link set lo up"
_CUBIC = "route replace local 127.0.0.1 dev lo table local scope host src 127.0.0.1 congctl cubic"


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: the relays on one core, the load on another."""

    relay: int
    load: int

    @classmethod
    def choose(cls, wanted: Sequence[int] = ()) -> Cores:
        """Return `wanted` (relay, load), or by default the first and the last core that this process may use.

        Raises
        ------
        ConfigurationError
            There are not two, or these are not two of them.
        """
        there = sorted(os.sched_getaffinity(0))
        if len(there) < 2:
            raise ConfigurationError("two cores are needed, one for the relays, one for the load")
        if not wanted:
            return cls(there[0], there[-1])
        if len(wanted) != 2 or len(set(wanted)) != 2 or not set(wanted) <= set(there):
            cores = ", ".join(map(str, there))
            raise ConfigurationError(
                f"{','.join(map(str, wanted))} are not two different cores of this machine, for the relays "
                f"and for the load; it has {cores}"
            )
        return cls(*wanted)


def use_cubic() -> str | None:
    """Move this process to a network namespace of its own whose loopback says cubic, if that is possible.

    A namespace may not choose a default that the host restricts, and the host's is not ours to change. Call
    it before there is any socket or thread.

    Returns
    -------
    str or None
        What to know about the figures where it is not possible.

    Raises
    ------
    ConfigurationError
        The namespace has no loopback.
    """
    ip = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and ip and libc.unshare(_CLONE_NEWNET) == 0:
        up = subprocess.run([ip, *_LOOPBACK.split()], check=False, capture_output=True, text=True)
        if up.returncode != 0:
            raise ConfigurationError(f"'ip {_LOOPBACK}' in a network namespace fails: {up.stderr.strip()}")
        # whether it has had an effect is looked at below
        subprocess.run([ip, *_CUBIC.split()], check=False, stderr=subprocess.DEVNULL)
    there = congestion()
    if there == "cubic":
        return None
    return f"the peers use {there}, ours cubic; as root, with iproute2 and namespaces, all would use cubic"


def congestion() -> str:
    """Return what a connection gets that does not choose."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def describe_machine() -> dict[str, Any]:
    """Return what whoever reads figures wants to know of the machine."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "congestion": congestion(),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of ours, and of the peers that are installed."""
    return {
        "ministream": metadata.version("ministream"),
        **{name: version(name) for name in PROGRAMS if program(name)},
    }
