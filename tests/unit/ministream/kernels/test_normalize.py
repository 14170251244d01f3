"""Dark and flat field correction, against the law that it inverts."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.kernels.normalize import transmission_to_attenuation

SHAPE = (3, 8)


def fields(dark: float = 100, flat: float = 1100) -> tuple[np.ndarray, np.ndarray]:
    return np.full(SHAPE, dark, np.float32), np.full(SHAPE, flat, np.float32)


@pytest.mark.parametrize("pixel_type", ["uint8", "uint16", "float32"])
def test_counts_made_from_an_attenuation_give_it_back(pixel_type: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 2, SHAPE)
    dark = np.full(SHAPE, 10, np.float32)
    flat = rng.uniform(190, 250, SHAPE).astype(np.float32)
    counts = dark + (flat - dark) * np.exp(-truth)
    pixels = counts.astype(pixel_type)
    rounding = 0 if pixel_type == "float32" else 1
    attenuation, n_invalid = transmission_to_attenuation(pixels, dark, flat)
    assert attenuation.dtype == np.float32
    assert n_invalid == 0
    # a whole count more or less changes the logarithm by its share of the signal
    tolerance = 1e-5 + rounding / ((flat - dark) * np.exp(-truth) - 1)
    assert (np.abs(attenuation - truth) <= tolerance).all()


def test_unsigned_counts_below_the_dark_field_do_not_wrap_around() -> None:
    dark, flat = fields()
    pixels = np.full(SHAPE, 600, np.uint16)
    pixels[1, 4] = 99
    attenuation, n_invalid = transmission_to_attenuation(pixels, dark, flat)
    assert n_invalid == 1
    np.testing.assert_allclose(attenuation, np.log(2), rtol=1e-6)


@pytest.mark.parametrize("value", [100.0, 0.0, -5.0, np.nan, np.inf, -np.inf])
def test_a_pixel_without_transmission_is_interpolated_along_its_row_and_counted(value: float) -> None:
    dark, flat = fields()
    pixels = np.full(SHAPE, 1100, np.float32)
    pixels[0] = 100 + 1000 * np.exp(-np.arange(8))
    pixels[0, 3:5] = value
    attenuation, n_invalid = transmission_to_attenuation(pixels, dark, flat)
    assert n_invalid == 2
    np.testing.assert_allclose(attenuation[0], np.arange(8), atol=1e-3)
    np.testing.assert_allclose(attenuation[1:], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("dark", "flat"), [(100, 100), (100, 50), (np.nan, 1100), (100, np.nan), (0, np.inf)]
)
def test_a_dead_pixel_of_the_fields_is_invalid(dark: float, flat: float) -> None:
    darks, flats = fields()
    darks[2, 0], flats[2, 0] = dark, flat
    pixels = np.full(SHAPE, 600, np.float32)
    attenuation, n_invalid = transmission_to_attenuation(pixels, darks, flats)
    assert n_invalid == 1
    np.testing.assert_allclose(attenuation, np.log(2), rtol=1e-6)


def test_a_row_without_any_valid_pixel_is_zero() -> None:
    dark, flat = fields()
    pixels = np.full(SHAPE, 600, np.float32)
    pixels[1] = 0
    attenuation, n_invalid = transmission_to_attenuation(pixels, dark, flat)
    assert n_invalid == SHAPE[1]
    assert (attenuation[1] == 0).all()
    np.testing.assert_allclose(attenuation[[0, 2]], np.log(2), rtol=1e-6)


def test_the_result_goes_where_it_is_asked_to_and_the_inputs_stay() -> None:
    dark, flat = fields()
    pixels = np.full(SHAPE, 600, np.float32)
    pixels.flags.writeable = dark.flags.writeable = flat.flags.writeable = False
    out = np.empty(SHAPE, np.float32)
    attenuation, _ = transmission_to_attenuation(pixels, dark, flat, out)
    assert attenuation is out


def test_different_shapes_are_refused_with_their_numbers() -> None:
    dark, flat = fields()
    with pytest.raises(ValueError, match=r"\(3, 7\)"):
        transmission_to_attenuation(np.ones((3, 7), np.uint16), dark, flat)
