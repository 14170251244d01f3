"""The TImage format: vectors laid out by hand from its description, round trips, and hostile bytes."""

from __future__ import annotations

import contextlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ministream.errors import InputError, ProtocolError
from ministream.frames import Frame, FrameKind
from ministream.wire import decode, decode_volume, encode, encode_volume, timage


def laid_out(
    *,
    sequence: int = 7,
    dims: tuple[int, int, int] = (1, 2, 3),
    rotation: float = 45.0,
    center: float = 1.5,
    unique_id: int = 9,
    itype: int = 1,
    data: bytes = bytes(range(6)),
) -> bytes:
    """A TImage, byte by byte: root offset, vtable at 4, table at 24, vector at 64."""
    vtable = struct.pack("<HH7H", 18, 40, 4, 8, 20, 24, 28, 32, 36)
    table = struct.pack("<iiiiiffibxxxI", 20, sequence, *dims, rotation, center, unique_id, itype, 4)
    return struct.pack("<I", 24) + vtable + b"\0\0" + table + struct.pack("<I", len(data)) + data


def test_a_message_laid_out_by_hand_is_read() -> None:
    frame = decode(laid_out(), "uint8")
    assert frame.sequence == 7
    assert frame.kind is FrameKind.PROJECTION
    assert frame.angle_rad == pytest.approx(math.pi / 4)
    assert not frame.resets
    np.testing.assert_array_equal(frame.pixels, [[0, 1, 2], [3, 4, 5]])
    image = timage.read(laid_out())
    assert (image.center, image.unique_id, image.shape) == (1.5, 9, (1, 2, 3))


def test_absent_fields_have_their_defaults_and_the_vtable_may_lie_behind() -> None:
    # dims and tdata only; the table first, its vtable after it, so that the distance is negative
    table = struct.pack("<iiiiI", -20, 1, 1, 2, 4 + 22)
    vtable = struct.pack("<HH7H", 18, 20, 0, 4, 0, 0, 0, 0, 16)
    message = struct.pack("<I", 4) + table + vtable + b"\0\0\0\0" + struct.pack("<I", 2) + b"\x05\x06"
    assert len(message) == 4 + 20 + 18 + 4 + 4 + 2
    image = timage.read(message)
    assert image.shape == (1, 1, 2)
    assert (image.sequence, image.rotation_deg, image.center, image.unique_id, image.itype) == (0, 0, 0, 0, 0)
    assert bytes(image.data) == b"\x05\x06"


def test_the_order_of_bytes_is_little_endian() -> None:
    message = laid_out(dims=(1, 1, 3), data=b"\x01\x02\x00\xff\x34\x12")
    np.testing.assert_array_equal(decode(message, "uint16").pixels, [[0x0201, 0xFF00, 0x1234]])


@pytest.mark.parametrize(
    ("itype", "kind", "resets"),
    [
        (1, FrameKind.PROJECTION, False),
        (2, FrameKind.FLAT_FIELD, False),
        (3, FrameKind.DARK_FIELD, False),
        (4, FrameKind.FLAT_FIELD, True),
        (5, FrameKind.DARK_FIELD, True),
    ],
)
def test_kinds_and_resets_have_their_numbers(itype: int, kind: FrameKind, resets: bool) -> None:
    frame = decode(laid_out(itype=itype), "uint8")
    assert (frame.kind, frame.resets) == (kind, resets)
    assert timage.read(encode(frame)).itype == itype


@pytest.mark.parametrize("itype", [0, 6, -1, 127])
def test_other_kinds_are_no_frames(itype: int) -> None:
    with pytest.raises(ProtocolError, match="itype"):
        decode(laid_out(itype=itype), "uint8")


def test_our_message_has_its_fields_in_the_slots_of_the_format() -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    frame = Frame(sequence=3, kind=FrameKind.FLAT_FIELD, pixels=pixels, angle_rad=0.5)
    message = bytes(encode(frame, 128.25))
    # followed by hand, as a reader of another language does
    (root,) = struct.unpack_from("<I", message, 0)
    (distance,) = struct.unpack_from("<i", message, root)
    slots = struct.unpack_from("<7H", message, root - distance + 4)
    at = [root + offset for offset in slots]
    assert struct.unpack_from("<i", message, at[0]) == (3,)
    assert struct.unpack_from("<iii", message, at[1]) == (1, 2, 3)
    assert struct.unpack_from("<f", message, at[2])[0] == pytest.approx(math.degrees(0.5))
    assert struct.unpack_from("<f", message, at[3]) == (128.25,)
    assert struct.unpack_from("<b", message, at[5]) == (2,)
    vector = at[6] + struct.unpack_from("<I", message, at[6])[0]
    assert struct.unpack_from("<I", message, vector) == (12,)
    assert message[vector + 4 : vector + 16] == pixels.astype("<u2").tobytes()
    assert vector % 4 == 0


@given(
    pixels=st.sampled_from([np.uint8, np.uint16, np.float32]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    ),
    kind=st.sampled_from(FrameKind),
    sequence=st.integers(0, 2**31 - 1),
    angle_rad=st.floats(-10, 10),
    resets=st.booleans(),
)
def test_a_frame_survives_the_round_trip(
    pixels: np.ndarray, kind: FrameKind, sequence: int, angle_rad: float, resets: bool
) -> None:
    resets = resets and kind is not FrameKind.PROJECTION
    frame = Frame(sequence=sequence, kind=kind, pixels=pixels, angle_rad=angle_rad, resets=resets)
    back = decode(encode(frame), pixels.dtype.name)
    assert (back.sequence, back.kind, back.resets) == (sequence, kind, resets)
    # degrees as float32
    assert back.angle_rad == pytest.approx(angle_rad, abs=1e-6)
    assert back.pixels.dtype == pixels.dtype
    assert back.pixels.tobytes() == pixels.tobytes()


@pytest.mark.parametrize("order", ["F", "sliced", "big-endian"])
def test_pixels_may_lie_in_memory_as_they_like(order: str) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    given_ = {
        "F": np.asfortranarray(pixels),
        "sliced": np.repeat(pixels, 2, axis=1)[:, ::2],
        "big-endian": pixels.astype(">u2"),
    }
    frame = Frame(sequence=0, kind=FrameKind.PROJECTION, pixels=given_[order])
    np.testing.assert_array_equal(decode(encode(frame), "uint16").pixels, pixels)


def test_decoded_pixels_are_a_read_only_view_of_the_message() -> None:
    message = encode(Frame(sequence=0, kind=FrameKind.PROJECTION, pixels=np.zeros((8, 8), np.float32)))
    pixels = decode(message, "float32").pixels
    assert np.shares_memory(pixels, np.frombuffer(message, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 1


def test_decoded_pixels_are_aligned_wherever_the_message_lies() -> None:
    message = bytes(encode(Frame(sequence=0, kind=FrameKind.PROJECTION, pixels=np.ones((8, 8), np.float32))))
    for shift in range(4):
        shifted = memoryview(bytes(shift) + message)[shift:]
        pixels = decode(shifted, "float32").pixels
        assert pixels.flags.aligned
        assert (pixels == 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": (1, 2, 2)}, "6 bytes of pixels"),
        ({"dims": (2, 1, 3)}, "one layer"),
        ({"dims": (1, 0, 3), "data": b""}, "0 bytes of pixels"),
        ({"dims": (1, -2, -3)}, "6 bytes of pixels"),
        ({"sequence": -1}, "negative"),
        ({"rotation": math.nan}, "angle"),
        ({"rotation": math.inf}, "angle"),
    ],
)
def test_an_impossible_frame_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode(laid_out(**changes), "uint8")  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_any_bytes_give_an_image_or_our_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        timage.read(data)


@given(st.data())
def test_a_damaged_message_gives_a_frame_or_our_error(data: st.DataObject) -> None:
    message = bytearray(laid_out())
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = decode(message, data.draw(st.sampled_from(["uint8", "uint16", "float32"])))
    except ProtocolError:
        return
    assert frame.pixels.nbytes <= len(message)


def test_a_message_cut_anywhere_is_refused() -> None:
    message = laid_out()
    for length in range(len(message)):
        with pytest.raises(ProtocolError):
            timage.read(message[:length])


def test_the_markers_of_the_mini_app_are_no_images() -> None:
    with pytest.raises(ProtocolError):
        timage.read(b"end_data")


def test_a_volume_survives_the_round_trip() -> None:
    volume = np.random.default_rng(1).normal(size=(3, 5, 5)).astype(np.float32)
    update = decode_volume(encode_volume(volume, slice_begin=4, projections=17, rotation_center=2.5))
    np.testing.assert_array_equal(update.volume, volume)
    assert (update.slice_begin, update.projections, update.rotation_center) == (4, 17, 2.5)
    assert decode_volume(encode_volume(volume, slice_begin=0, projections=0)).rotation_center is None


def test_a_frame_is_no_volume_and_a_volume_no_frame() -> None:
    with pytest.raises(ProtocolError):
        decode_volume(laid_out())
    with pytest.raises(ProtocolError):
        decode(encode_volume(np.zeros((1, 2, 2), np.float32), slice_begin=0, projections=1), "float32")


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((1, 2, 2), np.uint8)])
def test_what_has_no_place_in_the_format_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="cannot be sent"):
        encode(Frame(sequence=0, kind=FrameKind.PROJECTION, pixels=pixels))


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="32-bit"):
        encode(Frame(sequence=2**31, kind=FrameKind.PROJECTION, pixels=np.zeros((1, 2), np.uint8)))
