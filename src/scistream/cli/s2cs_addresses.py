"""Where a control server and its data listeners are, and by which addresses others reach them."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from scistream.core.endpoint import Endpoint

LOOPBACK = "127.0.0.1"
DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - a gateway serves others
DEFAULT_PORT = 5000

_IPV4_ROUTES = Path("/proc/net/fib_trie")
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_GLOBAL_SCOPE = "00"  # IPV6_ADDR_SCOPE_GLOBAL, as the kernel prints it


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """What comes of the options.

    Parameters
    ----------
    problems : sequence of str
        Why they cannot be used; empty if they can.
    """

    listen: Endpoint
    bind: str
    advertise: str
    bind_lan: str
    advertise_lan: str
    problems: Sequence[str]


def find_addresses(
    *,
    listen: str | None = None,
    port: int | None = None,
    listener_ip: str | None = None,
    bind: str | None = None,
    advertise: str | None = None,
    bind_lan: str | None = None,
    advertise_lan: str | None = None,
    own: Sequence[str] | None = None,
) -> Addresses:
    """Work out the addresses that the options leave open.

    Parameters
    ----------
    own : sequence of str, optional
        This machine's addresses, without those of loopback; looked up if they are not given.

    Raises
    ------
    InvalidArgument
        `listen` is no address.
    """
    address = _listen(listen, port, listener_ip)
    if listen is not None:
        at = f"--listen {listen}"
    else:
        at = f"--listener-ip {listener_ip}" if listener_ip else f"--listen {address}, the default"
    hosts = {at: address.host}
    wan = at
    if bind or listener_ip:
        wan = f"--bind {bind}" if bind else f"--listener-ip {listener_ip}"
        hosts[wan] = bind or listener_ip or ""
    lan = f"--bind-lan {bind_lan}" if bind_lan else f"--listener-ip {listener_ip}"
    lan_host = bind_lan or listener_ip or LOOPBACK
    hosts[lan] = lan_host
    problems = [problem for option, host in hosts.items() if (problem := _not_here(option, host))]
    if advertise is None:
        advertise = _reached_by(hosts[wan], wan, "the other gateway reaches", "--advertise", own, problems)
    if advertise_lan is None:
        advertise_lan = _reached_by(
            lan_host, lan, "this facility's applications reach", "--advertise-lan", own, problems
        )
    return Addresses(
        listen=address,
        bind=hosts[wan],
        advertise=advertise,
        bind_lan=lan_host,
        advertise_lan=advertise_lan,
        problems=problems,
    )


def own_addresses(host: str) -> list[str]:
    """Return this machine's addresses that a listener at the wildcard `host` accepts at, without loopback."""
    found = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", _text(_IPV4_ROUTES))
    if ":" in host:
        for line in _text(_IPV6_ADDRESSES).splitlines():
            digits, _, _, scope, *_ = line.split()
            if scope == _GLOBAL_SCOPE:
                found.append(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return [one for one in dict.fromkeys(found) if not ipaddress.ip_address(one).is_loopback]


def _listen(listen: str | None, port: int | None, listener_ip: str | None) -> Endpoint:
    if listen is None:
        return Endpoint(listener_ip or DEFAULT_HOST, DEFAULT_PORT if port is None else port)
    address = Endpoint.parse(listen, default_port=port)
    if port not in {None, address.port}:
        raise click.UsageError(f"--listen {listen} and --port {port} name different ports")
    return address


def _not_here(option: str, host: str) -> str:
    """Return why nothing can listen at `host`, which `option` names; empty if it can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return f"{option} cannot be resolved: {error.strerror}"
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                there = ", ".join([*own_addresses("::"), LOOPBACK])
                return (
                    f"{option} is no address of this machine, which has {there}; where addresses are "
                    "translated on the way (NAT), listen at one of these and give the outer one with "
                    f"--advertise {host}"
                )
            return f"{option} cannot be listened at: {error.strerror}"
    return ""


def _reached_by(
    host: str, source: str, who: str, option: str, own: Sequence[str] | None, problems: list[str]
) -> str:
    """Return by which address a listener at `host` is reached; where that is open, add it to `problems`."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return host
    candidates = own_addresses(host) if own is None else own
    if len(candidates) == 1:
        return candidates[0]
    could_be = f"it could be {' or '.join(candidates)}" if candidates else "it has none but loopback"
    problems.append(
        f"data listeners are at every address of this machine ({source}); say by which one {who} them, with "
        f"{option} HOST: {could_be}"
    )
    return host


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:  # a kernel without this protocol
        return ""
