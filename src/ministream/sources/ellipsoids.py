"""Objects made of ellipsoids: their line integrals in closed form, and their volumes of pixels.

Lengths in the (x, y) plane are in pixels from the rotation axis, y up; heights are in units of the object's
half height. An ellipsoid adds its attenuation to what is there, so that a negative one makes a hole. Where
the plane at some height cuts it, it is an ellipse, for which [1]_ gives the integral along a ray.

References
----------
.. [1] A. C. Kak, M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ROCK_HEIGHT = 0.55
"""Rows see the object of `rock` at heights between plus and minus this."""

_SUBPIXELS = 4
_GRAINS = 14
_PORES = 8
_ATTEMPTS = 4000
# half a height so large that all rows see about the same
_STRAIGHT = 20.0
# added attenuation, half axes, middle, tilt in degrees
_HEAD = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """One ellipsoid.

    Parameters
    ----------
    x, y, height : float
        Its middle.
    half_x, half_y, half_height : float
        Its half axes.
    tilt_rad : float
        Rotation in the (x, y) plane, counter-clockwise.
    attenuation : float
        What it adds, per pixel length.
    """

    x: float
    y: float
    height: float = 0.0
    half_x: float
    half_y: float
    half_height: float = 1.0
    tilt_rad: float = 0.0
    attenuation: float

    def scale(self, heights: FloatArray) -> FloatArray:
        """Return the size of its cut at `heights`, relative to that through its middle; 0 beyond it."""
        return np.sqrt(np.maximum(0.0, 1.0 - ((heights - self.height) / self.half_height) ** 2))


def chords(
    ellipsoids: Sequence[Ellipsoid], positions: FloatArray, heights: FloatArray, angle_rad: float
) -> FloatArray:
    """Return the integrals of the attenuation along parallel rays.

    A ray at position t holds the points with ``x cos(angle) + y sin(angle) = t``.

    Parameters
    ----------
    ellipsoids : sequence of Ellipsoid
    positions : (ray,) float64
        Pixels from the rotation axis, evenly spaced, rising.
    heights : (row,) float64
    angle_rad : float

    Returns
    -------
    integrals : (row, ray) float64
    """
    integrals = np.zeros((len(heights), len(positions)))
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    for body in ellipsoids:
        width2 = (body.half_x * math.cos(angle_rad - body.tilt_rad)) ** 2 + (
            body.half_y * math.sin(angle_rad - body.tilt_rad)
        ) ** 2
        middle = body.x * cosine + body.y * sine
        begin, end = np.searchsorted(positions, [middle - math.sqrt(width2), middle + math.sqrt(width2)])
        offset2 = (positions[begin:end] - middle) ** 2
        squared = width2 * body.scale(heights)[:, np.newaxis] ** 2 - offset2
        np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
        squared *= 2 * body.attenuation * body.half_x * body.half_y / width2
        integrals[:, begin:end] += squared
    return integrals


def rasterise(ellipsoids: Sequence[Ellipsoid], heights: FloatArray, columns: int) -> npt.NDArray[np.float32]:
    """Return the attenuation as pixels, each the mean over 4 x 4 points of it.

    Returns
    -------
    volume : (slice, y, x) float32
        `columns` pixels along y and x, the rotation axis in the middle; the first row is the upper one.
    """
    fine = (np.arange(columns * _SUBPIXELS) + 0.5) / _SUBPIXELS - columns / 2
    volume = np.empty((len(heights), columns, columns), np.float32)
    for index, height in enumerate(heights):
        image = np.zeros((fine.size, fine.size), np.float32)
        for body in ellipsoids:
            scale = float(body.scale(np.array([height]))[0])
            if scale == 0.0:
                continue
            reach = scale * max(body.half_x, body.half_y)
            left, right = np.searchsorted(fine, [body.x - reach, body.x + reach])
            # rows count downwards, y upwards; `fine` is symmetric
            top, bottom = np.searchsorted(fine, [-body.y - reach, -body.y + reach])
            x = fine[np.newaxis, left:right] - body.x
            y = -fine[top:bottom, np.newaxis] - body.y
            along = x * math.cos(body.tilt_rad) + y * math.sin(body.tilt_rad)
            across = y * math.cos(body.tilt_rad) - x * math.sin(body.tilt_rad)
            inside = (along / body.half_x) ** 2 + (across / body.half_y) ** 2 < scale**2
            image[top:bottom, left:right] += np.float32(body.attenuation) * inside
        volume[index] = image.reshape(columns, _SUBPIXELS, columns, _SUBPIXELS).mean(axis=(1, 3))
    # sums of float32 may leave a trace of what was taken away
    return np.maximum(volume, 0.0, out=volume)


def cylinder(*, radius: float, attenuation: float) -> list[Ellipsoid]:
    """Return a round bar around the axis with two smaller ones in it: known diameters and contrasts.

    The bars are so high that all their slices are nearly equal.
    """
    bar = Ellipsoid(x=0, y=0, half_x=radius, half_y=radius, half_height=_STRAIGHT, attenuation=attenuation)
    inner = [
        replace(
            bar, x=x * radius, y=y * radius, half_x=half * radius, half_y=half * radius, attenuation=added
        )
        for x, y, half, added in ((0.45, 0.1, 0.25, attenuation), (-0.4, -0.3, 0.15, -attenuation))
    ]
    return [bar, *inner]


def shepp_logan(*, radius: float, attenuation: float) -> list[Ellipsoid]:
    """Return the head phantom of [1]_, table 3.1, with the contrasts of Toft [2]_; its third axis is ours.

    References
    ----------
    .. [1] A. C. Kak, M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988.
    .. [2] P. Toft, "The Radon Transform: Theory and Implementation", Technical University of Denmark, 1996.
    """
    return [
        Ellipsoid(
            x=x * radius,
            y=y * radius,
            half_x=half_x * radius,
            half_y=half_y * radius,
            half_height=_STRAIGHT,
            tilt_rad=math.radians(tilt_deg),
            attenuation=added * attenuation,
        )
        for added, half_x, half_y, x, y, tilt_deg in _HEAD
    ]


def move(ellipsoids: Sequence[Ellipsoid], x: float, y: float, height: float) -> list[Ellipsoid]:
    """Return the object somewhere else."""
    return [replace(body, x=body.x + x, y=body.y + y, height=body.height + height) for body in ellipsoids]


def rock(*, radius: float, attenuation: float, seed: int) -> list[Ellipsoid]:
    """Return a piece of rock: crust, matrix, mineral grains, pores, a cavity, a row of ever smaller beads.

    The attenuation is nowhere negative: whatever is taken away lies in the matrix alone.

    Parameters
    ----------
    radius : float
        Of the circle around the axis that holds it, in pixels.
    attenuation : float
        Of the matrix, per pixel length.
    seed : int
        Grains and pores lie elsewhere with another one.
    """
    tilt_rad = math.radians(25)
    crust = Ellipsoid(x=0, y=0, half_x=0.98, half_y=0.84, half_height=1.3, tilt_rad=tilt_rad, attenuation=1.5)
    matrix = replace(crust, half_x=0.9, half_y=0.76, half_height=1.22, attenuation=-0.5)
    cavity = Ellipsoid(
        x=-0.3, y=0.22, half_x=0.24, half_y=0.13, half_height=1.1, tilt_rad=1.1, attenuation=-0.95
    )
    beads = [
        Ellipsoid(x=0.05 + offset, y=-0.42, half_x=size, half_y=size, half_height=2, attenuation=1.2)
        for offset, size in ((0, 0.055), (0.14, 0.04), (0.25, 0.03), (0.33, 0.02), (0.39, 0.014))
    ]
    bodies = [crust, matrix, cavity, *beads]
    taken = [(cavity.x, cavity.y, 0.27), (0.25, -0.42, 0.3)]
    # what the matrix has left where the outermost rows cut it: a pore may not reach beyond
    least = float(matrix.scale(np.array([ROCK_HEIGHT]))[0])
    random = np.random.default_rng([seed, 0x726F636B])
    wanted = [*[(1, 0.05, 0.15)] * _GRAINS, *[(-1, 0.03, 0.09)] * _PORES]
    for _ in range(_ATTEMPTS):
        if not wanted:
            break
        sign, smallest, largest = wanted[0]
        half = random.uniform(smallest, largest)
        x, y = random.uniform(-0.8, 0.8, 2)
        inside = math.hypot(
            (x * math.cos(tilt_rad) + y * math.sin(tilt_rad)) / (least * matrix.half_x - half - 0.02),
            (y * math.cos(tilt_rad) - x * math.sin(tilt_rad)) / (least * matrix.half_y - half - 0.02),
        )
        if inside > 1 or any(math.hypot(x - u, y - v) < half + size for u, v, size in taken):
            continue
        wanted.pop(0)
        taken.append((x, y, half))
        bodies.append(
            Ellipsoid(
                x=x,
                y=y,
                height=random.uniform(-0.5, 0.5),
                half_x=half,
                half_y=half * random.uniform(0.5, 1.0),
                half_height=random.uniform(0.25, 0.8),
                tilt_rad=random.uniform(0, math.pi),
                attenuation=random.uniform(0.3, 0.9) if sign > 0 else -random.uniform(0.6, 0.95),
            )
        )
    return [
        replace(
            body,
            x=body.x * radius,
            y=body.y * radius,
            half_x=body.half_x * radius,
            half_y=body.half_y * radius,
            attenuation=body.attenuation * attenuation,
        )
        for body in bodies
    ]
