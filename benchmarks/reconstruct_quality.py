"""How good the images are: ours beside ASTRA 'linear', after as many SIRT iterations.

A Shepp-Logan head of 1024 x 1024 pixels is projected by ASTRA's 'strip' (exact areas), which neither of them
uses, and four detector columns are averaged: 256 columns, 180 views over 180 degrees. The truth is the head,
averaged over 4 x 4 pixels. All views are in each iteration. Both reconstruct the circle inscribed in the
image (ASTRA by a mask), as the pipeline does, and all 256 x 256 pixels; both without and with the constraint
that nothing is negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.data import shepp_logan_phantom
from skimage.metrics import structural_similarity
from skimage.transform import resize

from ministream.kernels.sirt import SirtEngine
from ministream.kernels.support import support_limits

COLUMNS = 256
FINE = 4
VIEWS = 180
ITERATIONS = (20, 50, 100)

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """PSNR in dB, and scikit-image's SSIM with its default window, over the whole image."""

    who: str
    support: str
    nonnegative: bool
    iterations: int
    psnr_db: float
    ssim: float


def qualities(astra: Any) -> list[Quality]:
    """Reconstruct by both, the circle and the square, without and with the constraint."""
    angles = np.linspace(0, math.pi, VIEWS, endpoint=False)
    head = resize(shepp_logan_phantom(), (COLUMNS * FINE,) * 2, order=1).astype(np.float32)
    truth = head.reshape(COLUMNS, FINE, COLUMNS, FINE).mean((1, 3))
    rows = _simulated(astra, head, angles)
    results = []
    for support, nonnegative in product(("circle", "square"), (False, True)):
        for who, images in (
            ("ministream", _ours(rows, angles, support, nonnegative)),
            ("ASTRA linear", _theirs(astra, rows, angles, support, nonnegative)),
        ):
            results += [
                Quality(
                    who=who,
                    support=support,
                    nonnegative=nonnegative,
                    iterations=iterations,
                    psnr_db=_psnr_db(image, truth),
                    ssim=float(structural_similarity(truth, image, data_range=float(np.ptp(truth)))),
                )
                for iterations, image in zip(ITERATIONS, images, strict=True)
            ]
    return results


def _simulated(astra: Any, head: Float32Array, angles: npt.NDArray[np.float64]) -> Float32Array:
    """Return (view, column), in pixels of the reconstruction."""
    volume = astra.create_vol_geom(*head.shape)
    projector = astra.create_projector(
        "strip", astra.create_proj_geom("parallel", 1.0, len(head), angles), volume
    )
    identifier, fine = astra.create_sino(head, projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    rows: Float32Array = fine.reshape(len(angles), COLUMNS, FINE).mean(2).astype(np.float32) / FINE
    return rows


def _ours(
    rows: Float32Array, angles: npt.NDArray[np.float64], support: str, nonnegative: bool
) -> list[Float32Array]:
    engine = SirtEngine(
        slices=1,
        columns=COLUMNS,
        rotation_center=(COLUMNS - 1) / 2,
        views=VIEWS,
        nonnegative=nonnegative,
        support=support,
    )
    for angle, row in zip(angles, rows, strict=True):
        engine.add_view(float(angle), row[np.newaxis])
    images = []
    for iteration in range(1, max(ITERATIONS) + 1):
        engine.update(range(VIEWS))
        if iteration in ITERATIONS:
            images.append(engine.volume[0].copy())
    return images


def _theirs(
    astra: Any, rows: Float32Array, angles: npt.NDArray[np.float64], support: str, nonnegative: bool
) -> list[Float32Array]:
    volume = astra.create_vol_geom(COLUMNS, COLUMNS)
    projection = astra.create_proj_geom("parallel", 1.0, COLUMNS, angles)
    projector = astra.create_projector("linear", projection, volume)
    sinogram = astra.data2d.create("-sino", projection, rows)
    image = astra.data2d.create("-vol", volume, 0.0)
    settings = astra.astra_dict("SIRT")
    settings |= {"ProjectorId": projector, "ProjectionDataId": sinogram, "ReconstructionDataId": image}
    settings["option"] = {"MinConstraint": 0.0} if nonnegative else {}
    mask = astra.data2d.create("-vol", volume, _circle())
    if support == "circle":
        settings["option"]["ReconstructionMaskId"] = mask
    algorithm = astra.algorithm.create(settings)
    images, done = [], 0
    for iterations in ITERATIONS:
        astra.algorithm.run(algorithm, iterations - done)
        done = iterations
        images.append(astra.data2d.get(image).astype(np.float32))
    astra.algorithm.delete(algorithm)
    astra.projector.delete(projector)
    astra.data2d.delete([sinogram, image, mask])
    return images


def _circle() -> Float32Array:
    """Return 1 for the pixels that ours reconstructs, else 0."""
    limits = support_limits(COLUMNS, "circle")
    x = np.arange(COLUMNS)
    return ((x >= limits[:, :1]) & (x < limits[:, 1:])).astype(np.float32)


def _psnr_db(image: Float32Array, truth: Float32Array) -> float:
    error = float(np.mean((image - truth) ** 2, dtype=np.float64))
    return 10 * math.log10(float(np.ptp(truth)) ** 2 / error)
