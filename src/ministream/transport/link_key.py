"""Encryption of the pipeline's own links: CURVE of ZeroMQ, with one key for all programs of a run.

Whoever holds the key belongs to the run, and nobody else: the listening end proves that it has the server's
half, and takes only those that prove to have the client's. Everything between them is encrypted. One file
holds both halves, because every program listens to some of the others and connects to some.

CURVE is described in https://rfc.zeromq.org/spec/26/ (CurveZMQ), its handler of keys in
https://rfc.zeromq.org/spec/27/ (ZAP).
"""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from ministream.errors import InputError, OutputError

_FORMAT = "ministream link key 1"
_LIMIT_BYTES = 4096
_KEY_BYTES = 32
_DOMAIN = "ministream"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKey:
    """The key pairs of a run's listening and connecting ends, as ZeroMQ writes them (Z85)."""

    server_public: str
    server_secret: str = field(repr=False)
    client_public: str
    client_secret: str = field(repr=False)

    @classmethod
    def new(cls) -> LinkKey:
        """Return a new one."""
        (server_public, server_secret), (client_public, client_secret) = (
            (public.decode(), secret.decode())
            for public, secret in (zmq.curve_keypair(), zmq.curve_keypair())
        )
        return cls(
            server_public=server_public,
            server_secret=server_secret,
            client_public=client_public,
            client_secret=client_secret,
        )

    # ------------------------------------------------------------------ files

    def dump(self) -> bytes:
        """Return what `parse` reads."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> LinkKey:
        """Return the key that `dump` has written.

        Raises
        ------
        InputError
            It is none. The message holds nothing of the content.
        """
        try:
            found = json.loads(content)
            valid = found["format"] == _FORMAT
            key = cls(**{entry.name: found[entry.name] for entry in fields(cls)})
            halves = [getattr(key, entry.name) for entry in fields(cls)]
            valid = valid and all(len(z85.decode(half.encode())) == _KEY_BYTES for half in halves)
        except (ValueError, TypeError, KeyError, AttributeError):
            valid = False
        if not valid:
            raise InputError("this is no link key; make one with: ministream key FILE")
        return key

    def write(self, path: Path) -> None:
        """Write it to the new file `path`, which only this user may read.

        Raises
        ------
        InputError
            The file exists already.
        OutputError
            It cannot be written.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.dump())
        except FileExistsError:
            raise InputError(f"{path} exists already; move it away or choose another name") from None
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> LinkKey:
        """Return the key in the file `path`.

        Raises
        ------
        InputError
            It cannot be read, is open to other users, or holds no key.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_LIMIT_BYTES) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if stat.S_ISREG(mode) and mode & 0o077:
            raise InputError(
                f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}); type: chmod 600 {path}"
            )
        try:
            return cls.parse(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    # ------------------------------------------------------------------ sockets

    def protect_listening(self, socket: zmq.Socket[bytes]) -> None:
        """Let `socket`, not bound yet, take only who has this key; its context has a `Doorkeeper`."""
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self.server_secret.encode())
        socket.set(zmq.ZAP_DOMAIN, _DOMAIN.encode())
        # without a doorkeeper nobody comes in, rather than everybody
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def protect_connecting(self, socket: zmq.Socket[bytes]) -> None:
        """Let `socket`, not connected yet, talk only to who has this key."""
        socket.set(zmq.CURVE_SERVERKEY, self.server_public.encode())
        socket.set(zmq.CURVE_PUBLICKEY, self.client_public.encode())
        socket.set(zmq.CURVE_SECRETKEY, self.client_secret.encode())


class Doorkeeper:
    """Lets into the listening sockets of one context who has `key`; nobody where `key` is None.

    A context manager; close it before the context is terminated.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], key: LinkKey | None) -> None:
        self._authenticator: ThreadAuthenticator | None = None
        if key is not None:
            self._authenticator = ThreadAuthenticator(context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(
                domain=_DOMAIN, credentials_provider=_OneKey(key.client_public)
            )

    def __enter__(self) -> Doorkeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave. Idempotent."""
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None


class _OneKey:
    """What pyzmq asks whether a client's public key is welcome."""

    def __init__(self, welcome: str) -> None:
        self._welcome = welcome.encode()

    def callback(self, _domain: str, key: bytes) -> bool:
        return key == self._welcome


def is_loopback(address: str) -> bool:
    """Return whether no other host reaches ``tcp://HOST:PORT``; also where that is no address at all."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        host = None
    if host is None:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def link_key_for(addresses: list[str], key_file: Path | None, *, insecure: bool) -> LinkKey | None:
    """Return the key for links at these listening addresses; None where there is to be no encryption.

    Raises
    ------
    InputError
        One can be reached from other hosts, and there is neither a key nor leave to go without.
    """
    if key_file is not None:
        return LinkKey.read(key_file)
    exposed = [address for address in addresses if not is_loopback(address)]
    if exposed and not insecure:
        raise InputError(
            f"{exposed[0]} can be reached from other hosts: give --link-key FILE to all programs of the run "
            "(ministream key FILE makes one), or --insecure if nobody else is on that network"
        )
    return None
