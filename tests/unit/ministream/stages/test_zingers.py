"""Zingers of a whole scan, in the order in which its views come."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.frames import FrameKind
from ministream.kernels.metrics import circle_mask, ssim
from ministream.sources import ViewOrder, open_source
from ministream.stages.correction import Corrector
from ministream.stages.reconstruction import Reconstruction
from ministream.stages.zingers import ZingerRemover

SCAN = "phantom:columns=96,rows=2,projections=120,photons=100000,rings=0"


def reconstructed(source: str, order: ViewOrder, *, removed: bool) -> tuple[float, int]:
    """Return the mean SSIM of the slices, and how many pixels were taken for zingers."""
    with open_source(source) as scan:
        description, truth = scan.describe(), scan.truth()
        views = np.empty((description.projections, description.rows, description.columns), np.float32)
        angles = np.empty(description.projections)
        corrector = Corrector(description, trimmed=removed)
        remover = ZingerRemover(views, angles, count=0, threshold=0.08)
        reconstruction = Reconstruction(
            algorithm="os-sirt",
            slices=description.rows,
            columns=description.columns,
            projections=description.projections,
            rotation_center=scan.rotation_center,
        )
        count = 0
        for frame in scan.frames(order):
            view = corrector.take(frame)
            if frame.kind is not FrameKind.PROJECTION or view is None:
                continue
            if removed:
                remover.clean(view, frame.angle_rad, count)
            views[count], angles[count] = view, frame.angle_rad
            count += 1
            reconstruction.add(frame.angle_rad, view)
        reconstruction.finish()
        for _ in range(3):
            reconstruction.refine()
    mask = circle_mask(description.columns)
    return float(np.mean([ssim(a, b, mask) for a, b in zip(reconstruction.volume, truth, strict=True)])), (
        remover.removed
    )


@pytest.mark.parametrize("order", [ViewOrder.AS_MEASURED, ViewOrder.BIT_REVERSED])
def test_the_image_is_as_good_as_without_zingers_and_a_clean_scan_stays_as_it_is(order: ViewOrder) -> None:
    clean, _ = reconstructed(SCAN, order, removed=False)
    left, _ = reconstructed(f"{SCAN},zingers=0.2", order, removed=False)
    taken, count = reconstructed(f"{SCAN},zingers=0.2", order, removed=True)
    assert left < clean - 0.05
    assert taken > clean - 0.01
    # 24 on average
    assert 10 <= count <= 50
    untouched, found = reconstructed(SCAN, order, removed=True)
    assert untouched > clean - 0.002
    assert found <= 10


def test_neighbours_are_those_in_angle_whenever_they_came() -> None:
    views = np.zeros((4, 1, 16), np.float32)
    angles = np.radians([350.0, 40.0, 20.0, 0.0])
    # that at 40 degrees is dark all over: beside it, this pixel would be a zinger
    views[1] = 5.0
    views[[0, 2], 0, 6:11] = -0.6
    views[3, 0, 8] = -0.5
    remover = ZingerRemover(views, angles, count=3, threshold=0.08)
    remover.clean(views[3], float(angles[3]), 3)
    assert remover.removed == 0
    remover = ZingerRemover(views[[1, 1, 1, 3]], angles, count=3, threshold=0.08)
    remover.clean(views[3], float(angles[3]), 3)
    assert remover.removed == 1


def test_it_goes_on_with_the_views_that_are_there() -> None:
    views, angles = np.zeros((3, 1, 16), np.float32), np.array([0.0, 0.1, 0.2])
    remover = ZingerRemover(views, angles, count=2, threshold=0.08)
    views[2, 0, 8] = -1.0
    remover.clean(views[2], 0.2, 2)
    assert remover.removed == 1
    assert (views == 0).all()


def test_the_first_view_has_nothing_beside_it() -> None:
    views = np.zeros((1, 1, 16), np.float32)
    views[0, 0, 8] = -1.0
    remover = ZingerRemover(views, np.zeros(1), count=0, threshold=0.08)
    remover.clean(views[0], 0.0, 0)
    assert remover.removed == 0
