"""The command ``appctrl``: speaks to a control server for an application that knows nothing of it."""

from __future__ import annotations

from pathlib import Path

import click

from scistream.cli import options
from scistream.cli.appctrl_job import TOKEN_VARIABLES
from scistream.cli.appctrl_reference import create_appctrl, mock
from scistream.cli.appctrl_run import run
from scistream.cli.application_credentials import find_credential
from scistream.cli.completion import complete_profiles, completion
from scistream.cli.config_file import config_option
from scistream.cli.facilities import find_facility
from scistream.cli.running import run_program, run_until_done
from scistream.cli.show import show_pairs
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role

_FILE = click.Path(dir_okay=False, path_type=Path)
_PROFILES = ("facilities",)


@click.group(context_settings=options.CONTEXT_SETTINGS)
@config_option(tables=_PROFILES)
@options.version_option()
def appctrl() -> None:
    """Application controller: speaks to a gateway for an application that knows nothing of it.

    \b
    The user has asked, or will ask, for session 0f3c…; the producer's application is to listen on port 5201:
      appctrl run 0f3c… --role PROD --port 5201 --host 10.0.1.5 --s2cs aps.example:5000 \\
          --certificate aps.crt --token-file session.credential -- iperf3 -s -p {port}
    One that runs already is only announced:
      appctrl hello 0f3c… --role PROD --address 10.0.1.5:5201 --s2cs aps.example:5000 \\
          --certificate aps.crt --token-file session.credential

    What is presented is the session's own credential, which 's2uc prod-req' and 'cons-req' write into a file
    (--credential-out); on the host where that was done it is found by itself. It is good for this session
    alone. Your token is taken too.

    Options also come from the environment (APPCTRL_HELLO_ADDRESS), the credential from APPCTRL_TOKEN. --s2cs
    takes the name of a profile too; 's2uc --help' shows how profiles are written.
    """


@click.command()
@click.argument("uid")
@click.option(
    "--role",
    type=click.Choice([one.value for one in Role]),
    required=True,
    help="PROD: the application listens; CONS: it connects.",
)
@click.option(
    "--address", "addresses", multiple=True, help="HOST:PORT where the application listens; repeatable."
)
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
    "--timeout-s", type=float, default=180.0, show_default=True, help="Wait this long for the user's request."
)
@options.json_option()
@config_option(tables=_PROFILES)
@options.verbose_option()
@click.pass_context
def hello(
    context: click.Context,
    uid: str,
    role: str,
    addresses: tuple[str, ...],
    server: str,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Say for session UID where the application listens, and print the gateway's listeners.

    It may come before the user's request, and waits for it then.

    \b
    Example:
      appctrl hello 0f3c… --role CONS --s2cs alcf.example:5000 --certificate alcf.crt \\
          --token-file session.credential
    """
    from scistream.client.aio import register

    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=find_credential(uid, Role(role), token_file, TOKEN_VARIABLES),
        token_variables=TOKEN_VARIABLES,
    )
    wanted = [Endpoint.parse(address) for address in addresses]

    async def work() -> tuple[Endpoint, ...]:
        return await register(facility, uid, Role(role), wanted, timeout_s=timeout_s)

    listeners = run_until_done(work)
    show_pairs({"uid": uid, "role": role, "listeners": list(map(str, listeners))}, as_json=as_json)


appctrl.add_command(hello, "hello")
appctrl.add_command(hello, "register")
appctrl.add_command(run)
appctrl.add_command(mock)
appctrl.add_command(create_appctrl)
appctrl.add_command(completion)


def main() -> None:
    """Run ``appctrl``."""
    run_program(appctrl, "appctrl")
