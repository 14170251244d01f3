"""The command ``s2cs start``: from options to a configuration, and the life of the server's process.

The spellings of the reference implementation (``--type``, ``--listener-ip``, ``--server-crt``, ``--ssl``, …)
are other names of options here. What it could do and this version cannot is refused, never ignored.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from scistream.cli import options
from scistream.config import StopMode, is_loopback
from scistream.core.endpoint import Endpoint
from scistream.core.session import Encryption
from scistream.core.table import Limits
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from scistream.config import ControlServerConfig

logger = logging.getLogger(__name__)

_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_SECONDS = click.FLOAT
_LOOPBACK = "127.0.0.1"
_PORT = 5000
_LIMITS = Limits()


@click.command()
@click.option(
    "--listen", metavar="HOST:PORT", help=f"Where calls come in; port 0: any.  [default: 0.0.0.0:{_PORT}]"
)
@click.option("--port", type=click.IntRange(0, 65535), help="The port of --listen alone.")
@click.option(
    "--bind",
    "bind_host",
    metavar="HOST",
    help="Address that the other gateway's connections come in at  [default: that of --listen]",
)
@click.option(
    "--advertise",
    "advertise_host",
    metavar="HOST",
    help="The same, as the other gateway reaches it  [default: that of --bind]",
)
@click.option(
    "--bind-lan",
    "bind_lan_host",
    metavar="HOST",
    help="Address that this facility's consumer applications connect to, in the clear  "
    f"[default: {_LOOPBACK}]",
)
@click.option(
    "--advertise-lan",
    "advertise_lan_host",
    metavar="HOST",
    help="The same, as the applications reach it  [default: that of --bind-lan]",
)
@click.option(
    "--listener-ip",
    "listener_host",
    metavar="HOST",
    help="--bind, --advertise and --bind-lan at once, for data in and out at one address; each of them wins "
    "over it.",
)
@click.option(
    "--port-range",
    metavar="FIRST-LAST",
    default="5100-5200",
    show_default=True,
    help="For data listeners; 0: any ports.",
)
@click.option(
    "--advertise-port-range",
    metavar="FIRST-LAST",
    help="The same, as others reach them (address translation, NodePort): as many, in the same order.",
)
@click.option(
    "--certificate",
    "--server-crt",
    type=_FILE,
    default="server.crt",
    show_default=True,
    help="TLS certificate, PEM.",
)
@click.option(
    "--private-key",
    "--server-key",
    type=_FILE,
    default="server.key",
    show_default=True,
    help="Its key, mode 0600.",
)
@click.option(
    "--ssl",
    "tls",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=True,
    show_default=True,
    metavar="BOOL",
    help="TLS on the port for calls. --ssl=False is for this machine, or needs --insecure: tokens are "
    "readable on the way then.",
)
@click.option(
    "--data-server",
    "--type",
    metavar="NAME",
    default="native",
    show_default=True,
    help="What forwards the data, in any case of letters. Native is our own and needs nothing installed; "
    "SciStream's documents have Haproxy as the default.",
)
@click.option("--auth", help="How users are known: shared-key, or none (this machine only). Must be said.")
@click.option("--auth-file", type=_FILE, help="For shared-key: hashes of the tokens; see s2cs token.")
@click.option("--client-id", metavar="ID", help="For Globus login, not in this version: refused.")
@click.option("--client-secret", metavar="SECRET", help="The same.")
@click.option("--insecure", is_flag=True, help="Allow --auth none and --ssl=False beyond this machine.")
@click.option(
    "--encryption",
    type=click.Choice([one.value for one in Encryption]),
    default=Encryption.REQUIRED.value,
    show_default=True,
    help="Of the data between the gateways.",
)
@click.option(
    "--capacity",
    "capacity_mbps",
    type=float,
    metavar="MBPS",
    default=0,
    help="What all sessions together may reserve by their rates, in Mb/s  [default: without limit]",
)
@click.option("--pace", is_flag=True, help="Hold each session to the rate that it has asked for.")
@click.option(
    "--hello-timeout-s",
    type=_SECONDS,
    default=_LIMITS.hello_timeout_s,
    show_default=True,
    help="Wait for the application this long.",
)
@click.option(
    "--update-timeout-s",
    type=_SECONDS,
    default=_LIMITS.update_timeout_s,
    show_default=True,
    help="Then for the user this long.",
)
@click.option(
    "--early-hello-timeout-s",
    type=_SECONDS,
    default=_LIMITS.early_hello_timeout_s,
    show_default=True,
    help="An application that comes before its request waits this long, then has to ask again.",
)
@click.option(
    "--queue-timeout-s",
    type=_SECONDS,
    default=_LIMITS.queue_timeout_s,
    show_default=True,
    help="A request that has asked to be queued waits for capacity this long.",
)
@click.option(
    "--idle-timeout-s",
    type=_SECONDS,
    default=_LIMITS.idle_timeout_s,
    help="End a session that has carried nothing for this long  [default: never]",
)
@click.option(
    "--lifetime-s",
    type=_SECONDS,
    default=_LIMITS.lifetime_s,
    help="End every session after this long, unless it is renewed  [default: never]",
)
@click.option(
    "--state-dir",
    type=_DIRECTORY,
    metavar="DIR",
    help="Sessions are kept here, so that they outlive this process  [default: $STATE_DIRECTORY, or "
    "$XDG_STATE_HOME/scistream/s2cs-PORT, or ~/.local/state/scistream/s2cs-PORT; none for port 0]",
)
@click.option("--no-state", is_flag=True, help="Keep nothing: all streams end with this process.")
@click.option(
    "--orphan-limit-s",
    type=_SECONDS,
    default=86_400.0,
    show_default=True,
    help="Streams whose control server has died and is not started again end after this long.",
)
@click.option(
    "--on-terminate",
    type=click.Choice([one.value for one in StopMode]),
    default=StopMode.DRAIN.value,
    show_default=True,
    help="SIGTERM: drain lets streams finish, keep leaves them running for the next start, release ends "
    "them at once. SIGINT always releases.",
)
@click.option(
    "--drain-timeout-s",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="Time for the end by SIGTERM, at most.",
)
@options.json_option("Print events as JSON lines on stdout: ready, done, error.")
@options.config_option()
@options.verbose_option(logging.INFO, "--v")
def start(
    listen: str | None,
    port: int | None,
    bind_host: str | None,
    advertise_host: str | None,
    bind_lan_host: str | None,
    advertise_lan_host: str | None,
    listener_host: str | None,
    port_range: str,
    advertise_port_range: str | None,
    certificate: Path,
    private_key: Path,
    tls: bool,
    data_server: str,
    auth: str | None,
    auth_file: Path | None,
    client_id: str | None,
    client_secret: str | None,
    insecure: bool,
    encryption: str,
    capacity_mbps: float,
    pace: bool,
    hello_timeout_s: float,
    update_timeout_s: float,
    early_hello_timeout_s: float,
    queue_timeout_s: float,
    idle_timeout_s: float,
    lifetime_s: float,
    state_dir: Path | None,
    no_state: bool,
    orphan_limit_s: float,
    on_terminate: str,
    drain_timeout_s: float,
    as_json: bool,
) -> None:
    """Start the control server, and run until SIGINT or SIGTERM.

    Killed or restarted, it leaves the streams running and finds them again when it is started with the same
    state directory. A second signal while it ends kills it at once: what is kept in a state directory then
    survives as after a crash.

    \b
    Example, on one machine:
      s2cs start --listen 127.0.0.1:5000 --auth shared-key --auth-file tokens.toml

    \b
    A gateway with the address 192.0.2.7 outside and 10.0.1.1 inside, where its applications are:
      s2cs start --auth shared-key --auth-file tokens.toml --bind 192.0.2.7 --bind-lan 10.0.1.1

    \b
    As SciStream's documents write it (who may use it has to be said too):
      s2cs --listener-ip 192.0.2.7 --type Native --port 5000 --port-range 5100-5200 \\
          --server_crt server.crt --server_key server.key --auth shared-key --auth-file tokens.toml
    """
    with options.error_events(enabled=as_json):
        # what is missing is said before gRPC is imported, and all with the command that makes it
        _refuse_globus(client_id, client_secret)
        if auth is None:
            raise ConfigurationError(
                "who may use this gateway is not said; make a token with 's2cs token NAME --auth-file "
                "tokens.toml --out NAME.token' and start with '--auth shared-key --auth-file tokens.toml' "
                "(or '--auth none --listen 127.0.0.1:5000', for tests on this machine)"
            )
        for what, path in (("certificate", certificate), ("private key", private_key)):
            if tls and not path.exists():
                raise ConfigurationError(
                    f"the {what} {path} is not there; make both with 's2cs cert --host NAME --out "
                    f"{certificate.parent}', NAME being what users call this host, or give --certificate and "
                    "--private-key"
                )
        data_server = _find_data_server(data_server)
        address = _address(listen, port)
        if not tls:
            _check_plain(address, insecure=insecure)
        if no_state and state_dir is not None:
            raise click.UsageError("--state-dir and --no-state exclude each other")
        if state_dir is None and not no_state:
            state_dir = default_state_dir(address.port)

        from scistream.config import ControlServerConfig, PortRange
        from scistream.control.server import check_exposure

        bind_host = bind_host or listener_host or address.host
        config = ControlServerConfig(
            listen=address,
            tls=tls,
            certificate=certificate,
            private_key=private_key,
            bind_host=bind_host,
            advertise_host=advertise_host or listener_host or bind_host,
            bind_lan_host=bind_lan_host or listener_host or _LOOPBACK,
            advertise_lan_host=advertise_lan_host,
            ports=PortRange.parse(port_range),
            advertised_ports=PortRange.parse(advertise_port_range) if advertise_port_range else None,
            data_server=data_server,
            authenticator=auth,
            authenticator_settings={"file": str(auth_file)} if auth_file else {},
            encryption=Encryption(encryption),
            capacity_mbps=capacity_mbps,
            pace=pace,
            limits=Limits(
                hello_timeout_s=hello_timeout_s,
                update_timeout_s=update_timeout_s,
                early_hello_timeout_s=early_hello_timeout_s,
                queue_timeout_s=queue_timeout_s,
                idle_timeout_s=idle_timeout_s,
                lifetime_s=lifetime_s,
            ),
            state_dir=state_dir,
            orphan_limit_s=orphan_limit_s,
            on_terminate=StopMode(on_terminate),
            drain_timeout_s=drain_timeout_s,
        )
        check_exposure(config, insecure=insecure)
        asyncio.run(_serve(config, as_json=as_json))


def default_state_dir(port: int) -> Path | None:
    """Return where a control server on `port` keeps its sessions if nothing is said; None for port 0.

    systemd sets ``STATE_DIRECTORY`` for a unit with that option; the rest is the XDG specification.

    Raises
    ------
    ConfigurationError
        This user has no home.
    """
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if port == 0:  # the next start would not find it again
        return None
    directory = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not directory.is_absolute():  # the specification ignores relative ones
        try:
            directory = Path("~/.local/state").expanduser()
        except RuntimeError as error:
            raise ConfigurationError(
                "this user has no home where sessions could be kept; give --state-dir DIR, or --no-state"
            ) from error
    return directory / "scistream" / f"s2cs-{port}"


def _address(listen: str | None, port: int | None) -> Endpoint:
    if listen is None:
        return Endpoint("0.0.0.0", _PORT if port is None else port)  # noqa: S104 - a gateway serves others
    address = Endpoint.parse(listen, default_port=port)
    if port not in {None, address.port}:
        raise click.UsageError(f"--listen {listen} and --port {port} name different ports")
    return address


def _check_plain(address: Endpoint, *, insecure: bool) -> None:
    if not insecure and not is_loopback(address.host):
        raise ConfigurationError(
            f"--ssl=False on {address.host} would send the users' tokens over the network in the clear; "
            "leave it out, listen on 127.0.0.1, or insist with --insecure"
        )
    logger.warning("TLS is off: tokens for %s are readable on the way", address)


def _find_data_server(name: str) -> str:
    """Return the installed data server that `name` means, whatever the case of its letters."""
    from scistream.dataserver.registry import installed

    names = installed()
    found = [one for one in names if one.lower() == name.strip().lower()]
    if not found:
        raise ConfigurationError(
            f"data server {name!r} is not available in this installation; there are: "
            f"{', '.join(names) or 'none'}; the default is native, which needs nothing else installed"
        )
    return found[0]


def _refuse_globus(client_id: str | None, client_secret: str | None) -> None:
    if client_id is not None or client_secret is not None:
        raise ConfigurationError(
            "login by Globus (--client-id, --client-secret) is not available in this version; leave these "
            "out and use tokens of this gateway: 's2cs token NAME --auth-file tokens.toml --out "
            "NAME.token', then '--auth shared-key --auth-file tokens.toml'"
        )


def _tune_garbage_collection() -> None:
    """Leave what is loaded alone, and look at the rest less often: sessions hold no cycles worth a search.

    A burst of calls spends a sixth of its time in the collector otherwise.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _serve(config: ControlServerConfig, *, as_json: bool) -> NoReturn:
    """Serve until a signal; its kind says what becomes of the sessions.

    Raises
    ------
    StoppedBySignal
        It has ended by the signal. A second one ends the process itself, at once.
    """
    from scistream.control.server import ControlServer

    with options.StopSignals() as signals:
        server = ControlServer(config)
        await options.unless_stopped(server.start(), signals)
        _tune_garbage_collection()
        mode = StopMode.RELEASE
        try:
            if as_json:
                options.emit(
                    "ready",
                    address=str(server.address),
                    advertise=config.advertise_host,
                    advertise_lan=config.lan_host,
                    data_server=config.data_server,
                    encryption=config.encryption.value,
                    auth=config.authenticator,
                    tls=config.tls,
                    state_dir=None if config.state_dir is None else str(config.state_dir),
                    recovered=server.recovered,
                    pid=os.getpid(),
                )
            signum = await signals.wait()
            if signum == signal.SIGTERM:
                mode = config.on_terminate
        finally:
            await server.stop(mode)
        if as_json:
            options.emit("done", signal=signal.Signals(signum).name, mode=mode.value)
        raise options.StoppedBySignal(signum)
