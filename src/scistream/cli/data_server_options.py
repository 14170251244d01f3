"""The options of data servers: those of the native one, which `s2ds` has too, and those of containers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "workers": (
        "--workers",
        {"type": click.IntRange(min=1), "help": "Processes  [default: one per core]"},
    ),
    "congestion_lan": (
        "--congestion-lan",
        {"help": "TCP congestion control of the facility's own legs  [default: cubic]"},
    ),
    "congestion_wan": (
        "--congestion-wan",
        {
            "help": "The same for the leg between the facilities if its round trip is long  "
            "[default: bbr, where this user may use it]"
        },
    ),
    "wan_buffer_bytes": (
        "--wan-buffer",
        {
            "type": click.IntRange(min=0),
            "metavar": "BYTES",
            "help": "Its socket buffers then; 0: the kernel's  [default: by rate and round trip]",
        },
    ),
    "dscp": ("--dscp", {"type": click.IntRange(0, 63), "help": "Mark what is sent on that leg."}),
    "mptcp": (
        "--mptcp",
        {"is_flag": True, "default": None, "help": "Use MPTCP on that leg if the other side does, too."},
    ),
    "peer_timeout_s": (
        "--peer-timeout",
        {
            "type": click.FloatRange(min=2),
            "metavar": "SECONDS",
            "help": "Reset a connection whose peer has left everything unanswered for so long  "
            "[default: 120]",
        },
    ),
    "tls_engine": (
        "--tls-engine",
        {
            "type": click.Choice(["kernel", "openssl", "stdlib"]),
            "help": "Who encrypts  [default: the first one that works]",
        },
    ),
}

_OF_CONTAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": (
        "--container-image",
        {
            "metavar": "IMAGE",
            "help": "What containers are made from; it has to be on this machine.  [default: haproxy:lts, "
            "nginx:stable; none for stunnel]",
        },
    ),
    "engine": (
        "--container-engine",
        {
            "metavar": "SOCKET",
            "help": "The Docker Engine of this machine  [default: $DOCKER_HOST, or /var/run/docker.sock]",
        },
    ),
}


def _named(settings: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, str]:
    return {name: option for name, (option, _) in settings.items()}


def _options(settings: dict[str, tuple[str, dict[str, Any]]]) -> tuple[Callable[[F], F], ...]:
    return tuple(click.option(option, name, **rest) for name, (option, rest) in settings.items())


NATIVE_OPTIONS = _options(_SETTINGS)
CONTAINER_OPTIONS = _options(_OF_CONTAINERS)
NATIVE_NAMES = _named(_SETTINGS)
"""Settings of `NativeBackend`, and the options that give them."""
CONTAINER_NAMES = _named(_OF_CONTAINERS)
"""The same of `ContainerBackend`."""


def _gathered(command: F, names: dict[str, str], argument: str) -> F:
    """Hand `command` those options in `names` that were given together, as `argument`."""

    @functools.wraps(command)
    def with_settings(*arguments: Any, **values: Any) -> Any:
        settings = {name: values.pop(name) for name in names}
        given = {name: value for name, value in settings.items() if value is not None}
        return command(*arguments, **{argument: given}, **values)

    return with_settings  # type: ignore[return-value]


def with_settings(command: F) -> F:
    """Hand `command` the settings that were given, as ``native_settings`` and ``container_settings``."""
    return _gathered(
        _gathered(command, CONTAINER_NAMES, "container_settings"), NATIVE_NAMES, "native_settings"
    )


def native_options(command: F) -> F:
    """Give `command` all of `NATIVE_OPTIONS`; it gets those that were given together."""
    decorated = _gathered(command, NATIVE_NAMES, "native_settings")
    for option in reversed(NATIVE_OPTIONS):
        decorated = option(decorated)
    return decorated
