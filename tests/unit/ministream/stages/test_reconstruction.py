"""The policy of updates: which views, how often, and what a calibration does to the slices."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from ministream.errors import InputError, ProtocolError
from ministream.kernels.metrics import circle_mask, relative_change
from ministream.stages.reconstruction import Reconstruction

COLUMNS, VIEWS, SLICES = 48, 40, 2
RADIUS, X, Y, VALUE = 9.0, 6.0, -4.0, 0.05


def view(index: int, center: float = 23.5) -> tuple[float, np.ndarray]:
    """Return angle and line integrals of a disc off the axis."""
    angle = np.pi * index / VIEWS
    t = np.arange(COLUMNS) - center - X * np.cos(angle) - Y * np.sin(angle)
    row = 2 * VALUE * np.sqrt(np.maximum(0, RADIUS**2 - t**2))
    return angle, np.tile(row, (SLICES, 1)).astype(np.float32)


def truth() -> np.ndarray:
    at = np.arange(COLUMNS) - (COLUMNS - 1) / 2
    inside = (at - X) ** 2 + (-at[:, np.newaxis] - Y) ** 2 <= RADIUS**2
    return np.tile(VALUE * inside, (SLICES, 1, 1)).astype(np.float32)


def error(subject: Reconstruction) -> float:
    return relative_change(truth(), subject.volume, circle_mask(COLUMNS))


def reconstruction(algorithm: str = DEFAULT_ALGORITHM, **options: object) -> Reconstruction:
    values = {
        "slices": SLICES,
        "columns": COLUMNS,
        "projections": VIEWS,
        "rotation_center": 23.5,
        "window": 8,
        "step": 4,
        "threads": 1,
    }
    return Reconstruction(algorithm=algorithm, **(values | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_projection_takes_part_in_an_update(algorithm: str) -> None:
    subject = reconstruction(algorithm)
    for index in range(VIEWS - 1):
        updated = subject.add(*view(index))
        assert (index + 1) % 4 == 0 or not updated
        if updated:
            assert subject.projections_reconstructed == index + 1
        elif algorithm in ("sirt", "window-replay"):
            assert subject.projections_reconstructed == (index + 1) // 4 * 4
    subject.finish()
    assert subject.projections_reconstructed == subject.views == VIEWS - 1
    updates = subject.updates
    subject.finish()
    assert subject.updates == updates


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_slices_approach_the_object_and_passes_bring_them_nearer(algorithm: str) -> None:
    subject = reconstruction(algorithm)
    errors = []
    for index in range(VIEWS):
        subject.add(*view(index))
        errors.append(error(subject))
    assert errors[-1] < 0.8 * errors[3]
    for _ in range(3):
        subject.refine()
        errors.append(error(subject))
    assert errors[-1] < min(errors[:-1])
    # half of a disc of this size is edge, which no pixel image has exactly
    assert errors[-1] < 0.25
    assert 0 < subject.residual < 0.1


def test_iterations_make_more_updates_per_step() -> None:
    once, thrice = reconstruction("sirt"), reconstruction("sirt", iterations=3)
    for index in range(8):
        once.add(*view(index))
        thrice.add(*view(index))
    assert thrice.updates == 3 * once.updates
    assert error(thrice) < error(once)


def test_a_centre_that_comes_late_makes_the_image_right() -> None:
    subject = reconstruction(rotation_center=None)
    for index in range(VIEWS):
        subject.add(*view(index, center=27.0))
    subject.finish()
    wrong = error(subject)
    subject.calibrate(27.0, None)
    assert subject.rotation_center == 27.0
    assert error(subject) < 0.6 * wrong
    # nothing is left of what was made with the wrong one
    fresh = reconstruction(rotation_center=27.0, window=VIEWS + 1, step=VIEWS + 1)
    for index in range(VIEWS):
        fresh.add(*view(index, center=27.0))
    assert not fresh.volume.any()
    for _ in range(2):
        fresh.refine()
    np.testing.assert_allclose(subject.volume, fresh.volume, atol=1e-7)
    for _ in range(3):
        subject.refine()
    assert error(subject) < 0.25


def test_a_small_correction_of_the_centre_keeps_the_slices() -> None:
    subject = reconstruction()
    for index in range(8):
        subject.add(*view(index))
    before, updates = subject.volume.copy(), subject.updates
    subject.calibrate(23.9, None)
    assert subject.rotation_center == 23.9
    np.testing.assert_array_equal(subject.volume, before)
    subject.calibrate(23.905, None)
    assert subject.rotation_center == 23.9
    assert subject.updates == updates


def test_a_centre_before_the_first_update_costs_nothing() -> None:
    subject = reconstruction(rotation_center=None)
    subject.add(*view(0))
    subject.calibrate(30.0, None)
    assert subject.updates == 0
    assert subject.rotation_center == 30.0


def test_stripe_offsets_are_taken_off_views_past_and_future() -> None:
    stripes = np.zeros((SLICES, COLUMNS), np.float32)
    stripes[:, 30] = 1.0
    clean, striped, corrected = reconstruction(), reconstruction(), reconstruction()
    for index in range(VIEWS):
        angle, rows = view(index)
        clean.add(angle, rows)
        striped.add(angle, rows + stripes)
        corrected.add(angle, rows + stripes)
        if index == VIEWS // 2:
            corrected.calibrate(None, stripes)
    for subject in (clean, striped, corrected):
        for _ in range(4):
            subject.refine()
    assert error(corrected) < 1.3 * error(clean) < 0.7 * error(striped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "art"}, "'art' is not one of sirt, window-replay"),
        ({"window": 0}, "window"),
        ({"step": 9}, "step"),
        ({"rotation_center": 1000.0}, "1000"),
        ({"slices": 0}, "slices"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reconstruction(**options)  # type: ignore[arg-type]


def test_what_a_peer_sends_wrongly_is_a_protocol_error() -> None:
    subject = reconstruction(projections=1)
    angle, rows = view(0)
    with pytest.raises(ProtocolError, match="shape"):
        subject.add(angle, rows[:, :-1])
    with pytest.raises(ProtocolError, match="finite"):
        subject.add(float("nan"), rows)
    subject.add(angle, rows)
    with pytest.raises(ProtocolError, match="room"):
        subject.add(angle, rows)
    with pytest.raises(ProtocolError, match="calibration"):
        subject.calibrate(-100.0, None)
    with pytest.raises(ProtocolError, match="calibration"):
        subject.calibrate(None, rows[:1])
