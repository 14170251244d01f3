"""Turn detector counts into attenuation: dark and flat field correction and the logarithm.

What this does not do: average the fields (that is the caller's bookkeeping), remove zingers or stripes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def transmission_to_attenuation(
    pixels: npt.NDArray[np.generic],
    dark: FloatArray,
    flat: FloatArray,
    out: FloatArray | None = None,
) -> tuple[FloatArray, int]:
    """Return the attenuation that one projection shows, and how many of its pixels were invalid.

    The law of Beer and Lambert: with counts ``p``, dark field ``d`` and flat field ``f``, the integral of the
    attenuation along the ray is ``-log((p - d) / (f - d))``.

    Parameters
    ----------
    pixels : (row, column) uint8, uint16 or float32
        Counts of one projection.
    dark, flat : (row, column) float32
        Mean dark field and mean flat field.
    out : (row, column) float32, optional
        Where to write the result; must not overlap the inputs.

    Returns
    -------
    attenuation : (row, column) float32
        Line integrals, without unit; `out` if that was given.
    n_invalid : int
        How many pixels had no attenuation: counts not above the dark field, flat field not above the dark
        field, or anything that is not finite. Each holds the linear interpolation between the nearest valid
        pixels of its row (the nearest one at the ends of a row, 0 in a row without any).

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if not pixels.shape == dark.shape == flat.shape or pixels.ndim != 2:
        raise ValueError(
            f"projection {pixels.shape}, dark field {dark.shape} and flat field {flat.shape}"
            " must be two-dimensional and of one shape"
        )
    attenuation = np.empty(pixels.shape, np.float32) if out is None else out
    # a pixel that cannot be used becomes NaN or infinite here, and is dealt with below: no masks on the way
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        open_beam = np.subtract(flat, dark, dtype=np.float32)
        open_beam[open_beam <= 0] = np.nan
        np.subtract(pixels, dark, out=attenuation, dtype=np.float32, casting="unsafe")
        np.divide(attenuation, open_beam, out=attenuation)
        np.log(attenuation, out=attenuation)
    np.negative(attenuation, out=attenuation)
    valid = np.isfinite(attenuation)
    n_invalid = attenuation.size - int(np.count_nonzero(valid))
    if n_invalid:
        for row in np.flatnonzero(~valid.all(axis=1)):
            _fill(attenuation[row], valid[row])
    return attenuation, n_invalid


def _fill(row: FloatArray, valid: npt.NDArray[np.bool_]) -> None:
    """Replace the invalid pixels of one row, in place."""
    columns = np.flatnonzero(valid)
    if columns.size == 0:
        row[:] = 0
        return
    missing = np.flatnonzero(~valid)
    row[missing] = np.interp(missing, columns, row[columns])
