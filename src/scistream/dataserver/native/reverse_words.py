"""What the data servers of a reverse session say to each other before a stream begins: a few short words.

The producer's side dials, so it speaks first. Every word has a fixed length, over TLS or in the clear::

    producer's side                       consumer's side
    greeting (32 bytes)        -->        which session and channel it means
                               <--        "W": welcome, the connection is kept ready
                               <--        "G" and a number (3 bytes): begin; so many others wait
    "T": taken                 -->
    the stream                 <->        the stream

A greeting is "SciRev1" with a line feed, and the first 24 bytes of the SHA-256 of "UID CHANNEL". With TLS,
who dials has proved the session's key before; in the clear the greeting at least keeps those away who do not
know the session's name. An end or a reset in place of a word ends the connection, and nothing else.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from typing import TYPE_CHECKING

from scistream.dataserver.native.tls import TlsEngine, TlsError
from scistream.errors import DataServerError

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop

WELCOME = b"W"
TAKEN = b"T"
GREETING_BYTES = 32
BEGIN_BYTES = 3

_MAGIC = b"SciRev1\n"
_BEGIN = struct.Struct("!cH")
_GO = b"G"
_MOST_WAITING = (1 << 16) - 1
_READ_BYTES = 16 * 1024


class TalkEnded(DataServerError):
    """The other side is gone, or says something that it should not."""


def greeting(uid: str, channel: int) -> bytes:
    """Return the greeting for a channel of the session `uid`."""
    return (_MAGIC + hashlib.sha256(f"{uid} {channel}".encode()).digest())[:GREETING_BYTES]


def begin(waiting: int) -> bytes:
    """Return the word to begin, while so many more connections wait."""
    return _BEGIN.pack(_GO, min(waiting, _MOST_WAITING))


def waiting_in(word: bytes) -> int:
    """Return how many more connections wait, as the word to begin says.

    Raises
    ------
    TalkEnded
        It is another word.
    """
    what, waiting = _BEGIN.unpack(word)
    if what != _GO:
        raise TalkEnded("it says something else than to begin")
    return int(waiting)


class Talk:
    """Words on one connection.

    Parameters
    ----------
    sock : socket.socket
        Connected; its owner closes it.
    engine : TlsEngine or None
        After its handshake; None talks in the clear.
    """

    def __init__(self, loop: Loop, sock: socket.socket, engine: TlsEngine | None) -> None:
        self._scratch = loop.scratch
        self._socket = sock
        self._engine = engine
        self._heard = b""

    def say(self, word: bytes) -> None:
        """Send a word; a socket that does not take these few bytes at once is of no use.

        Raises
        ------
        TalkEnded
            It cannot be sent.
        """
        data: bytes | memoryview = word
        try:
            if self._engine is not None:
                self._scratch.input_view[: len(word)] = word
                data = self._scratch.output_view[: self._engine.seal(len(word))]
            sent = self._socket.send(data)
        except TlsError as error:
            raise TalkEnded(str(error)) from error
        except OSError as error:
            raise TalkEnded(error.strerror or str(error)) from error
        if sent != len(data):
            raise TalkEnded("it does not take a word")

    def hear(self, length: int) -> bytes:
        """Return the next `length` bytes; nothing as long as they are not all there.

        Raises
        ------
        TalkEnded
            They will not come.
        """
        if self._engine is not None:
            self._open(self._engine, b"", length)  # what came with the word before
        while len(self._heard) < length:
            missing = length - len(self._heard)
            try:
                received = self._socket.recv(missing if self._engine is None else _READ_BYTES)
            except BlockingIOError:
                return b""
            except OSError as error:
                raise TalkEnded(error.strerror or str(error)) from error
            if not received:
                raise TalkEnded("it has ended")
            if self._engine is None:
                self._heard += received
            else:
                self._open(self._engine, received, length)
        word, self._heard = self._heard, b""
        return word

    def _open(self, engine: TlsEngine, received: bytes, length: int) -> None:
        self._heard += engine.preface(received, length - len(self._heard))
        if len(self._heard) < length and (engine.failure or engine.peer_has_ended):
            raise TalkEnded(engine.failure or "it has ended")
