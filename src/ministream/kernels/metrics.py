"""How good an image is: against a reference, against the one before, and by itself.

Images are (y, x), or stacks of slices (slice, y, x), of which every slice is judged by itself and the mean is
returned. A mask says which pixels count; it applies to every slice. Nothing here rescales an image before
comparing it.
"""

from __future__ import annotations

import math

import numpy as np

from ministream.kernels.pairs import FloatArray, Mask, pairs, span

_SSIM_SIGMA = 1.5


def circle_mask(n: int) -> Mask:
    """Return the reconstruction circle: which pixels every projection of a centred scan sees.

    Returns
    -------
    mask : (n, n) bool
        True where the middle of the pixel is at most ``(n - 1) / 2`` from the middle of the image.
    """
    distance = np.arange(n) - (n - 1) / 2
    mask: Mask = distance[:, np.newaxis] ** 2 + distance**2 <= ((n - 1) / 2) ** 2
    return mask


def mse(image: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the mean of the squared differences.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional
        Pixels that count; all by default.

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    slices, references, mask = pairs(image, truth, mask)
    return float(np.mean([_mse(a[mask], b[mask]) for a, b in zip(slices, references, strict=True)]))


def psnr(image: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB: ``10 log10(range**2 / mse)``.

    The range is the truth's, largest minus smallest value of the slice. Infinite for equal images.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional

    Raises
    ------
    ValueError
        The shapes do not fit, or the truth is constant.
    """
    slices, references, mask = pairs(image, truth, mask)
    ratios = []
    for one, reference in zip(slices, references, strict=True):
        error, extent = _mse(one[mask], reference[mask]), span(reference)
        ratios.append(math.inf if error == 0 else 10 * math.log10(extent**2 / error))
    return float(np.mean(ratios))


def ssim(image: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the structural similarity [1]_, 1 for equal images.

    scikit-image's, with the parameters of the paper: Gaussian weights of standard deviation 1.5, population
    covariance, the range of the truth. Its map is averaged over the mask.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional

    Raises
    ------
    ValueError
        The shapes do not fit, the truth is constant, or the image is smaller than the window (11 pixels).

    References
    ----------
    .. [1] Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural
       similarity. IEEE Transactions on Image Processing 13 (2004) 600.
    """
    from skimage.metrics import structural_similarity

    slices, references, mask = pairs(image, truth, mask)
    means = []
    for one, reference in zip(slices, references, strict=True):
        _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
            one,
            reference,
            data_range=span(reference),
            gaussian_weights=True,
            sigma=_SSIM_SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        means.append(float(similarity[mask].mean()))
    return float(np.mean(means))


def relative_change(image: FloatArray, previous: FloatArray, mask: Mask | None = None) -> float:
    """Return ``|image - previous| / |image|`` (Euclidean norms over all slices): 0 when nothing has changed.

    Where the image is 0 everywhere: 0 if the previous one is too, else infinite.

    Parameters
    ----------
    image, previous : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    slices, references, mask = pairs(image, previous, mask)
    change = float(np.linalg.norm((slices - references)[:, mask]))
    size = float(np.linalg.norm(slices[:, mask]))
    if size == 0:
        return 0.0 if change == 0 else math.inf
    return change / size


def sharpness(image: FloatArray, mask: Mask | None = None) -> float:
    """Return the RMS gradient relative to the spread of the values: larger is sharper, or noisier.

    The gradient is from central differences, per pixel; the spread is the standard deviation. So the figure
    depends neither on the scale nor on the offset of the values. 0 for a constant image. Squared gradients
    are a classic measure of focus [1]_. Noise has gradients too: read it together with
    `ministream.kernels.noreference.noise`.

    Parameters
    ----------
    image : (y, x) or (slice, y, x) float
    mask : (y, x) bool, optional

    Raises
    ------
    ValueError
        Not an image, or the mask does not fit.

    References
    ----------
    .. [1] F. C. A. Groen, I. T. Young, G. Ligthart: A comparison of different focus functions for use in
       autofocus algorithms. Cytometry 6 (1985) 81.
    """
    slices, _, mask = pairs(image, image, mask)
    figures = []
    for one in slices:
        spread = float(one[mask].std())
        vertical, horizontal = np.gradient(one)
        slope = math.sqrt(float((vertical**2 + horizontal**2)[mask].mean()))
        figures.append(slope / spread if spread > 0 else 0.0)
    return float(np.mean(figures))


def _mse(image: FloatArray, truth: FloatArray) -> float:
    return float(np.mean((image - truth) ** 2))
