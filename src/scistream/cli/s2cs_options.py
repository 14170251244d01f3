"""The options of ``s2cs start``.

The spellings of the reference implementation (``--type``, ``--listener-ip``, ``--server-crt``, ``--ssl``, …)
are other names of options here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from scistream.cli import options
from scistream.cli.auth_options import AUTH_OPTIONS
from scistream.cli.config_file import config_option
from scistream.cli.data_server_options import CONTAINER_OPTIONS, NATIVE_OPTIONS
from scistream.cli.s2cs_addresses import DEFAULT_HOST, DEFAULT_PORT, LOOPBACK
from scistream.config import OnFailure, StopMode
from scistream.core.session import Encryption
from scistream.core.table import Limits

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_SECONDS = click.FLOAT
_LIMITS = Limits()


class InstalledOption(click.Option):
    """An option whose help, and completion, name what is installed: looked up only when it is asked for."""

    def __init__(self, *args: Any, installed: Callable[[], tuple[str, ...]], **settings: Any) -> None:
        super().__init__(
            *args,
            shell_complete=lambda *about: [one for one in installed() if one.startswith(about[2])],
            **settings,
        )
        self._installed = installed

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help with the names."""
        record = super().get_help_record(ctx)
        return record and (record[0], f"{record[1]}  [installed: {', '.join(self._installed())}]")


def _data_servers() -> tuple[str, ...]:
    from scistream.dataserver.registry import installed

    return installed()


def _authenticators() -> tuple[str, ...]:
    from scistream.auth.registry import installed_authenticators

    return installed_authenticators()


def start_options(command: F) -> F:
    """Add all of them, shown in this order."""
    for option in reversed(_all()):
        command = option(command)
    return command


def _all() -> tuple[Callable[[F], F], ...]:
    return (
        *_addresses(),
        *_access(),
        *_sessions(),
        *NATIVE_OPTIONS,
        *CONTAINER_OPTIONS,
        options.json_option("Print events as JSON lines on stdout: ready, done, error."),
        config_option(),
        options.verbose_option(logging.INFO, "--v"),
    )


def _addresses() -> tuple[Callable[[F], F], ...]:
    return (
        click.option(
            "--listen",
            metavar="HOST:PORT",
            help="Where calls come in; port 0: any.  "
            f"[default: {DEFAULT_HOST}:{DEFAULT_PORT}, or --listener-ip]",
        ),
        click.option("--port", type=click.IntRange(0, 65535), help="The port of --listen alone."),
        click.option(
            "--bind",
            "bind_host",
            metavar="HOST",
            help="Address that the other gateway's connections come in at  [default: that of --listen]",
        ),
        click.option(
            "--advertise",
            "advertise_host",
            metavar="HOST",
            help="The same, as the other gateway reaches it  [default: that of --bind; where that is every "
            "address, the only one of this machine]",
        ),
        click.option(
            "--bind-lan",
            "bind_lan_host",
            metavar="HOST",
            help="Address that this facility's consumer applications connect to, in the clear  "
            f"[default: {LOOPBACK}]",
        ),
        click.option(
            "--advertise-lan",
            "advertise_lan_host",
            metavar="HOST",
            help="The same, as the applications reach it  [default: that of --bind-lan]",
        ),
        click.option(
            "--listener-ip",
            "listener_host",
            metavar="HOST",
            help="The host of --listen, --bind and --bind-lan at once: everything at one address of this "
            "machine; each of them wins over it.",
        ),
        click.option(
            "--port-range",
            metavar="FIRST-LAST",
            default="5100-5200",
            show_default=True,
            help="For data listeners; 0: any ports.",
        ),
        click.option(
            "--advertise-port-range",
            metavar="FIRST-LAST",
            help="The same, as others reach them (address translation, NodePort): as many, in the same "
            "order.",
        ),
    )


def _access() -> tuple[Callable[[F], F], ...]:
    return (
        click.option(
            "--certificate",
            "--server-crt",
            type=_FILE,
            default="server.crt",
            show_default=True,
            help="TLS certificate, PEM.",
        ),
        click.option(
            "--private-key",
            "--server-key",
            type=_FILE,
            default="server.key",
            show_default=True,
            help="Its key, mode 0600.",
        ),
        click.option(
            "--ssl",
            "tls",
            type=bool,
            is_flag=False,
            flag_value=True,
            default=True,
            show_default=True,
            metavar="BOOL",
            help="TLS on the port for calls. --ssl=False is for this machine, or needs --insecure: tokens "
            "are readable on the way then.",
        ),
        click.option(
            "--data-server",
            "--type",
            cls=InstalledOption,
            installed=_data_servers,
            metavar="NAME",
            default="native",
            show_default=True,
            help="What forwards the data, in any case of letters. Native is our own and needs nothing "
            "installed; SciStream's documents have Haproxy as the default. Those in containers need "
            "the Docker Engine of this machine.",
        ),
        click.option(
            "--auth",
            cls=InstalledOption,
            installed=_authenticators,
            metavar="NAME",
            multiple=True,
            help="How users are known; none is for this machine alone. Must be said; repeat it for several.",
        ),
        *AUTH_OPTIONS,
        click.option(
            "--listen-mtls",
            metavar="HOST:PORT",
            help="For mtls beside others: where calls with client certificates come in.",
        ),
        click.option(
            "--policy",
            type=_FILE,
            metavar="FILE",
            help="Who may do what, TOML; SIGHUP reads it again. 's2cs check-policy' explains it  [default: "
            "everybody who is known may open sessions to anywhere]",
        ),
        click.option(
            "--audit",
            type=_FILE,
            metavar="FILE",
            help="Write every decision there, one JSON line each; SIGHUP opens it again  [default: nowhere]",
        ),
        click.option(
            "--audit-max-mb",
            type=click.FloatRange(min=0.001),
            default=10,
            show_default=True,
            help="Rotate it at this size, in MB.",
        ),
        click.option(
            "--audit-keep",
            type=click.IntRange(min=0),
            default=10,
            show_default=True,
            help="Keep so many rotated files.",
        ),
        click.option(
            "--audit-failure",
            type=click.Choice([one.value for one in OnFailure]),
            default=OnFailure.REFUSE.value,
            show_default=True,
            help="What becomes of calls while it cannot be written: refused, or served with a gap in it.",
        ),
        click.option(
            "--calls-per-user",
            type=click.IntRange(min=1),
            default=12_000,
            show_default=True,
            help="Calls of one user that may be under way, requests that wait for hello among them.",
        ),
        click.option(
            "--calls-per-address",
            type=click.IntRange(min=1),
            default=16_000,
            show_default=True,
            help="The same from one address (of IPv6: one /64).",
        ),
        click.option(
            "--insecure", is_flag=True, help="Allow --auth none and --ssl=False beyond this machine."
        ),
    )


def _sessions() -> tuple[Callable[[F], F], ...]:
    return (
        click.option(
            "--encryption",
            type=click.Choice([one.value for one in Encryption]),
            default=Encryption.REQUIRED.value,
            show_default=True,
            help="Of the data between the gateways.",
        ),
        click.option(
            "--capacity",
            "capacity_mbps",
            type=float,
            metavar="MBPS",
            default=0,
            help="What all sessions together may reserve by their rates, in Mb/s  [default: without limit]",
        ),
        click.option("--pace", is_flag=True, help="Hold each session to the rate that it has asked for."),
        click.option(
            "--hello-timeout-s",
            type=_SECONDS,
            default=_LIMITS.hello_timeout_s,
            show_default=True,
            help="Wait for the application this long.",
        ),
        click.option(
            "--update-timeout-s",
            type=_SECONDS,
            default=_LIMITS.update_timeout_s,
            show_default=True,
            help="Then for the user this long.",
        ),
        click.option(
            "--early-hello-timeout-s",
            type=_SECONDS,
            default=_LIMITS.early_hello_timeout_s,
            show_default=True,
            help="An application that comes before its request waits this long, then has to ask again.",
        ),
        click.option(
            "--queue-timeout-s",
            type=_SECONDS,
            default=_LIMITS.queue_timeout_s,
            show_default=True,
            help="A request that has asked to be queued waits for capacity this long.",
        ),
        click.option(
            "--idle-timeout-s",
            type=_SECONDS,
            default=_LIMITS.idle_timeout_s,
            help="End a session that has carried nothing for this long  [default: never]",
        ),
        click.option(
            "--lifetime-s",
            type=_SECONDS,
            default=_LIMITS.lifetime_s,
            help="End every session after this long, unless it is renewed  [default: never]",
        ),
        click.option(
            "--state-dir",
            type=_DIRECTORY,
            metavar="DIR",
            help="Sessions are kept here, so that they outlive this process  [default: $STATE_DIRECTORY, or "
            "$XDG_STATE_HOME/scistream/s2cs-PORT, or ~/.local/state/scistream/s2cs-PORT; none for port 0]",
        ),
        click.option("--no-state", is_flag=True, help="Keep nothing: all streams end with this process."),
        click.option(
            "--orphan-limit-s",
            type=_SECONDS,
            default=86_400.0,
            show_default=True,
            help="Streams whose control server has died and is not started again end after this long.",
        ),
        click.option(
            "--on-terminate",
            type=click.Choice([one.value for one in StopMode]),
            default=StopMode.DRAIN.value,
            show_default=True,
            help="SIGTERM: drain lets streams finish, keep leaves them running for the next start, release "
            "ends them at once. SIGINT always releases.",
        ),
        click.option(
            "--drain-timeout-s",
            type=_SECONDS,
            default=10.0,
            show_default=True,
            help="Time for the end by SIGTERM, at most.",
        ),
    )
