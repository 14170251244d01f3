"""Where TLS records begin and end in a stream, by their headers alone (RFC 8446, 5.1).

OpenSSL does not tell whether it holds a part of a record. Where TCP's end is taken for that of the stream,
this is what tells an end from a cut in the middle of a record.
"""

from __future__ import annotations

_HEADER_BYTES = 5
_LENGTH = slice(3, 5)


class RecordBoundaries:
    """Knows whether a stream of records is in the middle of one.

    Examples
    --------
    >>> records = RecordBoundaries()
    >>> records.follow(bytes([23, 3, 3, 0, 2]) + b"a")
    >>> records.inside
    True
    >>> records.follow(b"b")
    >>> records.inside
    False
    """

    __slots__ = ("_header", "_missing")

    def __init__(self) -> None:
        self._header = b""  # of the next record, as far as it has come
        self._missing = 0  # of the record that has begun

    @property
    def inside(self) -> bool:
        """Whether a record has begun and not ended."""
        return bool(self._header) or self._missing > 0

    def follow(self, received: bytes | memoryview) -> None:
        """Go on by what has come next."""
        at, length = self._missing, len(received)
        while at < length:
            part = _HEADER_BYTES - len(self._header)
            header = self._header + bytes(received[at : at + part])
            if len(header) < _HEADER_BYTES:
                self._header, self._missing = header, 0
                return
            self._header = b""
            at += part + int.from_bytes(header[_LENGTH])
        self._missing = at - length
