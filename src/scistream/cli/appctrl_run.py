"""The command ``appctrl run``: one side of a session for as long as an application runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import click

from scistream.cli import options, templates
from scistream.cli.appctrl_job import TOKEN_VARIABLES, Job
from scistream.cli.application_credentials import find_credential
from scistream.cli.completion import complete_profiles
from scistream.cli.config_file import config_option
from scistream.cli.facilities import find_facility
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ConfigurationError, SciStreamError

_FILE = click.Path(dir_okay=False, path_type=Path)
_PROFILES = ("facilities",)


@click.command()
@click.argument("uid")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--role",
    type=click.Choice([one.value for one in Role]),
    required=True,
    help="PROD: the command listens; CONS: it connects.",
)
@click.option("--address", "addresses", multiple=True, help="HOST:PORT where it listens; repeatable.")
@click.option(
    "--port", "ports", type=click.IntRange(1, 65535), multiple=True, help="The same at --host; repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="This host, as its gateway reaches it.")
@click.option(
    "--s2cs",
    "server",
    default="localhost:5000",
    show_default=True,
    shell_complete=complete_profiles,
    help="Control server or profile.",
)
@click.option("--certificate", "--server-cert", type=_FILE, help="The control server's certificate.")
@click.option(
    "--token-file",
    type=_FILE,
    help="File with the session's credential, or with your token [or: APPCTRL_TOKEN; what 's2uc prod-req' or "
    "'cons-req' has left here for this session].",
)
@click.option(
    "--timeout-s",
    type=float,
    default=180.0,
    show_default=True,
    help="Wait this long for the session: PROD until it is requested, CONS until it is connected.",
)
@click.option(
    "--listen-timeout-s",
    type=float,
    default=30.0,
    show_default=True,
    help="Wait this long until the command listens.",
)
@click.option(
    "--grace-s",
    type=float,
    default=10.0,
    show_default=True,
    help="Kill the command this long after a signal that it does not heed.",
)
@click.option(
    "--when-session-ends",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="Whether the command ends with its session (SIGTERM, and SIGKILL after --grace-s), or goes on.",
)
@click.option(
    "--gateway-timeout-s",
    type=float,
    default=300.0,
    show_default=True,
    help="The session counts as ended when its control server could not be asked for this long: streams go "
    "on while that is started again.",
)
@click.option("--keep", is_flag=True, help="Do not release the session when the command ends.")
@options.json_option(
    "Print events as JSON lines on stderr, stdout being the command's: listening, registered, connected, "
    "started, ended (of the session: state, reason), done, error."
)
@config_option(tables=_PROFILES)
@options.verbose_option()
@click.pass_context
def run(
    context: click.Context,
    uid: str,
    command: tuple[str, ...],
    role: str,
    addresses: tuple[str, ...],
    ports: tuple[int, ...],
    host: str,
    server: str,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    listen_timeout_s: float,
    grace_s: float,
    when_session_ends: str,
    gateway_timeout_s: float,
    keep: bool,
    as_json: bool,
) -> int:
    """Run COMMAND as the application of session UID, and release the session when it ends.

    PROD: the command is started, and announced to the gateway once it listens. CONS: it is started once the
    session is connected. SIGINT, SIGTERM and SIGHUP are passed on to it. If the session ends before it, it is
    stopped.

    \b
    In the arguments these words are replaced ({{ and }} are braces):
      {uid}  {role}  {host}  {port}                   of the first address or listener
      {listener}  {listeners}  {listener0} …          CONS: HOST:PORT to connect to
      {address}   {addresses}  {address0}  …          PROD: HOST:PORT to listen at

    The environment has the same: SCISTREAM_UID, SCISTREAM_ROLE, SCISTREAM_LISTENERS (with commas),
    SCISTREAM_LISTENER_HOST, SCISTREAM_LISTENER_PORT, SCISTREAM_LISTENER_0, …; PROD: ADDRESS for LISTENER.
    The token is not passed on.

    \b
    Example, at the two facilities:
      appctrl run 0f3c… --role PROD --port 5201 --host 10.0.1.5 --s2cs aps -- iperf3 -s -p {port}
      appctrl run 0f3c… --role CONS --s2cs alcf -- iperf3 -c {host} -p {port}

    The exit code is the command's; 128 + the signal's number if one has ended it. Where the command cannot be
    started, or the session is not there, it is one of this program's own. Where the command was stopped with
    its session: 7 if that was released, has expired or is not known any more, 8 if it has failed, 4 if its
    control server has been away for too long.
    """
    wanted = [Endpoint.parse(address) for address in addresses] + [Endpoint(host, port) for port in ports]
    _check(Role(role), wanted, command)
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=find_credential(uid, Role(role), token_file, TOKEN_VARIABLES),
        token_variables=TOKEN_VARIABLES,
    )
    job = Job(
        facility=facility,
        uid=uid,
        role=Role(role),
        addresses=tuple(wanted),
        command=command,
        timeout_s=timeout_s,
        listen_timeout_s=listen_timeout_s,
        gateway_timeout_s=gateway_timeout_s,
        grace_s=grace_s,
        keep=keep,
        stops_with_session=when_session_ends == "stop",
        as_json=as_json,
    )
    try:
        code = asyncio.run(job.run())
    except SciStreamError as error:
        from scistream.cli.exit_codes import exit_code_of

        job.emit("error", message=str(error), exit_code=int(exit_code_of(error)))
        raise
    job.emit("done", exit_code=code)
    return code


def _check(role: Role, addresses: list[Endpoint], command: tuple[str, ...]) -> None:
    """Refuse what could not work, before anything is started or announced."""
    if role is Role.PRODUCER and not addresses:
        raise click.UsageError("--role PROD needs --address or --port: where the command listens")
    if role is Role.CONSUMER and addresses:
        raise click.UsageError("--role CONS takes no --address or --port: the command connects")
    templates.check_names(command, role)
    if addresses:
        templates.fill(command, templates.values("", role, addresses))
    if "{" not in command[0] and shutil.which(command[0]) is None:
        reason = "it is not executable" if Path(command[0]).exists() else "there is no such program"
        raise ConfigurationError(f"the command {command[0]!r} cannot be started: {reason}")
