"""The reference implementation's messages as bytes, by a hand-written protobuf codec of its own.

It knows what fields 1 to 4 of those messages need: text, repeated text, and int32. Nothing of ours is
imported, so that a mistake in our generated code or its conversion cannot hide on both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

VARINT, LENGTH_DELIMITED = 0, 2


def varint(value: int) -> bytes:
    """Encode an int32; negative ones take ten bytes, as protobuf wants."""
    rest = value & (2**64 - 1)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*encoded, rest])


def text_field(number: int, *values: str) -> bytes:
    """Encode a text, or a repeated one; proto3 leaves out what is empty."""
    encoded = b""
    for value in values:
        data = value.encode()
        encoded += varint(number << 3 | LENGTH_DELIMITED) + varint(len(data)) + data
    return encoded


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def request(uid: str, role: str, num_conn: int, rate: int) -> bytes:
    return text_field(1, uid) + text_field(2, role) + number_field(3, num_conn) + number_field(4, rate)


def hello(uid: str, role: str, prod_listeners: Iterable[str] = ()) -> bytes:
    return text_field(1, uid) + text_field(2, *prod_listeners) + text_field(3, role)


def update(uid: str, role: str, remote_listeners: Iterable[str]) -> bytes:
    return text_field(1, uid) + text_field(2, *remote_listeners) + (text_field(3, role) if role else b"")


def release(uid: str) -> bytes:
    return text_field(1, uid)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Return number and value of every field, the unknown ones too; other wire types are an error."""
    rest = memoryview(message)
    while rest:
        tag, rest = _take_varint(rest)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, rest = _take_varint(rest)
            yield number, value
        elif kind == LENGTH_DELIMITED:
            length, rest = _take_varint(rest)
            if length > len(rest):
                raise ValueError(f"field {number} is cut")
            yield number, bytes(rest[:length])
            rest = rest[length:]
        else:
            raise ValueError(f"field {number} has wire type {kind}, which no message of the reference has")


def texts(message: bytes, number: int) -> list[str]:
    """Return a (repeated) text."""
    return [
        value.decode() for found, value in fields(message) if found == number and isinstance(value, bytes)
    ]


def _take_varint(rest: memoryview) -> tuple[int, memoryview]:
    value = 0
    for position, byte in enumerate(rest[:10]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, rest[position + 1 :]
    raise ValueError("a number is cut")
