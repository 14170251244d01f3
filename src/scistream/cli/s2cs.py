"""The command ``s2cs``: a control server, and what it needs: certificate, tokens."""

from __future__ import annotations

from pathlib import Path

import click

from scistream.cli import options
from scistream.cli.completion import completion
from scistream.cli.config_file import config_option
from scistream.cli.groups import DefaultCommandGroup
from scistream.cli.output import print_json
from scistream.cli.running import run_program
from scistream.cli.s2cs_policy import check_policy
from scistream.cli.s2cs_start import start

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(cls=DefaultCommandGroup, default_command="start", context_settings=options.CONTEXT_SETTINGS)
@config_option()
@options.version_option()
def s2cs() -> None:
    """Control server of a gateway: takes requests for streaming sessions and carries them out.

    \b
    A gateway from nothing:
      s2cs cert --host gateway.example.org --out .
      s2cs token alice --auth-file tokens.toml --out alice.token
      s2cs start --auth shared-key --auth-file tokens.toml --advertise gateway.example.org

    Without a subcommand, start is meant. Users need server.crt and their token file. Options also come from
    the environment (S2CS_START_LISTEN) and from a TOML file (--config FILE, table [start]).
    """


s2cs.add_command(start)
s2cs.add_command(check_policy)
s2cs.add_command(completion)


@s2cs.command()
@click.option(
    "--host", "hosts", multiple=True, required=True, help="Name or address of this host; repeatable."
)
@click.option(
    "--out",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Directory for server.crt and server.key.",
)
@options.json_option()
@config_option()
def cert(hosts: tuple[str, ...], directory: Path, as_json: bool) -> None:
    """Make the control server's certificate and private key.

    Give every name and address that users will write: the certificate holds for these only. server.crt is for
    the users; server.key never leaves this host.

    \b
    Example:
      s2cs cert --host gateway.example.org --host 192.0.2.7 --out /etc/scistream
    """
    from scistream.auth.certificates import fingerprint, write_certificate

    certificate, private_key = write_certificate(directory, hosts)
    digest = fingerprint(certificate.read_bytes())
    if as_json:
        print_json(certificate=str(certificate), private_key=str(private_key), sha256=digest)
    else:
        click.echo(f"certificate  {certificate}\nprivate key  {private_key}\nSHA-256      {digest}")


@s2cs.command()
@click.argument("name")
@click.option("--auth-file", type=_FILE, required=True, help="Hashes of all tokens; made if it is not there.")
@click.option("--out", "token_file", type=_FILE, required=True, help="New file for the token, mode 0600.")
@options.json_option()
@config_option()
def token(name: str, auth_file: Path, token_file: Path, as_json: bool) -> None:
    """Make a token for the user NAME; earlier ones go on being good.

    The hash goes into the file that 's2cs start --auth-file' reads when it starts, the token into a file for
    the user. To withdraw one, take its line out of that file and restart s2cs; the line begins with the
    SHA-256 of the token.

    \b
    Example:
      s2cs token alice --auth-file tokens.toml --out alice.token
    """
    from scistream.auth.shared_key import count_tokens, create_token_file

    create_token_file(name, auth_file, token_file)
    tokens = count_tokens(name, auth_file)
    if as_json:
        print_json(name=name, auth_file=str(auth_file), token_file=str(token_file), tokens=tokens)
    else:
        click.echo(
            f"token of {name} in {token_file}; its hash in {auth_file}. Restart s2cs to let {name} in."
        )
        if tokens > 1:
            click.echo(
                f"{name} has {tokens} tokens now, the earlier ones hold; 's2cs token --help' says how to "
                "withdraw them."
            )


def main() -> None:
    """Run ``s2cs``."""
    run_program(s2cs, "s2cs")


if __name__ == "__main__":  # for programs that start it by this interpreter
    main()
