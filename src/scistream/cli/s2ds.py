"""The command ``s2ds``: the native data server by itself, as a relay between fixed addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scistream.cli import options
from scistream.cli.completion import completion
from scistream.cli.config_file import config_option
from scistream.cli.data_server_options import native_options
from scistream.cli.output import emit, error_events
from scistream.cli.running import run_program, run_until_done
from scistream.cli.sockets import listen_at
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, DataServerError

if TYPE_CHECKING:
    from scistream.dataserver import ChannelStatistics, TlsCredentials

_FILE = click.Path(dir_okay=False, path_type=Path)
_UID = "s2ds"
_LEGS = ("listener", "target")


@click.group(context_settings=options.CONTEXT_SETTINGS)
@options.version_option()
def s2ds() -> None:
    """Carry TCP streams through a gateway, encrypted on the wide-area leg if wanted.

    Control servers (s2cs) start their data servers by themselves. Alone, `forward` is a static relay, to try
    a path or to measure it.

    \b
    Example:
      s2ds forward --listen 0.0.0.0:5100 --target 10.0.1.5:5001
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encryption:
    """The options that belong together; all of them or none."""

    leg: str | None
    certificate: Path | None
    private_key: Path | None
    peer_certificate: Path | None

    def credentials(self) -> TlsCredentials | None:
        """Return what the files hold.

        Raises
        ------
        ConfigurationError
            Some of the options are missing, or a file cannot be read.
        """
        from scistream.dataserver import TlsCredentials, TlsLeg

        given = {
            "--tls-leg": self.leg,
            "--certificate": self.certificate,
            "--private-key": self.private_key,
            "--peer-certificate": self.peer_certificate,
        }
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        if self.leg is None or not self.certificate or not self.private_key or not self.peer_certificate:
            raise ConfigurationError(f"encryption needs {', '.join(missing)} as well")
        try:
            return TlsCredentials(
                leg=TlsLeg(self.leg),
                certificate_pem=self.certificate.read_bytes(),
                private_key_pem=self.private_key.read_bytes(),
                peer_certificate_pem=self.peer_certificate.read_bytes(),
            )
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error


@s2ds.command()
@click.option("--listen", "listen", multiple=True, required=True, help="HOST:PORT; repeat it for channels.")
@click.option("--target", "targets", multiple=True, required=True, help="HOST:PORT; channel i gets the ith.")
@click.option(
    "--tls-leg",
    type=click.Choice(_LEGS),
    help="The leg that is encrypted (TLS 1.3, both sides prove themselves); the other stays plain.",
)
@click.option("--certificate", type=_FILE, help="This side's certificate (PEM).")
@click.option("--private-key", type=_FILE, help="Its key (PEM).")
@click.option("--peer-certificate", type=_FILE, help="The only certificate accepted from the other side.")
@click.option(
    "--wan-leg",
    type=click.Choice(_LEGS),
    help="The leg between the facilities, if it is not encrypted  [default: that of --tls-leg]",
)
@native_options
@click.option(
    "--statistics-interval",
    type=click.FloatRange(min=0.2),
    help="Show what was carried every so many seconds.",
)
@options.json_option("Print events as JSON lines.")
@config_option()
@options.verbose_option()
def forward(
    listen: tuple[str, ...],
    targets: tuple[str, ...],
    tls_leg: str | None,
    certificate: Path | None,
    private_key: Path | None,
    peer_certificate: Path | None,
    wan_leg: str | None,
    native_settings: dict[str, object],
    statistics_interval: float | None,
    as_json: bool,
) -> None:
    """Forward every connection that comes to a listener to its target, until interrupted.

    \b
    Examples:
      One plain channel:
        s2ds forward --listen 127.0.0.1:5100 --target 10.0.1.5:5001
      An encrypted hop: the producer's gateway, then the consumer's
        s2ds forward --listen 0.0.0.0:5100 --target 10.0.1.5:5001 --tls-leg listener \\
            --certificate prod.crt --private-key prod.key --peer-certificate cons.crt
        s2ds forward --listen 127.0.0.1:6100 --target gateway.example:5100 --tls-leg target \\
            --certificate cons.crt --private-key cons.key --peer-certificate prod.crt

    Port 0 takes a free port, which the output names.
    """
    encryption = _Encryption(
        leg=tls_leg, certificate=certificate, private_key=private_key, peer_certificate=peer_certificate
    )
    relay = _Relay(
        listen=[Endpoint.parse(text) for text in listen],
        targets=[Endpoint.parse(text) for text in targets],
        tls=encryption.credentials(),
        wan_leg=wan_leg,
        statistics_interval_s=statistics_interval,
        as_json=as_json,
    )
    with error_events(enabled=as_json):
        run_until_done(lambda: relay.run(native_settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relay:
    """One run of ``forward``."""

    listen: Sequence[Endpoint]
    targets: Sequence[Endpoint]
    tls: TlsCredentials | None
    wan_leg: str | None
    statistics_interval_s: float | None
    as_json: bool

    async def run(self, backend_options: dict[str, object]) -> None:
        """Forward until cancelled, or until the data server dies."""
        from scistream.dataserver import DataServerSpec, TlsLeg, create_backend

        with contextlib.ExitStack() as stack:
            wan_leg = None if self.wan_leg is None else TlsLeg(self.wan_leg)
            from_wan = TlsLeg.LISTENER in {wan_leg, self.tls.leg if self.tls else None}
            backend = create_backend("native", backend_options)
            multipath = backend.multipath_listeners and from_wan
            listeners = [
                stack.enter_context(listen_at(endpoint, multipath=multipath)) for endpoint in self.listen
            ]
            try:
                await backend.open()
                server = backend.create()
                spec = DataServerSpec(
                    uid=_UID,
                    listeners=tuple(listeners),
                    targets=tuple(self.targets),
                    tls=self.tls,
                    wan_leg=wan_leg,
                )
                await server.start(spec)
                self._show_ready(listeners)
                watching = asyncio.ensure_future(server.wait())
                try:
                    async for channels in _samples(server.statistics, watching, self.statistics_interval_s):
                        self._show("progress", channels)
                    raise DataServerError(await watching)
                except asyncio.CancelledError:
                    self._show("done", await server.statistics())
                    raise
                finally:
                    watching.cancel()
                    await server.stop()
            finally:
                await backend.close()

    def _show_ready(self, listeners: Sequence[socket.socket]) -> None:
        bound = [Endpoint(*listener.getsockname()[:2]) for listener in listeners]
        targets = [self.targets[index % len(self.targets)] for index in range(len(bound))]
        if self.as_json:
            emit(
                "ready",
                listeners=[str(one) for one in bound],
                targets=[str(one) for one in targets],
                encrypted=self.tls is not None,
            )
            return
        for listener, target in zip(bound, targets, strict=True):
            click.echo(f"{listener} -> {target}")

    def _show(self, event: str, channels: Sequence[ChannelStatistics]) -> None:
        if self.as_json:
            emit(event, channels=[asdict(channel) for channel in channels])
        elif self.statistics_interval_s is not None or event == "done":
            to_target = sum(channel.bytes_to_target for channel in channels)
            from_target = sum(channel.bytes_from_target for channel in channels)
            total = sum(channel.connections_total for channel in channels)
            failed = sum(channel.connections_failed for channel in channels)
            click.echo(
                f"{total} connections ({failed} failed), {to_target} bytes to the target, {from_target} back"
            )


async def _samples(
    statistics: Callable[[], Awaitable[tuple[ChannelStatistics, ...]]],
    ended: asyncio.Future[str],
    interval_s: float | None,
) -> AsyncIterator[tuple[ChannelStatistics, ...]]:
    """Yield the statistics every `interval_s` (never if None) until `ended`."""
    while True:
        await asyncio.wait({ended}, timeout=interval_s)
        if ended.done():
            return
        yield await statistics()


s2ds.add_command(completion)


def main() -> None:
    """Run ``s2ds``."""
    run_program(s2ds, "s2ds")


if __name__ == "__main__":  # for programs that start it by this interpreter
    main()
