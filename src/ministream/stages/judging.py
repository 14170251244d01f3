"""Judge a volume: figures by name, of each slice or of all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.kernels.metrics import circle_mask, mse, psnr, sharpness, ssim
from ministream.kernels.noreference import contrast_to_noise, noise
from ministream.kernels.similarity import MS_SSIM_SMALLEST, ms_ssim, uqi
from ministream.sources.images import read_images

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_SMALLEST = 11
"""Rows and columns that the window of the SSIM needs."""


def region(shape: tuple[int, ...], *, whole: bool = False) -> Mask:
    """Return which pixels of a slice count: the reconstruction circle of a square, else all.

    Parameters
    ----------
    shape : tuple of int
        (slice, y, x).
    whole : bool
        All of a square, too.

    Raises
    ------
    InputError
        It is no volume, or its slices are too small.
    """
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        raise InputError(
            f"a volume of shape {shape} cannot be judged: (slice, y, x) is needed, slices of at"
            f" least {_SMALLEST} by {_SMALLEST} pixels"
        )
    if whole or shape[1] != shape[2]:
        return np.ones(shape[1:], np.bool_)
    return circle_mask(shape[1])


def judge(
    volume: FloatArray, reference: FloatArray | None = None, *, whole: bool = False
) -> dict[str, float]:
    """Return figures of a volume, by name: the means over its slices, see `judge_slices`.

    Raises
    ------
    InputError
        As `judge_slices`.
    """
    return means(judge_slices(volume, reference, whole=whole))


def judge_slices(
    volume: FloatArray, reference: FloatArray | None = None, *, whole: bool = False
) -> list[dict[str, float]]:
    """Return figures of each slice of a volume, by name, over its `region`.

    Parameters
    ----------
    volume : (slice, y, x) float32
    reference : (slice, y, x) float32, optional
    whole : bool
        Let the corners of square slices count.

    Returns
    -------
    list of dict
        With a reference ``ssim``, ``ms_ssim`` (of slices with at least 176 rows and columns), ``uqi``,
        ``psnr`` (dB, infinite for equal slices) and ``mse``; always ``sharpness``, ``noise`` (in the unit of
        the volume) and, where there is noise, ``contrast_to_noise``. See `ministream.kernels`.

    Raises
    ------
    InputError
        The shapes do not fit, a slice is too small, a value is not finite, or the reference is constant.
    """
    mask = region(volume.shape, whole=whole)
    if reference is not None and reference.shape != volume.shape:
        raise InputError(
            f"a volume of shape {volume.shape} cannot be judged by a reference of shape {reference.shape}"
        )
    try:
        return [
            _judge(volume[index], None if reference is None else reference[index], mask)
            for index in range(len(volume))
        ]
    except ValueError as error:
        raise InputError(f"the volume cannot be judged: {error}") from error


def _judge(image: FloatArray, truth: FloatArray | None, mask: Mask) -> dict[str, float]:
    figures = {}
    if truth is not None:
        figures["ssim"] = ssim(image, truth, mask)
        if min(mask.shape) >= MS_SSIM_SMALLEST:
            figures["ms_ssim"] = ms_ssim(image, truth, mask)
        figures["uqi"] = uqi(image, truth, mask)
        figures["psnr"] = psnr(image, truth, mask)
        figures["mse"] = mse(image, truth, mask)
    figures["sharpness"] = sharpness(image, mask)
    figures["noise"] = noise(image, mask)
    if figures["noise"] > 0:
        figures["contrast_to_noise"] = contrast_to_noise(image, mask)
    return figures


def judge_files(volume: str, reference: str | None = None, *, whole: bool = False) -> list[dict[str, float]]:
    """Return `judge_slices` of a file, against another one if that is given.

    What is not finite outside the region, as some programs mark the corners, counts as 0.

    Parameters
    ----------
    volume, reference : str
        As `ministream.sources.images.read_images` takes them.
    whole : bool
        Let the corners of square slices count.

    Raises
    ------
    InputError
        A file cannot be read, or the two do not fit.
    """
    return judge_slices(
        read_finite(volume, whole=whole),
        None if reference is None else read_finite(reference, whole=whole),
        whole=whole,
    )


def read_finite(name: str, *, whole: bool = False) -> FloatArray:
    """Return the slices in a file, (slice, y, x) float32, with 0 for what is not finite outside the region.

    Raises
    ------
    InputError
        It cannot be read, or holds values within the region that are not finite.
    """
    volume = read_images(name)
    spoiled = ~np.isfinite(volume)
    if spoiled.any():
        inside = np.argwhere(spoiled & region(volume.shape, whole=whole))
        if len(inside):
            slice_, y, x = inside[0]
            raise InputError(
                f"{name} holds {len(inside)} values within the region to be judged that are not finite, the"
                f" first in slice {slice_}, row {y}, column {x}"
            )
        volume[spoiled] = 0
    return volume


def means(slices: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of figures that every slice has."""
    return {
        name: float(np.mean([one[name] for one in slices]))
        for name in slices[0]
        if all(name in one for one in slices)
    }
