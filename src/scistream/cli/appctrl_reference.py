"""``appctrl mock`` and ``create-appctrl``: the reference implementation's form of ``appctrl hello``.

Scripts that drive the reference's application controllers go on working. What differs: a token need not
stand among the arguments, where every user of the host can read it; the ports can be said; nothing is
started (the reference starts iperf3 on a port that it has not announced): that is ``appctrl run``. What is
printed is what the reference prints, for scripts that read it; JSON is for ``appctrl hello``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scistream.cli import options
from scistream.cli.appctrl_job import TOKEN_VARIABLES
from scistream.cli.application_credentials import find_credential
from scistream.cli.completion import complete_profiles
from scistream.cli.config_file import config_option
from scistream.cli.facilities import find_facility
from scistream.cli.running import run_until_done
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import InvalidArgument

logger = logging.getLogger(__name__)

_FILE = click.Path(dir_okay=False, path_type=Path)
_PROFILES = ("facilities",)
#: What the reference announces for every producer.
_PORTS = (5074, 5075, 5076, 37000, 47000)
#: What the reference writes where there is no token.
_NO_TOKEN = "INVALID_TOKEN"  # noqa: S105 - it is none


def _positional(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that both forms have."""
    command = click.pass_context(command)
    for part in (
        options.verbose_option(),
        config_option(tables=_PROFILES),
        click.option(
            "--timeout-s",
            type=float,
            default=180.0,
            show_default=True,
            help="Wait this long for the user's request.",
        ),
        click.option(
            "--port",
            "ports",
            type=click.IntRange(1, 65535),
            multiple=True,
            default=_PORTS,
            show_default=True,
            help="Where a producer listens; repeatable.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            help="File with the session's credential, or with your token [or: APPCTRL_TOKEN; what 's2uc "
            "prod-req' or 'cons-req' has left here for this session].",
        ),
        click.option(
            "--certificate",
            "--server-cert",
            type=_FILE,
            help="The control server's certificate  [default: server.crt, where S2CS is an address]",
        ),
        click.argument("controller_ip", default="127.0.0.1"),
        click.argument("role", type=click.Choice([one.value for one in Role])),
        click.argument("access_token"),
        click.argument("server", metavar="S2CS", shell_complete=complete_profiles),
        click.argument("uid"),
    ):
        command = part(command)
    return command


@click.command("create-appctrl")
@_positional
def create_appctrl(context: click.Context, **values: Any) -> None:
    """Announce an application for session UID at S2CS: SciStream's positional form of 'appctrl hello'.

    ACCESS_TOKEN is visible to every user of this host: write - (or '') for it and give the token by
    --token-file or APPCTRL_TOKEN. ROLE is PROD or CONS. A producer's ports are announced at CONTROLLER_IP
    (127.0.0.1 if it is not given). Nothing is started: 'appctrl run' starts programs. The output is that of
    SciStream's program; 'appctrl hello' has --json.

    \b
    Example:
      appctrl create-appctrl 0f3c… aps.example:5000 - PROD 10.0.1.5 --token-file my.token
    """
    _announce(context, "IperfCtrl", **values)


@click.command()
@_positional
def mock(context: click.Context, **values: Any) -> None:
    """Announce an application that is not there, to try a gateway: as create-appctrl.

    \b
    Example:
      appctrl mock 0f3c… aps.example:5000 - PROD 10.0.1.5 --token-file my.token
    """
    _announce(context, "AppCtrl", **values)


def _announce(
    context: click.Context,
    kind: str,
    *,
    uid: str,
    server: str,
    access_token: str,
    role: str,
    controller_ip: str,
    ports: tuple[int, ...],
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
) -> None:
    from scistream.client.aio import register

    if certificate is None and ":" in server:  # a profile names its own
        certificate = Path("server.crt")
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=(
            find_credential(uid, Role(role), token_file, TOKEN_VARIABLES)
            if access_token in {"", "-"}
            else token_file
        ),
        token_variables=TOKEN_VARIABLES,
    )
    if access_token not in {"", "-"}:
        if token_file is not None:
            raise InvalidArgument("ACCESS_TOKEN and --token-file name two tokens; write - for ACCESS_TOKEN")
        if access_token != _NO_TOKEN:
            logger.warning(
                "ACCESS_TOKEN among the arguments can be read by every user of this host; write - instead, "
                "and give it by --token-file or APPCTRL_TOKEN"
            )
        facility = dataclasses.replace(facility, token=access_token)
    addresses = [Endpoint(controller_ip, port) for port in ports] if role == Role.PRODUCER else []
    click.echo("AppCtrl: SENDING HELLO")
    run_until_done(lambda: register(facility, uid, Role(role), addresses, timeout_s=timeout_s))
    click.echo(f"AppCtrl: Hello sent\nCreated {kind} instance")
