"""The program ``s2uc``: its commands, each with the other names that the documents know it by."""

from __future__ import annotations

import click

from scistream.cli import options
from scistream.cli.completion import completion
from scistream.cli.config_file import config_option
from scistream.cli.running import run_program
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.check_auth import check_auth
from scistream.cli.s2uc.login import login, logout
from scistream.cli.s2uc.probe import probe
from scistream.cli.s2uc.request import request
from scistream.cli.s2uc.sessions import list_sessions, release, renew, status
from scistream.cli.s2uc.sides import cons_req, inbound_request, outbound_request, prod_req
from scistream.cli.s2uc.trust import trust
from scistream.cli.s2uc.update import update
from scistream.cli.s2uc.watch import watch


@click.group(context_settings=options.CONTEXT_SETTINGS)
@config_option(tables=parameters.PROFILES)
@options.version_option()
def s2uc() -> None:
    """User client: opens streaming sessions between two facilities, shows them, ends them.

    \b
    An application listens at 10.0.1.5:5001 inside the producer's facility:
      s2uc request aps.example:5000 alcf.example:5000 --target 10.0.1.5:5001 \\
          --producer-certificate aps.crt --consumer-certificate alcf.crt --token-file my.token
    and the consumer application connects to the listeners that this prints.

    \b
    Shorter with profiles, in ~/.config/scistream/config.toml or a file given with --config:
      [facilities.aps]
      address = "aps.example:5000"
      certificate = "aps.crt"        # relative to this file; or fingerprint = "SHA-256"
      token_file = "aps.token"       # mode 0600
      [facilities.alcf]
      address = "alcf.example:5000"
      certificate = "alcf.crt"
      authenticator = "globus"       # log in once: s2uc login alcf; what else it needs: s2uc login --help

    \b
    Then:
      s2uc request aps alcf --target 10.0.1.5:5001
      s2uc list
      s2uc watch UID
      s2uc probe UID                 # how fast is it? before the applications start
      s2uc release UID

    Commands and options may be written with '_' for '-'. Options also come from the environment
    (S2UC_REQUEST_TARGET), tokens from S2UC_TOKEN.

    \b
    Exit codes: 0 done, 2 usage, 3 a value or file that cannot be used, 4 a control server cannot be reached
    or failed, 5 ports or capacity used up, 6 not let in, or not trusted, 7 no such session, or not in that
    state, or too late, 8 a data server failed, 130 Ctrl-C (cleaned up), 143 terminated (cleaned up).
    """


for command in (
    request,
    inbound_request,
    outbound_request,
    prod_req,
    cons_req,
    update,
    status,
    list_sessions,
    watch,
    probe,
    renew,
    release,
    trust,
    login,
    logout,
    check_auth,
    completion,
):
    s2uc.add_command(command)
s2uc.add_command(request, "request1")
s2uc.add_command(status, "check-status")


def main() -> None:
    """Run ``s2uc``."""
    run_program(s2uc, "s2uc")
