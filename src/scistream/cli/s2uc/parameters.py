"""Options that several commands of ``s2uc`` have, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scistream.cli import options
from scistream.cli.completion import complete_profiles
from scistream.cli.config_file import config_option
from scistream.cli.facilities import LOCAL_SERVER, SCOPE_KEY
from scistream.core.endpoint import Endpoint
from scistream.core.session import State
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from scistream.client.aio import ControlClient
    from scistream.core.status import SessionStatus

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
PROFILES = ("facilities",)

#: The reference client's rate; a wish that only a gateway with a limited capacity takes account of.
REFERENCE_RATE_MBPS = 10_000
#: The reference client's channels.
REFERENCE_NUM_CONN = 5
#: What it calls a mock session.
MOCK_UID = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3"
#: Where it looks for the control server of each side.
PRODUCER_SERVER, CONSUMER_SERVER = "localhost:5000", "localhost:6000"

#: What has never been connected; it is not known yet with whom.
NOT_CONNECTED = frozenset({State.QUEUED, State.REQUESTED, State.RESERVED, State.ANNOUNCED})

#: What a control server is called by; the guide says what the last one means.
SERVER_HELP = "Control server: a profile, HOST:PORT, or plaintext://HOST:PORT where it serves without TLS"

PEER_NEEDED = (
    "say who the other side is: --peer-certificate FILE (its session certificate, which its owner has by "
    "--certificate-out), or --plain to stream in the clear; 's2uc request' opens both sides and needs neither"
)


class Seconds(click.ParamType[float]):
    """A time that can be waited: a number above 0, and not an infinite one."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that `value` is; a usage error if it is none."""
        seconds = float(click.FLOAT.convert(value, param, ctx))
        if not 0 < seconds < math.inf:
            self.fail(f"{value} is no time to wait; give a number of seconds above 0", param, ctx)
        return seconds


class SessionName(click.ParamType[str]):
    """A session's uid, which is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value`; a usage error if it is empty."""
        if not value:
            self.fail("it is empty; give a name, or leave the option out for a random one", param, ctx)
        return str(value)


def uid(command: F) -> F:
    """Add ``--uid``."""
    return click.option("--uid", type=SessionName(), help="Name of the session [a random UUID].")(command)


def _added(command: F, *more: Callable[[F], F]) -> F:
    """Add options, shown in this order."""
    for option in reversed(more):
        command = option(command)
    return command


def common(command: F) -> F:
    """Add the options that every command has."""
    return _added(command, options.json_option(), config_option(tables=PROFILES), options.verbose_option())


def timeout(default: float | None = 30.0, *, queued: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds ``--timeout-s``; with `queued`, a queued request has an hour."""
    if queued:
        text = f"For all of it [{default:g}; with --queue 3600]."
        return click.option("--timeout-s", type=Seconds(), help=text)
    return click.option(
        "--timeout-s", type=Seconds(), default=default, show_default=True, help="For all of it."
    )


def one_server(command: F) -> F:
    """Add the options of commands that talk to one control server."""
    return _added(
        command,
        click.option(
            "--certificate",
            "--server-cert",
            type=FILE,
            help="The control server's certificate [the trusted one; server.crt, if it is there].",
        ),
        click.option("--token-file", type=FILE, help="File with your token there [or: S2UC_TOKEN]."),
    )


def several_servers(command: F) -> F:
    """Add the options of commands that can talk to the control servers of both sides."""
    return _added(
        command,
        click.option(
            "--s2cs",
            "servers",
            multiple=True,
            shell_complete=complete_profiles,
            help=f"{SERVER_HELP}; repeat it for both sides [all profiles; without any, {LOCAL_SERVER}].",
        ),
        click.option(
            "--certificate",
            "--server-cert",
            "certificates",
            type=FILE,
            multiple=True,
            help="One, or one per server [the trusted ones; server.crt, if it is there].",
        ),
        click.option("--token-file", "token_files", type=FILE, multiple=True, help="One, or one per server."),
    )


def everybody(command: F) -> F:
    """Add ``--everybody``."""
    return click.option(
        "--everybody", is_flag=True, help="All users' sessions, not yours alone; for administrators."
    )(command)


def leases(command: F) -> F:
    """Add what can be asked for besides channels and rate."""
    return _added(
        command,
        click.option("--queue", is_flag=True, help="Wait for ports and capacity, where they are used up."),
        click.option(
            "--idle-timeout-s",
            type=click.FloatRange(min=0),
            help="End it after this time without traffic [the gateway's].",
        ),
        click.option(
            "--lifetime-s",
            type=click.FloatRange(min=0),
            help="End it after this time, unless it is renewed [the gateway's].",
        ),
    )


def peer_data_server(command: F) -> F:
    """Add ``--peer-data-server``."""
    return click.option(
        "--peer-data-server",
        default="",
        help="Kind of the other side's data server, as its owner was shown [not known].",
    )(command)


def reverse(text: str) -> Callable[[F], F]:
    """Return a decorator that adds ``--reverse``."""
    return click.option("--reverse", is_flag=True, help=text)


def rate(default: int) -> Callable[[F], F]:
    """Return a decorator that adds ``--rate``."""
    return click.option(
        "--rate", type=int, default=default, show_default=True, help="Mb/s that you ask for; 0: no wish."
    )


def scope(command: F) -> F:
    """Add the reference's ``--scope``: which login's token is shown, where no profile says that."""

    def keep(context: click.Context, _: click.Parameter, value: str) -> None:
        context.meta[SCOPE_KEY] = value

    return click.option(
        "--scope",
        default="",
        expose_value=False,
        callback=keep,
        help="Use the token of 's2uc login --scope SCOPE', where neither a profile nor a token is given.",
    )(command)


def mock(command: F) -> F:
    """Add the reference's ``--mock True``."""
    return click.option(
        "--mock",
        type=bool,
        is_flag=False,
        flag_value=True,
        default=False,
        show_default=True,
        metavar="BOOLEAN",
        help=f"Use the documents' uid, {MOCK_UID}, for trials.",
    )(command)


def endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """Return addresses as values.

    Raises
    ------
    InvalidArgument
        One is none.
    """
    return [Endpoint.parse(text) for text in texts]


async def look(client: ControlClient, uid: str) -> SessionStatus | None:
    """Return how session `uid` is at a control server; None if that is of another version and cannot say.

    Raises
    ------
    SciStreamError
        Whatever the control server refuses it with.
    """
    from scistream.client.aio import CallUnknown

    try:
        return (await client.status(uid))[0]
    except CallUnknown:
        return None


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`.

    Raises
    ------
    ConfigurationError
        It cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
