"""How good an image is by itself, where nobody knows the truth: noise, and contrast against it.

They are for comparing images of one sample with each other, for instance successive updates. None of them
knows what is true: an image can be sharp, free of noise, and wrong.
"""

from __future__ import annotations

import numpy as np

from ministream.kernels.pairs import FloatArray, Mask, pairs

_MAD_OF_NORMAL = 0.6744897501960817
"""Median of the absolute values of a normal variable of standard deviation 1."""


def noise(image: FloatArray, mask: Mask | None = None) -> float:
    """Return the standard deviation of the noise, in the unit of the image.

    The median of the absolute diagonal details of the Haar wavelet at its finest scale, by 0.6745 [1]_: edges
    are rare among them, so that the median sees noise. Blocks all of whose pixels have the smallest value of
    the slice are left out: there, a constraint such as non-negativity has cut the noise off. 0 where there
    are no others.

    Parameters
    ----------
    image : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional
        Blocks count that lie in it altogether.

    Notes
    -----
    It is exact for white noise. That of a reconstruction is correlated from pixel to pixel, so that the
    figure is for comparison, not the standard deviation itself. Texture as fine as a pixel counts as noise.

    Raises
    ------
    ValueError
        Not an image, the mask does not fit, or no block of 2 by 2 pixels lies in it.

    References
    ----------
    .. [1] D. L. Donoho, I. M. Johnstone: Ideal spatial adaptation by wavelet shrinkage. Biometrika 81 (1994)
       425.
    """
    slices, _, mask = pairs(image, image, mask)
    inside: Mask = np.asarray(_blocks(mask.astype(np.float64)).all(axis=0))
    if not inside.any():
        raise ValueError(f"no block of 2 by 2 pixels lies in image and mask {mask.shape}")
    return float(np.mean([_noise(one, inside) for one in slices]))


def contrast_to_noise(image: FloatArray, mask: Mask | None = None) -> float:
    """Return how far apart the two kinds of pixels lie, in standard deviations of the noise.

    Otsu's threshold [1]_ parts the pixels into two classes, such as sample and air; the difference of their
    medians is divided by `noise`. Above about 5 they can be told apart, as Rose found for eyes [2]_. 0 for a
    constant image, infinite without noise.

    Parameters
    ----------
    image : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional

    Raises
    ------
    ValueError
        As `noise`.

    References
    ----------
    .. [1] N. Otsu: A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man
       and Cybernetics 9 (1979) 62.
    .. [2] A. Rose: The sensitivity performance of the human eye on an absolute scale. Journal of the Optical
       Society of America 38 (1948) 196.
    """
    from skimage.filters import threshold_otsu

    slices, _, mask = pairs(image, image, mask)
    ratios = []
    for one in slices:
        values = one[mask]
        sigma = noise(one, mask)
        if values.min() == values.max():
            ratios.append(0.0)
            continue
        above = values > threshold_otsu(values)  # type: ignore[no-untyped-call]
        contrast = float(np.median(values[above]) - np.median(values[~above])) if above.any() else 0.0
        ratios.append(contrast / sigma if sigma > 0 else float("inf"))
    return float(np.mean(ratios))


def _noise(image: FloatArray, inside: Mask) -> float:
    blocks = _blocks(image)
    a, b, c, d = blocks
    telling = inside & (blocks > image.min()).any(axis=0)
    details = np.abs(a - b - c + d)[telling] / 2
    return float(np.median(details)) / _MAD_OF_NORMAL if details.size else 0.0


def _blocks(values: FloatArray) -> FloatArray:
    """Return the four pixels of every 2 by 2 block, (4, y, x)."""
    rows, columns = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    return np.stack([values[i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)])
