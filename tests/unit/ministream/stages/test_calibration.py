"""Calibration from sinograms that fill: when it happens, what it finds, and that it ends."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ministream.stages.calibration import Calibration, Calibrator

PROJECTIONS, ROWS, COLUMNS = 64, 3, 96
CENTER = 44.0


def views(order: list[int]) -> list[tuple[float, np.ndarray]]:
    """Two discs off the axis, and a stripe at column 60."""
    t = np.arange(COLUMNS) - CENTER
    result = []
    for index in order:
        angle = np.pi * index / PROJECTIONS
        row = np.zeros(COLUMNS)
        for radius, x, y in ((30, 0, 4), (6, 14, 8)):
            row += np.sqrt(np.maximum(0, radius**2 - (t - x * np.cos(angle) - y * np.sin(angle)) ** 2)) / 20
        row[60] += 0.1
        result.append((angle, np.tile(row, (ROWS, 1)).astype(np.float32)))
    return result


IN_TURN = list(range(PROJECTIONS))
BIT_REVERSED = sorted(IN_TURN, key=lambda index: f"{index:06b}"[::-1])


def wait_for(calibrator: Calibrator) -> Calibration:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if (found := calibrator.newest()) is not None:
            return found
        threading.Event().wait(0.005)
    raise AssertionError("no calibration in 20 s")


class Filling(Calibrator):
    """A calibrator, and the views that it watches."""

    def add(self, angle: float, view: np.ndarray) -> None:
        self._views[self._count], self._angles[self._count] = view, angle
        self.arrived(self._count + 1)


def calibrator(*, center: bool = True, stripes: bool = True) -> Filling:
    return Filling(
        np.zeros((PROJECTIONS, ROWS, COLUMNS), np.float32),
        np.zeros(PROJECTIONS),
        center=center,
        stripes="sorting" if stripes else None,
    )


def test_centre_and_stripe_are_found_at_the_end() -> None:
    with calibrator() as subject:
        for angle, view in views(IN_TURN):
            subject.add(angle, view)
        subject.begin_last()
        found = wait_for(subject)
        while subject.busy:
            found = wait_for(subject)
    assert found.views == PROJECTIONS
    assert found.rotation_center == pytest.approx(CENTER, abs=0.15)
    assert found.stripes is not None
    assert found.stripes.shape == (ROWS, COLUMNS)
    np.testing.assert_allclose(found.stripes[:, 60], 0.1, atol=0.04)
    assert np.abs(np.delete(found.stripes, 60, axis=1)).mean() < 0.01


def test_it_comes_at_a_quarter_and_at_half_of_the_views() -> None:
    with calibrator() as subject:
        counts = []
        for angle, view in views(BIT_REVERSED):
            subject.add(angle, view)
            if subject.busy:
                counts.append(wait_for(subject).views)
    assert counts == [PROJECTIONS // 4, PROJECTIONS // 2]


def test_views_in_turn_tell_the_stripes_before_they_tell_the_centre() -> None:
    with calibrator() as subject:
        for angle, view in views(IN_TURN)[: PROJECTIONS // 2]:
            subject.add(angle, view)
        found = wait_for(subject)
        while subject.busy:
            found = wait_for(subject)
    assert found.views == PROJECTIONS // 2
    assert found.rotation_center is None
    assert found.stripes is not None


def test_views_in_bit_reversed_order_tell_the_centre_at_half() -> None:
    with calibrator(stripes=False) as subject:
        for angle, view in views(BIT_REVERSED)[: PROJECTIONS // 2]:
            subject.add(angle, view)
        found = wait_for(subject)
        while subject.busy:
            found = wait_for(subject)
    assert found.rotation_center == pytest.approx(CENTER, abs=0.3)
    assert found.stripes is None


def test_an_estimate_that_waits_gives_way_to_a_newer_one() -> None:
    with calibrator() as subject:
        # nothing is fetched meanwhile: the first runs, the second waits, the last takes its place
        for angle, view in views(IN_TURN):
            subject.add(angle, view)
        subject.begin_last()
        assert [wait_for(subject).views, wait_for(subject).views] == [PROJECTIONS // 4, PROJECTIONS]
        assert not subject.busy


def test_nothing_wanted_is_nothing_done() -> None:
    with calibrator(center=False, stripes=False) as subject:
        for angle, view in views(IN_TURN):
            subject.add(angle, view)
        subject.begin_last()
        assert not subject.busy
        assert subject.newest() is None


def test_views_that_are_there_from_the_beginning_are_looked_at_once() -> None:
    with calibrator() as subject:
        for place, (angle, view) in enumerate(views(BIT_REVERSED)[: PROJECTIONS * 3 // 4]):
            subject._views[place], subject._angles[place] = view, angle
        subject.arrived(PROJECTIONS * 3 // 4)
        found = wait_for(subject)
        assert not subject.busy
    assert found.views == PROJECTIONS * 3 // 4
    assert found.rotation_center == pytest.approx(CENTER, abs=0.3)


def test_leaving_it_ends_its_thread() -> None:
    with calibrator() as subject:
        for angle, view in views(IN_TURN):
            subject.add(angle, view)
    assert not any(thread.name.startswith("calibration") for thread in threading.enumerate())
