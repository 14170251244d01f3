"""The mini-app's messages between distributor and worker, byte by byte as their description has them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import ProtocolError
from ministream.wire import tmq

# what stands here was written from the description of the wire, not made by our encoder
HELLO = bytes.fromhex(
    "0000000000000000 0100000000000000 2800000000000000 02000000 05000000 0000000000000000".replace(" ", "")
)
SHARE = bytes.fromhex(
    "0100000000000000 0200000000000000 2800000000000000 0b000000 06000000 02000000 03000000".replace(" ", "")
)
NEXT = bytes.fromhex("0200000000000000 1000000000000000 2000000000000000 0000000000000000".replace(" ", ""))
# projection 7, 0.5 radians, centre 1.5; rows (1, 2, 3) and (-1, 0.5, 0)
VIEW = bytes.fromhex(
    "0300000000000000 2000000000000000 3c00000000000000 07000000 0000003f 0000c03f"
    "0000803f 00000040 00004040 000080bf 0000003f 00000000".replace(" ", "")
)
FIN = bytes.fromhex("0500000000000000 0000000000000000 1800000000000000".replace(" ", ""))
LAST = bytes.fromhex("0600000000000000 0000000000000000 2000000000000000 0000000000000000".replace(" ", ""))


def test_what_a_worker_sends_has_the_padding_of_its_struct() -> None:
    assert tmq.encode(0, tmq.Hello(rank=2, ranks=5), slack=True) == HELLO
    assert tmq.encode(2, tmq.Next(), slack=True) == NEXT
    assert tmq.encode(6, tmq.Fin(), slack=True) == LAST
    assert (len(HELLO), len(NEXT), len(LAST)) == (40, 32, 32)


def test_what_a_distributor_sends_has_none() -> None:
    rows = np.array([[1, 2, 3], [-1, 0.5, 0]], "<f4")
    view = tmq.View(projection=7, angle_rad=0.5, rotation_center=1.0, data=rows.tobytes())
    assert tmq.encode(1, tmq.Share(total=11, begin=6, count=2, columns=3)) == SHARE
    assert tmq.encode(3, view) == VIEW
    assert tmq.encode(5, tmq.Fin()) == FIN


@pytest.mark.parametrize("padding", [0, 8])
def test_each_message_is_read_with_padding_and_without(padding: int) -> None:
    def padded(frame: bytes, size: int) -> bytes:
        frame = frame[:16] + struct.pack("<Q", size + padding) + frame[24:size]
        return frame + bytes(padding)

    assert tmq.parse(padded(HELLO, 32)) == (0, tmq.Hello(rank=2, ranks=5))
    assert tmq.parse(padded(SHARE, 40)) == (1, tmq.Share(total=11, begin=6, count=2, columns=3))
    assert tmq.parse(padded(NEXT, 24)) == (2, tmq.Next())
    assert tmq.parse(padded(LAST, 24)) == (6, tmq.Fin())
    sequence, view = tmq.parse(padded(VIEW, 60))
    assert isinstance(view, tmq.View)
    assert (sequence, view.projection, view.angle_rad) == (3, 7, 0.5)
    np.testing.assert_array_equal(tmq.rows_of(view, 2, 3), [[1, 2, 3], [-1, 0.5, 0]])


def test_the_mini_app_counts_the_centre_from_the_edge_of_the_first_column() -> None:
    # its default, half the columns, is the middle of the detector; counted from the middle of column 0: 1.0
    _, view = tmq.parse(VIEW)
    assert isinstance(view, tmq.View)
    assert view.rotation_center == (3 - 1) / 2


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"", "0 bytes are no message"),
        (HELLO[:23], "23 bytes are no message"),
        (HELLO[:-1], "says that it has 40 bytes, and has 39"),
        (FIN + b"\0", "says that it has 24 bytes, and has 25"),
        (FIN[:8] + b"\x03" + FIN[9:], "unknown kind 0x3"),
        (NEXT[:16] + struct.pack("<Q", 28) + bytes(4), "4 bytes behind its header, not 0"),
        (SHARE[:16] + struct.pack("<Q", 36) + SHARE[24:36], "12 bytes behind its header, not 16"),
        (HELLO[:24] + struct.pack("<II", 5, 5) + bytes(8), "no rank 5 of 5"),
        (SHARE[:24] + struct.pack("<IIII", 7, 6, 2, 3), "2 of 7 sinograms from 6 on"),
        (VIEW[:16] + struct.pack("<Q", 32) + VIEW[24:32], "a projection of 8 bytes"),
    ],
)
def test_what_is_no_message_is_a_protocol_error(frame: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        tmq.parse(frame)


@pytest.mark.parametrize("columns", [1, 4, 5, 6])
def test_rows_that_do_not_fit_are_a_protocol_error(columns: int) -> None:
    _, view = tmq.parse(VIEW)
    assert isinstance(view, tmq.View)
    with pytest.raises(ProtocolError, match="projection 7 has 24 bytes of pixels"):
        tmq.rows_of(view, 2, columns)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be message 1"):
        tmq.encode(1, tmq.Share(total=-1, begin=0, count=0, columns=1))
    with pytest.raises(ValueError, match="cannot be message -1"):
        tmq.encode(-1, tmq.Next())


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        sequence, _ = tmq.parse(data)
    except ProtocolError:
        return
    assert sequence == int.from_bytes(data[:8], "little")


@given(st.sampled_from([HELLO, SHARE, NEXT, VIEW, FIN]), st.integers(0, 23), st.integers(0, 255))
def test_a_damaged_header_is_a_message_or_a_protocol_error(frame: bytes, at: int, value: int) -> None:
    damaged = frame[:at] + bytes([value]) + frame[at + 1 :]
    try:
        tmq.parse(damaged)
    except ProtocolError:
        return
