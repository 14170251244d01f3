"""MS-SSIM and UQI: how alike two images look. Whole windows only; no border is made up.

Both are our own, because of the packages that have them one computes UQI wrongly and the others need torch.
Conventions are those of `ministream.kernels.metrics`.
"""

from __future__ import annotations

import numpy as np

from ministream.kernels.pairs import FloatArray, Mask, pairs, span

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first, from the paper."""
_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
_BLOCK = 8

MS_SSIM_SMALLEST = _WINDOW * 2 ** (len(_WEIGHTS) - 1)
"""Rows and columns that five scales need: the coarsest must still hold a window."""


def ms_ssim(image: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the multi-scale structural similarity [1]_, 1 for equal images.

    The product over five scales of contrast and structure, and of luminance at the coarsest, each averaged
    over the image and raised to the weight of the paper. A scale is half as fine as the one before, by means
    of 2 by 2 pixels. Gaussian windows of 11 pixels, standard deviation 1.5; the range is the truth's. Where
    the mean of a scale is negative, which has no such power, it counts as 0.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional
        Windows count whose middle is in it. A coarser pixel is in it if all its four are.

    Raises
    ------
    ValueError
        The shapes do not fit, the truth is constant, the image is smaller than 176 pixels, or no whole window
        has its middle in the mask.

    References
    ----------
    .. [1] Z. Wang, E. P. Simoncelli, A. C. Bovik: Multiscale structural similarity for image quality
       assessment. 37th Asilomar Conference on Signals, Systems and Computers (2003) 1398.
    """
    slices, references, mask = pairs(image, truth, mask)
    if min(mask.shape) < MS_SSIM_SMALLEST:
        raise ValueError(
            f"slices of {mask.shape} pixels are too small for MS-SSIM: its five scales need at least"
            f" {MS_SSIM_SMALLEST} rows and columns"
        )
    return float(np.mean([_ms_ssim(*pair, mask) for pair in zip(slices, references, strict=True)]))


def _ms_ssim(image: FloatArray, truth: FloatArray, mask: Mask) -> float:
    extent = span(truth)
    c1, c2 = (_K1 * extent) ** 2, (_K2 * extent) ** 2
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    edge = _WINDOW // 2
    result = 1.0
    for scale, power in enumerate(_WEIGHTS):
        if scale:
            image, truth, mask = _halved(image), _halved(truth), _halved(mask.astype(np.float64)) == 1
        counting = mask[edge:-edge, edge:-edge]
        if not counting.any():
            raise ValueError("no whole window of MS-SSIM lies in the mask; a larger image or mask is needed")
        mean_a, mean_b, square_a, square_b, product = _moments(image, truth, weights)
        covariance = product - mean_a * mean_b
        variances = square_a - mean_a**2 + square_b - mean_b**2
        similarity = (2 * covariance + c2) / (variances + c2)
        if scale == len(_WEIGHTS) - 1:
            similarity = similarity * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        result *= max(float(similarity[counting].mean()), 0.0) ** power
    return result


def uqi(image: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the universal image quality index [1]_, from -1 to 1; 1 for equal images.

    ``4 cov(a, b) mean(a) mean(b) / ((var(a) + var(b)) (mean(a)^2 + mean(b)^2))`` in every block of 8 by 8
    pixels, the mean over all blocks. Where both blocks are constant, the factor of contrast and structure is
    1, where both means are 0, that of luminance.

    It has no constant that keeps it steady: where the truth is nearly flat, such as outside the sample, any
    noise makes it 0. SSIM was made to cure that.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional
        Blocks count that lie in it altogether.

    Raises
    ------
    ValueError
        The shapes do not fit, or no block of 8 by 8 pixels fits into image and mask.

    References
    ----------
    .. [1] Z. Wang, A. C. Bovik: A universal image quality index. IEEE Signal Processing Letters 9 (2002) 81.
    """
    slices, references, mask = pairs(image, truth, mask)
    flat = np.ones(_BLOCK)
    if min(mask.shape) < _BLOCK:
        raise ValueError(f"slices of {mask.shape} pixels are too small for UQI: {_BLOCK} by {_BLOCK} needed")
    counting = _filtered(mask.astype(np.float64), flat) == _BLOCK**2
    if not counting.any():
        raise ValueError(f"no block of {_BLOCK} by {_BLOCK} pixels lies in the mask")
    return float(np.mean([_uqi(*pair)[counting].mean() for pair in zip(slices, references, strict=True)]))


def _uqi(image: FloatArray, truth: FloatArray) -> FloatArray:
    weights = np.full(_BLOCK, 1 / _BLOCK)
    # variances do not depend on the offset; near 0 they lose fewer digits
    offset = float(truth.mean())
    mean_a, mean_b, square_a, square_b, product = _moments(image - offset, truth - offset, weights)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + offset, mean_b + offset
    squares = mean_a**2 + mean_b**2
    # rounding leaves a little where a block is constant, of either sign, and where it is nearly so
    varies = ~(_is_constant(image) & _is_constant(truth)) & (variances > 0)
    structure = np.divide(2 * covariance, variances, out=np.ones_like(squares), where=varies).clip(-1, 1)
    luminance = np.divide(2 * mean_a * mean_b, squares, out=np.ones_like(squares), where=squares > 0)
    index: FloatArray = structure * luminance
    return index


def _is_constant(image: FloatArray) -> Mask:
    windows = np.lib.stride_tricks.sliding_window_view
    rows = windows(image, _BLOCK, axis=0)
    largest, smallest = rows.max(axis=-1), rows.min(axis=-1)
    constant: Mask = windows(largest, _BLOCK, axis=1).max(axis=-1) == windows(smallest, _BLOCK, axis=1).min(
        axis=-1
    )
    return constant


def _moments(a: FloatArray, b: FloatArray, weights: FloatArray) -> tuple[FloatArray, ...]:
    """Return the weighted means of a, b, a², b² and ab in every whole window."""
    return tuple(_filtered(values, weights) for values in (a, b, a * a, b * b, a * b))


def _filtered(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the sums over every whole window, weighted along both axes."""
    size = len(weights)
    rows, columns = values.shape[0] - size + 1, values.shape[1] - size + 1
    # sums of their own, not running ones: no rounding error travels from one window to the next
    partly = sum(weight * values[at : at + rows] for at, weight in enumerate(weights))
    return np.asarray(sum(weight * partly[:, at : at + columns] for at, weight in enumerate(weights)))


def _halved(values: FloatArray) -> FloatArray:
    """Return means of 2 by 2 pixels; an odd last row or column is left out."""
    rows, columns = values.shape[0] // 2, values.shape[1] // 2
    halved: FloatArray = values[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    return halved
