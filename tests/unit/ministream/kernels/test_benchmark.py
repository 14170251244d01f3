"""`benchmarks/reconstruct.py`: contestants do the same work, and its page has the place for the figures."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ministream.kernels.project import Projector

ROOT = Path(__file__).parents[4]


@pytest.fixture
def contestants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reconstruct_contestants

    return reconstruct_contestants


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reconstruct_report

    return reconstruct_report


def test_the_matrix_is_the_same_projector(contestants: ModuleType) -> None:
    columns = 40
    angles = [0.0, 0.3, math.pi / 4, 1.2, math.pi / 2, 2.0, 3.0]
    image = np.random.default_rng(0).random((columns, columns)).astype(np.float32)
    pair = Projector(columns=columns, views=7, rotation_center=19.5, support="square", phases=256)
    for angle in angles:
        pair.add_view(angle)
    matrix = contestants.joseph_matrix(columns, angles)
    ours = pair.project(image[None], range(7))[0]
    theirs = (matrix @ image.ravel()).reshape(7, columns)
    # the matrix rounds no displacement, and ours fades beyond the image's edge within a pixel
    np.testing.assert_allclose(theirs, ours, atol=0.02 * ours.max())


def test_contestants_count_the_work_that_they_do(contestants: ModuleType) -> None:
    window = contestants.Window(columns=48, slices=2, step=4, threads=1, arrivals=10)
    assert (window.arrivals, window.work) == (8, 2 * 32 * 2)
    assert contestants.AllViews(columns=48, slices=3, views=9, threads=1, support="square").work == 27
    for contestant in (window, contestants.Matrix(columns=48, slices=2, views=5)):
        assert contestant.round_s() > 0
        assert contestant.round_s() > 0  # again and again


def test_goals_are_met_missed_or_not_measured(report: ModuleType) -> None:
    def met(value: float | None, at_least: bool) -> bool | None:
        return report.Goal(name="x", value=value, goal=30.0, at_least=at_least).met  # type: ignore[no-any-return]

    assert (met(30.0, True), met(29.9, True), met(None, True)) == (True, False, None)
    assert (met(30.0, False), met(30.1, False)) == (True, False)


def test_only_what_is_between_the_marks_is_replaced(report: ModuleType) -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.replace_section(page, "new\n")
    assert once == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.replace_section(once, "new\n") == once
    for wrong in ("", report.BEGIN, f"{report.END}\n{report.BEGIN}", page + page):
        with pytest.raises(SystemExit, match="no place"):
            report.replace_section(wrong, "new")


def test_the_page_of_figures_has_the_place(report: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert report.END in report.replace_section(page, "")
