"""The life of a control server: start everything in order, serve, end everything in order.

Start: TLS files and authenticator are read, the control port is taken, the data server backend is opened,
calls are served. Whatever fails undoes what came before. End: new calls are refused, every session is
released, the calls still running get their answers, the backend is closed; each step has a bounded time.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from scistream.auth.registry import load_authenticator
from scistream.auth.secret_files import read_secret_file
from scistream.config import ControlServerConfig, is_loopback
from scistream.control.gateway import Gateway, Network
from scistream.control.listeners import resolve
from scistream.control.runtime import Runtime
from scistream.control.service import ControlService
from scistream.core.endpoint import Endpoint
from scistream.core.session import Encryption
from scistream.core.table import SessionTable
from scistream.dataserver.base import DataServerBackend
from scistream.dataserver.registry import create_backend
from scistream.errors import ConfigurationError, ResourceExhausted
from scistream.wire.scistream_pb2_grpc import add_ControlServicer_to_server

logger = logging.getLogger(__name__)

_OPTIONS = [
    # a second server on the same port must fail, not share the calls
    ("grpc.so_reuseport", 0),
    # waiting REQs are cheap here; with gRPC's own limits a burst above 2,000 is answered CANCELLED
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
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
        self._address: Endpoint | None = None

    @property
    def address(self) -> Endpoint:
        """Where it serves, with the real port."""
        if self._address is None:
            raise ConfigurationError("the control server has not been started")
        return self._address

    async def start(self) -> None:
        """Start serving.

        Raises
        ------
        ConfigurationError
            TLS files, authenticator, data server or addresses cannot be used.
        ResourceExhausted
            Somebody else has the port.
        DataServerError
            The data server backend does not start.
        """
        config = self._config
        authenticator = load_authenticator(config.authenticator, config.authenticator_settings)
        if not authenticator.proves_identity:
            logger.warning("authentication is off: whoever reaches %s may use this gateway", config.listen)
        if config.encryption is not Encryption.REQUIRED:
            logger.warning("encryption is %s: sessions may cross the network in the clear", config.encryption)
        credentials = _tls_credentials(config)
        backend = self._given_backend or create_backend(config.data_server)
        gateway = Gateway(
            wan=Network(bind=resolve(config.bind_host), advertise_host=config.advertise_host),
            lan=Network(bind=resolve(config.bind_lan_host, "--bind-lan"), advertise_host=config.lan_host),
            backend=backend,
            data_server=config.data_server,
            encrypts=config.encryption is not Encryption.NONE,
        )
        table = SessionTable(config.ports.pool(), encryption=config.encryption, limits=config.limits)
        self._runtime = Runtime(table, gateway)
        self._server = grpc.aio.server(options=_OPTIONS)
        service = ControlService(self._runtime, authenticator)
        add_ControlServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        try:
            port = self._server.add_secure_port(str(config.listen), credentials)
        except RuntimeError as error:
            await self._server.stop(None)
            raise ResourceExhausted(
                f"{config.listen} cannot be listened on: another program (another s2cs?) has the port, "
                "or the address is not this machine's; choose another with --listen HOST:PORT"
            ) from error
        try:
            await backend.open()
            await self._server.start()
        except BaseException:
            await self._server.stop(None)
            await backend.close()
            raise
        self._backend = backend
        self._address = Endpoint(config.listen.host, port)
        logger.info(
            "serving on %s; listeners for gateways on %s, advertised as %s, for applications on %s, "
            "advertised as %s; data server %s, encryption %s",
            self._address,
            config.bind_host,
            config.advertise_host,
            config.bind_lan_host,
            config.lan_host,
            config.data_server,
            config.encryption,
        )

    async def stop(self) -> None:
        """Release all sessions and end everything. Idempotent, bounded in time."""
        if self._server is None or self._runtime is None or self._backend is None:
            return
        logger.info("shutting down")
        await self._runtime.close(self._config.drain_timeout_s)
        await self._server.stop(_GRACE_S)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._backend.close()
        except TimeoutError:
            logger.warning("the data server backend has not closed within %g s", _CLOSE_TIMEOUT_S)
        self._server = None
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


def check_exposure(config: ControlServerConfig, *, insecure: bool) -> None:
    """Refuse to serve strangers: without authentication, only loopback is served unless `insecure`.

    Raises
    ------
    ConfigurationError
        The configuration would.
    """
    authenticator = load_authenticator(config.authenticator, config.authenticator_settings)
    if authenticator.proves_identity or insecure or is_loopback(config.listen.host):
        return
    raise ConfigurationError(
        f"--auth {config.authenticator} on {config.listen.host} would let anybody who reaches it use this "
        "gateway; use --auth shared-key, listen on 127.0.0.1, or insist with --insecure"
    )


def _tls_credentials(config: ControlServerConfig) -> grpc.ServerCredentials:
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
    return grpc.ssl_server_credentials([(key_pem, certificate_pem)])
