"""The options of the native data server, the same for a gateway and for a data server by itself."""

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
    "mptcp": ("--mptcp", {"is_flag": True, "default": None, "help": "Dial that leg with MPTCP."}),
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

NATIVE_OPTIONS = tuple(click.option(option, name, **rest) for name, (option, rest) in _SETTINGS.items())
NATIVE_NAMES = {name: option for name, (option, _) in _SETTINGS.items()}
"""Settings of `NativeBackend`, and the options that give them."""


def with_native_settings(command: F) -> F:
    """Hand `command` those of `NATIVE_OPTIONS` that were given together, as ``native_settings``."""

    @functools.wraps(command)
    def with_settings(*arguments: Any, **values: Any) -> Any:
        settings = {name: values.pop(name) for name in NATIVE_NAMES}
        given = {name: value for name, value in settings.items() if value is not None}
        return command(*arguments, native_settings=given, **values)

    return with_settings  # type: ignore[return-value]


def native_options(command: F) -> F:
    """Give `command` all of `NATIVE_OPTIONS`; it gets those that were given together."""
    decorated = with_native_settings(command)
    for option in reversed(NATIVE_OPTIONS):
        decorated = option(decorated)
    return decorated
