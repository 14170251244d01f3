"""The command ``s2cs start``: the life of the server's process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING, Any, NoReturn

import click

from scistream.cli.auth_options import with_auth_settings
from scistream.cli.data_server_options import with_settings
from scistream.cli.output import emit, error_events
from scistream.cli.running import StoppedBySignal, StopSignals, unless_stopped
from scistream.cli.s2cs_options import start_options
from scistream.cli.s2cs_settings import Settings
from scistream.config import StopMode

if TYPE_CHECKING:
    from scistream.config import ControlServerConfig


@click.command()
@start_options
@with_settings
@with_auth_settings
def start(*, as_json: bool, **values: Any) -> None:
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

    With --policy or --audit, SIGHUP reads the policy and opens the audit again; without both it ends the
    process, as any other program.

    \b
    As SciStream's documents write it (who may use it has to be said too):
      s2cs --listener-ip 192.0.2.7 --type Native --port 5000 --port-range 5100-5200 \\
          --server_crt server.crt --server_key server.key --auth shared-key --auth-file tokens.toml
    """
    with error_events(enabled=as_json):
        # what is missing is said before gRPC is imported
        settings = Settings(**values)
        config = settings.config()

        from scistream.control.server import check_exposure

        check_exposure(config, insecure=settings.insecure)
        asyncio.run(_serve(config, as_json=as_json))


def _tune_garbage_collection() -> None:
    """Exempt all that exists now from the search for garbage, and search what comes less often.

    What is garbage by now stays for good: modules and options leave little. A burst of calls spends a sixth
    of its time in the search otherwise; memory that is in no cycle is freed at once in any case.
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
    from scistream.dataserver.descriptors import raise_descriptor_limit

    raise_descriptor_limit()  # every request that waits is a connection
    with StopSignals() as signals:
        server = ControlServer(config)
        await unless_stopped(server.start(), signals)
        if config.policy is not None or config.audit is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
        _tune_garbage_collection()
        mode = StopMode.RELEASE
        try:
            if as_json:
                emit(
                    "ready",
                    address=str(server.address),
                    advertise=config.advertise_host,
                    advertise_lan=config.lan_host,
                    data_server=config.data_server,
                    encryption=config.encryption.value,
                    auth=list(config.authenticators),
                    mtls_address=None if server.mtls_address is None else str(server.mtls_address),
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
            emit("done", signal=signal.Signals(signum).name, mode=mode.value)
        raise StoppedBySignal(signum)
