"""What TLS is to the relay: bytes in, bytes out, no sockets. Two engines fulfil it.

A `TlsContext` is built once per session from its credentials and gives one `TlsEngine` per connection. The
engines work on the worker's `Scratch` buffers, so that a connection owns no buffer of that size.

The rules that both engines keep: TLS 1.3 only; the peer proves the one certificate that this session
pinned, compared byte by byte after OpenSSL has verified it against that certificate as the only trust
anchor; AES-128-GCM preferred (the fastest where the CPU has AES instructions); no resumption.

Which engine: `openssl` (the OpenSSL inside the cryptography wheel, newer than most systems') took 0.58 CPU
seconds per gigabyte for two hops where `stdlib` (the ssl module, here with OpenSSL 3.0) took 0.92 and haproxy
0.89; it uses names that are private to pyOpenSSL, so the other one stays, for when they change. `kernel` is
`openssl` until the handshake is over; then the kernel has the keys, and the bytes do not enter this process.
`choose_engine` takes the first one that works.
"""

from __future__ import annotations

import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from scistream.dataserver.base import TlsCredentials
from scistream.dataserver.native.tls_records import RecordBoundaries
from scistream.errors import ConfigurationError, DataServerError

logger = logging.getLogger(__name__)

BATCH_BYTES = 256 * 1024
"""Read, sealed or opened, and written at once."""
_ROOM_BYTES = 64 * 1024
"""More than 17 records' overhead when sealing, and more than one unfinished record when opening."""

CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

ENGINES = ("kernel", "openssl", "stdlib")
"""The first that works is taken."""

_HANDSHAKE_READ_BYTES = 16 * 1024


class TlsError(DataServerError):
    """The peer is not who it should be, or what it sends is not TLS."""


class Scratch:
    """The two buffers in which a worker does one step at a time for all its connections."""

    def __init__(self) -> None:
        self.input = bytearray(BATCH_BYTES)
        self.output = bytearray(BATCH_BYTES + _ROOM_BYTES)
        self.input_view = memoryview(self.input)
        self.output_view = memoryview(self.output)


class TlsEngine(ABC):
    """One connection's TLS state. Everything that is to be sent is returned, and must be sent in order.

    Attributes
    ----------
    peer_has_ended : bool
        The peer's close_notify was met: its stream is complete.
    failure : str or None
        Why nothing more can be opened: what came is not from the peer, or it says that it gives up.
    handshake_bytes : int
        How much the next `handshake` takes at most.
    records : RecordBoundaries or None
        Where the peer's records begin and end, if it may end its stream by TCP's end alone.
    """

    peer_has_ended: bool = False
    failure: str | None = None
    handshake_bytes: int = _HANDSHAKE_READ_BYTES
    records: RecordBoundaries | None = None

    @abstractmethod
    def handshake(self, received: bytes) -> tuple[bool, bytes]:
        """Take what came; return whether the handshake is complete, and what to send.

        Raises
        ------
        TlsError
            The peer is refused. `pending` has the alert for it.
        """

    @abstractmethod
    def seal(self, length: int) -> int:
        """Encrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there."""

    @abstractmethod
    def open(self, length: int) -> int:
        """Decrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there.

        Look at `peer_has_ended` and `failure` after it.
        """

    @abstractmethod
    def preface(self, received: bytes, length: int) -> bytes:
        """Decrypt at most the next `length` bytes, of which `received` may be a part; keep what follows.

        For what the two sides say before the stream. What follows is had by ``open(0)``. Look at
        `peer_has_ended` and `failure` after it.
        """

    @abstractmethod
    def pending(self) -> bytes:
        """Return what TLS itself has to say (alerts, key updates); mostly nothing."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the close_notify; nothing may be sealed afterwards, opening goes on."""

    def hand_over(self, sock: socket.socket) -> bool:  # noqa: ARG002 - nor does every engine do this
        """Let the kernel seal and open what passes `sock`, after the handshake; return whether it does.

        If it does, the engine is not used any more; if not, it goes on.

        Raises
        ------
        TlsError
            The connection can be used neither way.
        """
        return False

    def shrink(self) -> None:  # noqa: B027 - not every engine holds something
        """Free what an idle connection does not need."""

    @abstractmethod
    def free(self) -> None:
        """Free everything at once; nothing may be called any more.

        Relays and flows know each other, so that Python frees them when it next looks for such circles. It
        does not see how much an engine holds outside of Python, and so looks too late.
        """


class TlsContext(ABC):
    """One session's credentials, ready for connections."""

    def __init__(self, credentials: TlsCredentials) -> None:
        self._peer_omits_close_notify = credentials.peer_omits_close_notify

    def engine(self, scratch: Scratch) -> TlsEngine:
        """Return the engine for a new connection."""
        engine = self.new_engine(scratch)
        if self._peer_omits_close_notify:
            engine.records = RecordBoundaries()
        return engine

    @abstractmethod
    def new_engine(self, scratch: Scratch) -> TlsEngine:
        """Return an engine that has not begun."""


def make_context(credentials: TlsCredentials, engine: str) -> TlsContext:
    """Return the session's context, by the engine of that name.

    Raises
    ------
    ConfigurationError
        A certificate or key cannot be used, or the engine is not there.
    """
    return load_engine(engine)(credentials)


def load_engine(name: str) -> Callable[[TlsCredentials], TlsContext]:
    """Import an engine; return what makes its contexts.

    Raises
    ------
    ConfigurationError
        The name is none of `ENGINES`, or that engine does not work with what is installed.
    """
    if name not in ENGINES:
        raise ConfigurationError(f"no TLS engine {name!r}; there are: {', '.join(ENGINES)}")
    try:
        if name == "kernel":
            from scistream.dataserver.native.tls_kernel import KernelContext

            return KernelContext
        if name == "openssl":
            from scistream.dataserver.native.tls_openssl import OpensslContext

            return OpensslContext
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the TLS engine {name!r} does not work here: {error}") from error
    from scistream.dataserver.native.tls_stdlib import StdlibContext

    return StdlibContext


def choose_engine(wish: str | None) -> str:
    """Return the name of the engine to use, and log it.

    Parameters
    ----------
    wish : str or None
        None: the first of `ENGINES` that works; log lines say why one does not.

    Raises
    ------
    ConfigurationError
        The one that is wished for is none of `ENGINES`, or does not work here.
    """
    name = wish or _first_that_works()
    load_engine(name)
    if wish == "kernel" and (reason := _why_no_kernel_tls()):
        raise ConfigurationError(f"the TLS engine 'kernel' does not work here: TLS of the kernel is {reason}")
    logger.info("TLS between gateways by the engine %r", name)
    return name


def _first_that_works() -> str:
    try:
        load_engine("openssl")
    except ConfigurationError as error:
        logger.warning("TLS by the ssl module, which is slower: %s", error)
        return "stdlib"
    if reason := _why_no_kernel_tls():
        logger.info("TLS of the kernel is not used: %s", reason)
        return "openssl"
    return "kernel"


def _why_no_kernel_tls() -> str:
    from scistream.dataserver.native.tls_kernel import why_no_kernel_tls

    return why_no_kernel_tls()
