"""The commands for one side of a session, where one person cannot open both; those of the reference client.

``prod-req`` and ``cons-req`` leave the application's hello to its application controller; ``inbound-request``
and ``outbound-request`` say it themselves. Options and defaults are the reference's, and ours besides.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from scistream.cli.completion import complete_profiles
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.one_side import open_one_side
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role

F = TypeVar("F", bound=Callable[..., Any])

_RECEIVER_PORTS = "5074,5075,5076,37000,47000"

# What the application controller has to say hello: a little longer than the 180 s for which control servers
# hold listeners for it, so that they say themselves that nobody came.
_HELLO_TIMEOUT_S = 185.0

_CREDENTIAL_OUT = click.option(
    "--credential-out",
    type=parameters.FILE,
    help="Write what the application controller says hello with here, mode 0600 [where appctrl finds it, on "
    "this host].",
)


def _side(default_server: str, *, waits: bool) -> Callable[[F], F]:
    """Return a decorator that adds what the commands for one side have in common."""

    def add(command: F) -> F:
        for option in (
            parameters.common,
            parameters.timeout(_HELLO_TIMEOUT_S) if waits else parameters.timeout(queued=True),
            parameters.scope,
            parameters.one_server,
            click.option(
                "--s2cs",
                "server",
                default=default_server,
                show_default=True,
                shell_complete=complete_profiles,
                help=f"{parameters.SERVER_HELP}.",
            ),
            *([_CREDENTIAL_OUT] if waits else []),
            click.option("--plain", is_flag=True, help="Stream in the clear; connected at once."),
            click.option(
                "--certificate-out", type=parameters.FILE, help="Write this side's session certificate here."
            ),
            parameters.peer_data_server,
            click.option(
                "--peer-certificate", type=parameters.FILE, help="The other side's session certificate."
            ),
            parameters.reverse("The producer's gateway dials the consumer's; on both sides."),
            parameters.leases,
            parameters.rate(parameters.REFERENCE_RATE_MBPS),
        ):
            command = option(command)
        return command

    return add


@click.command("prod-req")
@parameters.uid
@click.option(
    "--num-conn", type=int, default=parameters.REFERENCE_NUM_CONN, show_default=True, help="Channels."
)
@parameters.mock
@_side(parameters.PRODUCER_SERVER, waits=True)
@click.pass_context
def prod_req(context: click.Context, /, uid: str | None, num_conn: int, mock: bool, **values: Any) -> None:
    """Open the producer's side of a session, whose application controller says hello itself.

    What is to be typed for the application is shown first: appctrl hello UID --role PROD --address HOST:PORT.
    It says hello with a credential of this session alone, not with your token.
    The rest is printed when it has come.

    \b
    Example:
      s2uc prod-req --num-conn 1 --s2cs aps.example:5000 --certificate aps.crt --token-file my.token
    """
    open_one_side(
        context,
        _name(uid, mock=mock),
        Role.PRODUCER,
        **values,
        num_conn=num_conn,
        addresses=None,
        connect_to=[],
    )


@click.command("cons-req")
@click.argument("uid")
@click.argument("producer_listeners", required=False)
@click.option("--num-conn", type=int, help="Channels [one per producer listener].")
@_side(parameters.CONSUMER_SERVER, waits=True)
@click.pass_context
def cons_req(
    context: click.Context, /, uid: str, producer_listeners: str | None, num_conn: int | None, **values: Any
) -> None:
    """Open the consumer's side of session UID, whose application controller says hello itself.

    It is connected to PRODUCER_LISTENERS (comma-separated) when hello has come. With --reverse leave them
    out, and say how many channels the producer's side has (--num-conn).

    \b
    Example:
      s2uc cons-req 0f3c… aps.example:5100 --s2cs alcf.example:5000 --certificate alcf.crt \\
          --token-file my.token --peer-certificate producer-session.crt
    """
    listeners = _producer_listeners(producer_listeners, values)
    open_one_side(
        context,
        uid,
        Role.CONSUMER,
        **values,
        num_conn=(len(listeners) or 1) if num_conn is None else num_conn,
        addresses=None,
        connect_to=listeners,
    )


@click.command("inbound-request")
@click.option("--target", "targets", multiple=True, help="HOST:PORT of the producer's application.")
@click.option(
    "--remote-ip", default="localhost", show_default=True, help="The application's host, without --target."
)
@click.option(
    "--receiver-ports",
    default=_RECEIVER_PORTS,
    show_default=True,
    help="The application's ports on it, without --target.",
)
@parameters.uid
@click.option(
    "--num-conn",
    type=int,
    help=f"Channels [one per --target; without, {parameters.REFERENCE_NUM_CONN}].",
)
@parameters.mock
@_side(parameters.PRODUCER_SERVER, waits=False)
@click.pass_context
def inbound_request(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    remote_ip: str,
    receiver_ports: str,
    uid: str | None,
    num_conn: int | None,
    mock: bool,
    **values: Any,
) -> None:
    """Open the producer's side alone, where one person cannot open both ('s2uc request' does).

    Give the printed uid, listeners and certificate to whoever opens the consumer's side. With the
    certificate of that side, connect: 's2uc update'. Without encryption (--plain) it is connected at once.
    With --reverse that side has the listeners, which are given to 's2uc update' too.

    \b
    Example:
      s2uc inbound-request --target 10.0.1.5:5001 --s2cs aps.example:5000 --certificate aps.crt \\
          --token-file my.token --certificate-out producer-session.crt
    """
    for name in ("remote_ip", "receiver_ports"):
        if targets and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"give either --target or {option}: both say where the application is")
    host = f"[{remote_ip}]" if ":" in remote_ip and "[" not in remote_ip else remote_ip
    addresses = parameters.endpoints(targets or [f"{host}:{port}" for port in receiver_ports.split(",")])
    if num_conn is None:
        num_conn = len(targets) or parameters.REFERENCE_NUM_CONN
    if len(targets) > num_conn:
        click.echo(f"not used with --num-conn {num_conn}: {', '.join(targets[num_conn:])}", err=True)
    open_one_side(
        context,
        _name(uid, mock=mock),
        Role.PRODUCER,
        **values,
        num_conn=num_conn,
        addresses=addresses,
        connect_to=addresses,
    )


@click.command("outbound-request")
@click.argument("uid")
@click.argument("producer_listeners", required=False)
@click.option("--num-conn", type=int, help="Channels [one per producer listener].")
@click.option(
    "--remote-ip",
    default="localhost",
    expose_value=False,
    help="Taken as the reference client takes it; the consumer's application is not connected to.",
)
@click.option("--receiver-ports", default="", expose_value=False, help="Likewise.")
@_side(parameters.CONSUMER_SERVER, waits=False)
@click.pass_context
def outbound_request(
    context: click.Context, /, uid: str, producer_listeners: str | None, num_conn: int | None, **values: Any
) -> None:
    """Open the consumer's side of session UID, and connect it to PRODUCER_LISTENERS (comma-separated).

    With --reverse it is the producer's side that connects: leave them out, say how many channels that side
    has (--num-conn), and give the printed reverse listeners to whoever opens that side ('s2uc update').

    \b
    Example:
      s2uc outbound-request 0f3c… aps.example:5100 --s2cs alcf.example:5000 --certificate alcf.crt \\
          --token-file my.token --peer-certificate producer-session.crt \\
          --certificate-out consumer-session.crt
    """
    listeners = _producer_listeners(producer_listeners, values)
    open_one_side(
        context,
        uid,
        Role.CONSUMER,
        **values,
        num_conn=(len(listeners) or 1) if num_conn is None else num_conn,
        addresses=[],
        connect_to=listeners,
    )


def _producer_listeners(given: str | None, values: dict[str, Any]) -> list[Endpoint]:
    """Return where the consumer's side connects to; nowhere if the producer's side dials."""
    if values["plain"] == (values["peer_certificate"] is not None):
        raise click.UsageError(parameters.PEER_NEEDED)
    if values["reverse"]:
        if given is not None:
            raise click.UsageError("leave PRODUCER_LISTENERS out: with --reverse there are none")
        return []
    if given is None:
        raise click.UsageError("give PRODUCER_LISTENERS, those of the producer's side (or --reverse)")
    return parameters.endpoints(given.split(","))


def _name(uid: str | None, *, mock: bool) -> str:
    if uid is not None and mock:
        raise click.UsageError("give either --uid or --mock")
    return parameters.MOCK_UID if mock else str(uuid.uuid4()) if uid is None else uid
