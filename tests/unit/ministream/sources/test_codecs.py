"""Codecs of areaDetector: what another encoder made is decoded, and nonsense is refused."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import InputError
from ministream.sources.codecs import SUPPORTED, decompress

PIXELS = np.random.default_rng(1).integers(0, 4, 5000).repeat(3)


def bslz4(pixels: np.ndarray, block: int) -> bytes:
    """Blocks of `block` pixels, bit-shuffled and compressed; less than 8 pixels stay as they are."""
    made, at = b"", 0
    while len(pixels) - at >= 8:
        size = min(block, (len(pixels) - at) // 8 * 8)
        shuffled = imagecodecs.bitshuffle_encode(
            pixels[at : at + size].tobytes(), itemsize=pixels.itemsize, blocksize=size
        )
        compressed = imagecodecs.lz4_encode(shuffled)
        made += struct.pack(">I", len(compressed)) + compressed
        at += size
    return made + pixels[at:].tobytes()


def compressed(codec: str, pixels: np.ndarray) -> bytes:
    raw = pixels.tobytes()
    match codec:
        case "blosc":
            return bytes(imagecodecs.blosc_encode(raw, typesize=pixels.itemsize, compressor="blosclz"))
        case "lz4":
            return bytes(imagecodecs.lz4_encode(raw))
        case "lz4hdf5":
            return bytes(imagecodecs.lz4h5_encode(raw, blocksize=4096))
        case _:
            return bslz4(pixels, max(128, 8192 // pixels.itemsize // 8 * 8))


@pytest.mark.parametrize("count", [7, 8, 1000, 4096, 15_000])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "f4", "f8"])
@pytest.mark.parametrize("codec", [codec for codec in SUPPORTED if codec != "jpeg"])
def test_pixels_of_another_encoder_come_back(codec: str, dtype: str, count: int) -> None:
    pixels = PIXELS[:count].astype(dtype)
    data = np.frombuffer(compressed(codec, pixels), np.uint8)
    np.testing.assert_array_equal(decompress(codec, data, pixels.dtype, count), pixels)


def test_lz4_may_make_a_frame_neither_smaller_nor_larger() -> None:
    """HDF5's filter would take it for one that was not compressed."""
    found = set()
    for literals in (5, 14, 100, 193, 200, 268, 275, 380):
        for run in range(5, 11):
            # random bytes, a short run, and the five bytes that are always literals
            pixels = np.random.default_rng(literals).integers(0, 256, literals + run + 10).astype("u1")
            pixels[literals : literals + run] = 7
            data = np.frombuffer(imagecodecs.lz4_encode(pixels.tobytes()), np.uint8)
            if len(data) == len(pixels):
                found.add(literals)
            np.testing.assert_array_equal(decompress("lz4", data, pixels.dtype, len(pixels)), pixels)
    # with the number of literals in the token alone, in one more byte, and in two
    assert min(found) < 15
    assert max(found) >= 15 + 255


def test_jpeg_is_decoded_in_grey() -> None:
    image = np.add.outer(np.arange(64), np.arange(48)).astype("u1")
    data = np.frombuffer(imagecodecs.jpeg8_encode(image, level=100), np.uint8)
    got = decompress("jpeg", data, np.dtype("u1"), image.size)
    assert abs(got.reshape(image.shape).astype(int) - image).max() <= 2
    with pytest.raises(InputError, match="3072 pixels, 100 were announced"):
        decompress("jpeg", data, np.dtype("u1"), 100)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(InputError, match=r"'zip'.*blosc, lz4, lz4hdf5, bslz4, jpeg"):
        decompress("zip", np.zeros(9, np.uint8), np.dtype("u2"), 12)


@given(
    codec=st.sampled_from(SUPPORTED),
    data=st.binary(min_size=1, max_size=100),
    kind=st.sampled_from(["u1", "u2"]),
)
def test_any_bytes_give_pixels_or_our_error(codec: str, data: bytes, kind: str) -> None:
    try:
        pixels: Any = decompress(codec, np.frombuffer(data, np.uint8), np.dtype(kind), 64)
    except InputError:
        return
    assert pixels.shape == (64,)
