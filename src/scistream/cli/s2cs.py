"""The command ``s2cs``: starts a control server, and makes what it needs: certificate, tokens."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scistream.cli import options
from scistream.core.endpoint import Endpoint
from scistream.core.session import Encryption
from scistream.core.table import Limits
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from scistream.config import ControlServerConfig

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings=options.CONTEXT_SETTINGS)
@options.config_option()
@options.version_option()
def s2cs() -> None:
    """Control server of a gateway: takes requests for streaming sessions and carries them out.

    \b
    A gateway from nothing:
      s2cs cert --host gateway.example.org --out .
      s2cs token alice --auth-file tokens.toml --out alice.token
      s2cs start --auth shared-key --auth-file tokens.toml --advertise gateway.example.org

    Users need server.crt and their token file. Options also come from the environment (S2CS_START_LISTEN)
    and from a TOML file (--config FILE, table [start]).
    """


@s2cs.command()
@click.option("--listen", default="0.0.0.0:5000", show_default=True, help="HOST:PORT for calls; port 0: any.")
@click.option(
    "--bind",
    "bind_host",
    metavar="HOST",
    help="Address that the other gateway's connections come in at [the one of --listen].",
)
@click.option(
    "--advertise",
    "advertise_host",
    metavar="HOST",
    help="The same, as the other gateway reaches it [the one of --bind].",
)
@click.option(
    "--bind-lan",
    "bind_lan_host",
    metavar="HOST",
    default="127.0.0.1",
    show_default=True,
    help="Address that this facility's consumer applications connect to, in the clear.",
)
@click.option(
    "--advertise-lan",
    "advertise_lan_host",
    metavar="HOST",
    help="The same, as the applications reach it [the one of --bind-lan].",
)
@click.option(
    "--port-range", default="5100-5200", show_default=True, help="For data listeners; 0: any ports."
)
@click.option(
    "--certificate", type=_FILE, default="server.crt", show_default=True, help="TLS certificate, PEM."
)
@click.option(
    "--private-key", type=_FILE, default="server.key", show_default=True, help="Its key, mode 0600."
)
@click.option("--data-server", default="native", show_default=True, help="What forwards the data.")
@click.option("--auth", help="How users are known: shared-key, or none (this machine only). Must be said.")
@click.option("--auth-file", type=_FILE, help="For shared-key: hashes of the tokens; see s2cs token.")
@click.option("--insecure", is_flag=True, help="Allow --auth none beyond this machine.")
@click.option(
    "--encryption",
    type=click.Choice([one.value for one in Encryption]),
    default=Encryption.REQUIRED.value,
    show_default=True,
    help="Of the data between the gateways.",
)
@click.option(
    "--hello-timeout-s",
    type=float,
    default=180.0,
    show_default=True,
    help="Wait for the application this long.",
)
@click.option(
    "--update-timeout-s", type=float, default=180.0, show_default=True, help="Then for the user this long."
)
@click.option(
    "--drain-timeout-s", type=float, default=10.0, show_default=True, help="Time to end sessions on SIGTERM."
)
@options.json_option("Print events as JSON lines on stdout: ready, done, error.")
@options.config_option()
@options.verbose_option(logging.INFO)
def start(
    listen: str,
    bind_host: str | None,
    advertise_host: str | None,
    bind_lan_host: str,
    advertise_lan_host: str | None,
    port_range: str,
    certificate: Path,
    private_key: Path,
    data_server: str,
    auth: str | None,
    auth_file: Path | None,
    insecure: bool,
    encryption: str,
    hello_timeout_s: float,
    update_timeout_s: float,
    drain_timeout_s: float,
    as_json: bool,
) -> None:
    """Start the control server, and run until SIGINT or SIGTERM.

    It ends all its sessions then; a second signal ends it at once.

    \b
    Example, on one machine:
      s2cs start --listen 127.0.0.1:5000 --auth shared-key --auth-file tokens.toml

    \b
    A gateway with the address 192.0.2.7 outside and 10.0.1.1 inside, where its applications are:
      s2cs start --auth shared-key --auth-file tokens.toml --bind 192.0.2.7 --bind-lan 10.0.1.1
    """
    with options.error_events(enabled=as_json):
        # what is missing is said before gRPC is imported, and all with the command that makes it
        if auth is None:
            raise ConfigurationError(
                "who may use this gateway is not said; make a token with 's2cs token NAME --auth-file "
                "tokens.toml --out NAME.token' and start with '--auth shared-key --auth-file tokens.toml' "
                "(or '--auth none --listen 127.0.0.1:5000', for tests on this machine)"
            )
        for what, path in (("certificate", certificate), ("private key", private_key)):
            if not path.exists():
                raise ConfigurationError(
                    f"the {what} {path} is not there; make both with 's2cs cert --host NAME --out "
                    f"{certificate.parent}', NAME being what users call this host, or give --certificate and "
                    "--private-key"
                )
        from scistream.config import ControlServerConfig, PortRange
        from scistream.control.server import check_exposure

        address = Endpoint.parse(listen)
        bind_host = bind_host or address.host
        advertise_host = advertise_host or bind_host
        config = ControlServerConfig(
            listen=address,
            certificate=certificate,
            private_key=private_key,
            bind_host=bind_host,
            advertise_host=advertise_host,
            bind_lan_host=bind_lan_host,
            advertise_lan_host=advertise_lan_host,
            ports=PortRange.parse(port_range),
            data_server=data_server,
            authenticator=auth,
            authenticator_settings={"file": str(auth_file)} if auth_file else {},
            encryption=Encryption(encryption),
            limits=Limits(hello_timeout_s=hello_timeout_s, update_timeout_s=update_timeout_s),
            drain_timeout_s=drain_timeout_s,
        )
        check_exposure(config, insecure=insecure)
        _serve(config, as_json=as_json)


def _serve(config: ControlServerConfig, *, as_json: bool) -> None:
    from scistream.control.server import ControlServer

    async def serve() -> None:
        async with ControlServer(config) as server:
            if as_json:
                options.emit(
                    "ready",
                    address=str(server.address),
                    advertise=config.advertise_host,
                    advertise_lan=config.lan_host,
                    data_server=config.data_server,
                    encryption=config.encryption.value,
                    auth=config.authenticator,
                    pid=os.getpid(),
                )
            await asyncio.Event().wait()

    try:
        options.run_until_done(serve)
    except options.StoppedBySignal as stop:
        if as_json:
            options.emit("done", signal=str(stop))
        raise


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
@options.config_option()
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
        options.print_json(certificate=str(certificate), private_key=str(private_key), sha256=digest)
    else:
        click.echo(f"certificate  {certificate}\nprivate key  {private_key}\nSHA-256      {digest}")


@s2cs.command()
@click.argument("name")
@click.option("--auth-file", type=_FILE, required=True, help="Hashes of all tokens; made if it is not there.")
@click.option("--out", "token_file", type=_FILE, required=True, help="New file for the token, mode 0600.")
@options.json_option()
@options.config_option()
def token(name: str, auth_file: Path, token_file: Path, as_json: bool) -> None:
    """Make a token for the user NAME.

    The hash goes into the file that 's2cs start --auth-file' reads when it starts, the token into a file for
    the user.

    \b
    Example:
      s2cs token alice --auth-file tokens.toml --out alice.token
    """
    from scistream.auth.shared_key import create_token_file

    create_token_file(name, auth_file, token_file)
    if as_json:
        options.print_json(name=name, auth_file=str(auth_file), token_file=str(token_file))
    else:
        click.echo(
            f"token of {name} in {token_file}; its hash in {auth_file}. Restart s2cs to let {name} in."
        )


def main() -> None:
    """Run ``s2cs``."""
    options.run_program(s2cs, "s2cs")


if __name__ == "__main__":  # for programs that start it by this interpreter
    main()
