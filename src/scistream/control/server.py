"""The life of a control server: start everything in order, serve, end everything in order.

Start: TLS files and authenticator are read, the state directory is locked, the control port is taken, the
data server backend is opened, the sessions of an earlier control server are found again, calls are served.
Whatever fails undoes what came before. End: new requests are refused; sessions are released, drained or let
go of; the calls still running get their answers, the backend is closed; each step has a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from types import TracebackType

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from scistream.auth.chain import Chain, load_chain
from scistream.auth.secret_files import read_secret_file
from scistream.config import ControlServerConfig, StopMode, is_loopback
from scistream.control.audit import Audit, Entry
from scistream.control.authorisation import Authorisation
from scistream.control.callers import Callers
from scistream.control.gateway import Gateway, Network
from scistream.control.journal import MOVE_AWAY, Journal
from scistream.control.left_running import check_known
from scistream.control.listeners import resolve
from scistream.control.runtime import Runtime
from scistream.control.service import ControlService
from scistream.control.state_dir import StateDirectory
from scistream.core.endpoint import Endpoint
from scistream.core.reservation import Capacity
from scistream.core.session import Encryption, Session
from scistream.core.table import SessionTable
from scistream.dataserver.base import DataServerBackend, Persistence
from scistream.dataserver.registry import create_backend
from scistream.errors import CallerError, ConfigurationError, ResourceExhausted

logger = logging.getLogger(__name__)

_OPTIONS = [
    # a second server on the same port must fail, not share the calls
    ("grpc.so_reuseport", 0),
    # waiting REQs are cheap here; with gRPC's own limits a burst above 2,000 is answered CANCELLED
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    # a token has 8 KiB at most, and little else comes
    ("grpc.max_metadata_size", 1 << 14),
    ("grpc.absolute_max_metadata_size", 1 << 15),
    # the largest message is an update with a certificate and 1,024 addresses
    ("grpc.max_receive_message_length", 1 << 19),
]

_GRACE_S = 1.0
_CLOSE_TIMEOUT_S = 10.0


class ControlServer:
    """One control server; an asynchronous context manager that serves between entry and exit.

    Parameters
    ----------
    config : ControlServerConfig
        What the operator wants.
    backend : DataServerBackend, optional
        Instead of the one that the configuration names.
    """

    def __init__(self, config: ControlServerConfig, *, backend: DataServerBackend | None = None) -> None:
        self._config = config
        self._given_backend = backend
        self._backend: DataServerBackend | None = None
        self._server: grpc.aio.Server | None = None
        self._runtime: Runtime | None = None
        self._authorisation: Authorisation | None = None
        self._audit: Audit | None = None
        self._state = contextlib.AsyncExitStack()
        self._addresses: list[Endpoint] = []
        self.recovered = 0
        """How many sessions of an earlier control server live on here."""

    @property
    def address(self) -> Endpoint:
        """Where it serves, with the real port."""
        if not self._addresses:
            raise ConfigurationError("the control server has not been started")
        return self._addresses[0]

    @property
    def mtls_address(self) -> Endpoint | None:
        """Where it serves callers with client certificates, if that is a port of its own."""
        return self._addresses[1] if len(self._addresses) > 1 else None

    async def start(self) -> None:
        """Start serving.

        Raises
        ------
        ConfigurationError
            TLS files, authenticator, policy, audit, data server, addresses or state directory cannot be used;
            or streams run that the journal does not know.
        ResourceExhausted
            Somebody else has the port, or another control server the state directory, which may be full.
        DataServerError
            The data server backend does not start.
        """
        try:
            await self._start()
        except BaseException:
            await self._state.aclose()
            raise

    async def _start(self) -> None:
        config = self._config
        authenticator = load_chain(config.authenticators)
        self._state.push_async_callback(authenticator.close)
        if not authenticator.proves_identity:
            logger.warning("authentication is off: whoever reaches %s may use this gateway", config.listen)
        ports = _control_ports(config, authenticator)
        authorisation = Authorisation(
            config.policy, advertised=(config.listen.host, config.advertise_host, config.lan_host)
        )
        if authorisation.caps_rates and not config.pace:
            logger.warning("the policy limits rates, and without --pace nothing holds sessions to them")
        audit = Audit(config.audit)
        self._state.callback(audit.close)
        if config.encryption is not Encryption.REQUIRED:
            logger.warning("encryption is %s: sessions may cross the network in the clear", config.encryption)
        if not config.tls:
            logger.warning("the control port is not encrypted: tokens can be read on the way to it")
        backend = self._given_backend or create_backend(config.data_server, config.data_server_settings)
        _check_abilities(config, backend)
        state, journal, persistence = self._open_state()
        gateway = self._gateway(backend, state, authorisation)
        table = SessionTable(
            config.ports.pool(),
            encryption=config.encryption,
            limits=config.limits,
            capacity=Capacity(config.capacity_mbps),
            reverses=backend.reverses,
        )
        runtime = Runtime(table, gateway, journal, ended=lambda session: _note_end(audit, session))
        callers = Callers(
            authenticator,
            runtime.with_credential,
            calls_per_user=config.calls_per_user,
            calls_per_address=config.calls_per_address,
        )
        server = grpc.aio.server(options=_OPTIONS)
        service = ControlService(runtime, callers, authorisation, audit)
        server.add_generic_rpc_handlers((service.handler(),))
        addresses = []
        for option, endpoint, credentials in ports:
            try:
                if credentials is None:
                    port = server.add_insecure_port(str(endpoint))
                else:
                    port = server.add_secure_port(str(endpoint), credentials)
            except RuntimeError as error:
                await server.stop(None)
                raise ResourceExhausted(
                    f"{endpoint} cannot be listened on: another program (another s2cs?) has the port; "
                    f"choose another with {option} HOST:PORT"
                ) from error
            addresses.append(Endpoint(endpoint.host, port))
        own_ports = [address.port for address in addresses]

        def all_own_ports() -> Iterator[int]:
            yield from own_ports
            for port in runtime.held_ports():
                yield port
                yield gateway.advertised_ports.get(port, port)

        authorisation.own_ports = all_own_ports
        try:
            await backend.open(persistence)
            if state is not None and journal is not None:
                await self._recover(runtime, backend, state, journal)
            await server.start()
        except BaseException:
            await server.stop(None)
            # streams of an earlier control server go on, whatever is wrong with this one
            await runtime.close(StopMode.KEEP, 0)
            await (backend.close() if journal is None else backend.detach())
            raise
        self._server, self._runtime, self._backend = server, runtime, backend
        self._authorisation, self._audit = authorisation, audit
        self._addresses = addresses
        logger.info(
            "serving on %s; listeners for gateways on %s, advertised as %s, for applications on %s, "
            "advertised as %s; data server %s, encryption %s",
            ", ".join(map(str, addresses)),
            config.bind_host,
            config.advertise_host,
            config.bind_lan_host,
            config.lan_host,
            config.data_server,
            config.encryption,
        )

    def _open_state(self) -> tuple[StateDirectory | None, Journal | None, Persistence | None]:
        config = self._config
        if config.state_dir is None:
            return None, None, None
        state = StateDirectory(config.state_dir)
        self._state.callback(state.close)
        journal = Journal(state, config.data_server)
        self._state.callback(journal.close)
        return state, journal, Persistence(directory=state.data, orphan_limit_s=config.orphan_limit_s)

    def _gateway(
        self, backend: DataServerBackend, state: StateDirectory | None, authorisation: Authorisation
    ) -> Gateway:
        config = self._config
        ports, advertised = config.ports, config.advertised_ports
        multipath = backend.multipath_listeners and not config.pace  # the kernel cannot pace MPTCP
        return Gateway(
            wan=Network(
                bind=resolve(config.bind_host, multipath=multipath), advertise_host=config.advertise_host
            ),
            lan=Network(bind=resolve(config.bind_lan_host, "--bind-lan"), advertise_host=config.lan_host),
            backend=backend,
            data_server=config.data_server,
            encrypts=config.encryption is not Encryption.NONE,
            paces=config.pace,
            advertised_ports=(
                {}
                if advertised is None
                else dict(
                    zip(
                        range(ports.first, ports.last + 1),
                        range(advertised.first, advertised.last + 1),
                        strict=True,
                    )
                )
            ),
            authorisation=authorisation,
            state=state,
        )

    def reload(self) -> None:
        """Read the policy again and write the audit to the file that has its name now.

        A policy that cannot be used is said in the log, and the one before goes on.
        """
        if self._authorisation is not None and self._audit is not None:
            self._audit.reopen()
            self._authorisation.reload()

    async def _recover(
        self, runtime: Runtime, backend: DataServerBackend, state: StateDirectory, journal: Journal
    ) -> None:
        entries = journal.take_entries()
        check_known(await backend.left_running(), entries, journal.path)
        try:
            self.recovered, strays = await runtime.recover(entries, rebooted=journal.rebooted)
        except CallerError as error:
            raise ConfigurationError(
                f"the journal {journal.path} contradicts itself: {error}; {MOVE_AWAY}"
            ) from error
        living = (entry.session.key for entry in entries if not entry.session.state.ended)
        state.remove_keys_but({journal.number(key) for key in living})
        if entries:
            logger.info(
                "%d sessions of an earlier control server live on, %d are remembered",
                self.recovered,
                len(entries) - self.recovered,
            )
        if strays:
            logger.warning("%d data servers were ended: their sessions are over", strays)
        journal.recovered()

    async def stop(self, mode: StopMode = StopMode.RELEASE) -> None:
        """End everything; what becomes of the sessions says `mode`. Idempotent, bounded in time.

        Raises
        ------
        ConfigurationError
            Sessions are to be kept, and there is no state directory.
        """
        if self._server is None or self._runtime is None or self._backend is None:
            return
        if mode is StopMode.KEEP and self._config.state_dir is None:
            raise ConfigurationError("sessions cannot be kept: there is no state directory")
        logger.info("shutting down (%s)", mode)
        await self._runtime.close(mode, self._config.drain_timeout_s)
        await self._server.stop(_GRACE_S)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                if mode is StopMode.KEEP:
                    await self._backend.detach()
                else:
                    await self._backend.close()
        except TimeoutError:
            logger.warning("the data server backend has not closed within %g s", _CLOSE_TIMEOUT_S)
        self._server = None
        await self._state.aclose()
        logger.info("stopped")

    async def __aenter__(self) -> ControlServer:
        """Start serving."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()


def _note_end(audit: Audit, session: Session) -> None:
    """Write down how a session has ended; that cannot be refused, only missed."""
    try:
        audit.write(
            Entry(
                what="end",
                allowed=True,
                why=f"{session.state}: {session.reason}",
                session=session.key.uid,
                owner=session.key.owner,
            )
        )
    except ResourceExhausted:
        logger.warning("session %s: its end could not be written to the audit", session.key.uid)


def check_exposure(config: ControlServerConfig, *, insecure: bool) -> None:
    """Refuse to serve strangers: without authentication, only loopback is served unless `insecure`.

    Raises
    ------
    ConfigurationError
        The configuration would.
    """
    authenticator = load_chain(config.authenticators)
    if authenticator.proves_identity or insecure or is_loopback(config.listen.host):
        return
    raise ConfigurationError(
        f"--auth {', '.join(config.authenticators)} on {config.listen.host} would let anybody who reaches it "
        "use this gateway; use --auth shared-key, listen on 127.0.0.1, or insist with --insecure"
    )


def _control_ports(
    config: ControlServerConfig, authenticator: Chain
) -> list[tuple[str, Endpoint, grpc.ServerCredentials | None]]:
    """Return the ports to serve on: the option that sets it, where, and its TLS (None: without).

    gRPC cannot ask for a client certificate and do without: who has one gets a port of its own where others
    come with tokens.

    Raises
    ------
    ConfigurationError
        The TLS files cannot be used; or certificates are wanted where they cannot be asked for.
    """
    authorities = authenticator.client_authorities
    if config.listen_mtls is not None and (authorities is None or not authenticator.takes_tokens):
        raise ConfigurationError(
            f"--listen-mtls {config.listen_mtls} is for --auth mtls beside others; leave it out"
        )
    if not config.tls:
        if authorities is not None:
            raise ConfigurationError("--auth mtls needs TLS on the port for calls; leave --ssl=False out")
        return [("--listen", config.listen, None)]
    if authorities is None or not authenticator.takes_tokens:
        return [("--listen", config.listen, _tls_credentials(config, authorities))]
    if config.listen_mtls is None:
        raise ConfigurationError(
            "--auth mtls beside others needs a port of its own, for a TLS handshake with a client "
            "certificate; give --listen-mtls HOST:PORT"
        )
    return [
        ("--listen", config.listen, _tls_credentials(config, None)),
        ("--listen-mtls", config.listen_mtls, _tls_credentials(config, authorities)),
    ]


def _tls_credentials(config: ControlServerConfig, client_authorities: bytes | None) -> grpc.ServerCredentials:
    try:
        certificate_pem = config.certificate.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{config.certificate} cannot be read: {error.strerror}") from error
    key_pem = read_secret_file(config.private_key)
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem)[0]
    except ValueError as error:
        raise ConfigurationError(f"{config.certificate} holds no PEM certificate: {error}") from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{config.private_key} holds no unencrypted PEM key: {error}") from error
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*encoding) != certificate.public_key().public_bytes(*encoding):
        raise ConfigurationError(
            f"{config.private_key} is not the key of {config.certificate}; make both with: s2cs cert"
        )
    return grpc.ssl_server_credentials(
        [(key_pem, certificate_pem)],
        root_certificates=client_authorities,
        require_client_auth=client_authorities is not None,
    )


def _check_abilities(config: ControlServerConfig, backend: DataServerBackend) -> None:
    """Refuse what no session of this gateway could have; say what some cannot.

    Raises
    ------
    ConfigurationError
        The data server cannot do what the configuration asks for.
    """
    name = config.data_server
    if config.pace and not backend.paces:
        raise ConfigurationError(
            f"{name} cannot hold a session to its rate: leave --pace out, or use the native data server"
        )
    if config.pace and backend.multipath_listeners:
        logger.warning("the kernel cannot pace MPTCP: with --pace, listeners accept TCP only")
    if not backend.forwards_plain and config.encryption is not Encryption.REQUIRED:
        if config.encryption is Encryption.NONE:
            raise ConfigurationError(
                f"{name} forwards encrypted sessions only: leave --encryption none out, or use another data "
                "server"
            )
        logger.warning("%s forwards encrypted sessions only: plain ones are refused", name)
