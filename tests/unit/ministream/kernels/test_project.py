"""The projector pair: analytic truths, a float64 reference, scikit-image, and the adjoint."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skimage.filters import gaussian
from skimage.transform import radon

from ministream.kernels.project import Projector
from ministream.kernels.threads import usable_threads

Float64Array = npt.NDArray[np.float64]

# every octant, its borders, negative and beyond a turn, in no order
ANGLES = [
    0.0,
    math.pi / 4,
    3.0,
    -0.4,
    math.pi / 2,
    1.1,
    2.2,
    3 * math.pi / 4,
    math.pi,
    4.0,
    5.3,
    6.1,
    7.7,
    -9.9,
    20.0,
]


def projector(columns: int, angles: list[float], center: float | None = None, **options: Any) -> Projector:
    center = (columns - 1) / 2 if center is None else center
    made = Projector(columns=columns, views=len(angles), rotation_center=center, **options)
    for angle in angles:
        made.add_view(angle)
    return made


def positions(columns: int, angle: float, center: float) -> Float64Array:
    """Detector position of every pixel, from the convention as stated."""
    half = (columns - 1) / 2
    y, x = np.mgrid[:columns, :columns]
    return center + (x - half) * math.cos(angle) + (half - y) * math.sin(angle)


def reference(image: Float64Array, angle: float, center: float) -> Float64Array:
    """Joseph's method in float64, without any rounding: interpolate each row where each ray meets it."""
    n = len(image)
    half = (n - 1) / 2
    t = np.arange(n) - center
    cosine, sine = math.cos(angle), math.sin(angle)
    if abs(cosine) < abs(sine):
        # turn image and ray by a quarter: x' = y_up, y_up' = -x
        image, cosine, sine = image[::-1].T, sine, -cosine
    row = np.zeros(n)
    for y in range(n):
        x = half + (t - (half - y) * sine) / cosine
        row += np.interp(x, np.arange(-1, n + 1), np.pad(image[y], 1))
    return row / abs(cosine)


def circle(columns: int) -> npt.NDArray[np.bool_]:
    away = np.arange(columns) - (columns - 1) / 2
    return np.hypot(away[:, None], away) <= columns / 2


def disc(columns: int, x: float, y_up: float, radius: float, fine: int = 8) -> npt.NDArray[np.float32]:
    """A disc of value 1, its edge pixels by the share that they cover."""
    t = (np.arange(columns * fine) + 0.5) / fine - columns / 2
    inside = (t[None, :] - x) ** 2 + (-t[:, None] - y_up) ** 2 <= radius**2
    return inside.reshape(columns, fine, columns, fine).mean((1, 3)).astype(np.float32)


@pytest.mark.parametrize("support", ["circle", "square"])
@pytest.mark.parametrize(
    ("columns", "slices", "center"), [(16, 1, 7.5), (33, 2, 16.0), (130, 3, 41.3), (200, 1, 150.75)]
)
def test_back_projection_is_the_transpose_of_projection(
    columns: int, slices: int, center: float, support: str
) -> None:
    rng = np.random.default_rng(columns)
    angles = [*ANGLES, *rng.uniform(-10, 10, 50)]
    pair = projector(columns, angles, center, support=support)
    views = rng.permutation(len(angles))
    inside = circle(columns) if support == "circle" else np.ones((columns, columns), bool)
    x = (rng.standard_normal((slices, columns, columns)) * inside).astype(np.float32)
    y = rng.standard_normal((slices, len(angles), columns)).astype(np.float32)
    ax = pair.project(x, views).astype(np.float64)
    aty = pair.backproject(y, views).astype(np.float64)
    # relative to |Ax| |y|: the products nearly cancel in a random pair; float32 sums of 1e5 terms leave
    # about 1e-7
    assert abs((ax * y).sum() - (x * aty).sum()) < 2e-6 * np.linalg.norm(ax) * np.linalg.norm(y)
    assert (aty[:, ~inside] == 0).all()


@pytest.mark.parametrize("turn", [math.pi, 2 * math.pi])
@pytest.mark.parametrize("center", [63.5, 63.0, 59.37, 70.8])
@pytest.mark.parametrize("order", ["as measured", "backwards", "random"])
def test_products_agree_to_1e_5_for_every_range_centre_and_order(
    turn: float, center: float, order: str
) -> None:
    rng = np.random.default_rng(3)
    angles = np.linspace(0, turn, 181)  # both ends of the range
    angles = {"as measured": angles, "backwards": angles[::-1], "random": rng.permutation(angles)}[order]
    pair = projector(128, angles.tolist(), center)
    # positive, so that nothing cancels, and the products themselves can be compared
    x = (rng.random((2, 128, 128)) * circle(128)).astype(np.float32)
    y = rng.random((2, 181, 128)).astype(np.float32)
    forward = (pair.project(x, range(181)).astype(np.float64) * y).sum()
    assert (x * pair.backproject(y, range(181)).astype(np.float64)).sum() == pytest.approx(forward, rel=1e-5)


@pytest.mark.parametrize("center", [31.5, 20.25, 44.0, 0.0, 63.0])
def test_many_phases_agree_with_a_float64_reference(center: float) -> None:
    columns = 64
    rng = np.random.default_rng(0)
    image = gaussian(rng.random((columns, columns)), 1.0) * circle(columns)
    rows = projector(columns, ANGLES, center, phases=256).project(
        image[None].astype(np.float32), range(len(ANGLES))
    )
    for i, angle in enumerate(ANGLES):
        truth = reference(image, angle, center)
        # a row is displaced by up to 1/512 pixel, of values that differ by up to 10 % from pixel to pixel,
        # and more at the circle's edge
        np.testing.assert_allclose(rows[0, i], truth, atol=2e-3 * truth.max())


def test_default_phases_are_as_close_to_the_reference_as_their_rounding_allows() -> None:
    columns = 64
    image = gaussian(np.random.default_rng(0).random((columns, columns)), 1.0) * circle(columns)
    errors = []
    for phases in (1, 4, 16):
        pair = projector(columns, ANGLES, 31.5, phases=phases)
        rows = pair.project(image[None].astype(np.float32), range(len(ANGLES)))[0]
        truth = np.array([reference(image, angle, 31.5) for angle in ANGLES])
        errors.append(float(np.linalg.norm(rows - truth) / np.linalg.norm(truth)))
    assert errors[1] < 0.004
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2]


def test_point_moves_as_the_convention_says() -> None:
    columns, row, column, center = 65, 12, 50, 30.5
    spot = np.zeros((columns, columns))
    spot[row, column] = 1
    image = gaussian(spot, 1.5)[None].astype(np.float32)
    rows = projector(columns, ANGLES, center, support="square").project(image, range(len(ANGLES)))[0]
    for i, angle in enumerate(ANGLES):
        u = positions(columns, angle, center)[row, column]
        if 6 < u < columns - 7:
            # rows are displaced by up to an eighth of a pixel too far or not far enough
            assert abs(rows[i] @ np.arange(columns) / rows[i].sum() - u) < 0.13


def test_angle_zero_sums_columns_and_a_quarter_turn_sums_rows_upwards() -> None:
    columns = 40
    image = np.random.default_rng(2).random((1, columns, columns)).astype(np.float32)
    rows = projector(columns, [0.0, math.pi / 2], support="square").project(image, [0, 1])[0]
    np.testing.assert_allclose(rows[0], image[0].sum(0), rtol=1e-5)
    np.testing.assert_allclose(rows[1], image[0].sum(1)[::-1], rtol=1e-5)


@pytest.mark.parametrize(("x", "y_up"), [(0.0, 0.0), (17.3, -8.2)])
def test_disc_has_its_chords_at_its_place(x: float, y_up: float) -> None:
    columns, radius = 128, 30.0
    rows = projector(columns, ANGLES).project(disc(columns, x, y_up, radius)[None], range(len(ANGLES)))[0]
    detector = np.arange(columns) - (columns - 1) / 2
    for i, angle in enumerate(ANGLES):
        t = detector - (x * math.cos(angle) + y_up * math.sin(angle))
        chord = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))
        away_from_edge = np.abs(np.abs(t) - radius) > 3
        # the disc's edge is rough: half a pixel at either end of a chord
        np.testing.assert_allclose(rows[i][away_from_edge], chord[away_from_edge], atol=1.0)
        centroid = rows[i] @ detector / rows[i].sum()
        assert abs(centroid - (x * math.cos(angle) + y_up * math.sin(angle))) < 0.02


@pytest.mark.parametrize("center", [63.5, 60.0, 70.3])
def test_projection_conserves_mass(center: float) -> None:
    image = disc(128, 5.0, -9.0, 40.0)[None]
    rows = projector(128, ANGLES, center).project(image, range(len(ANGLES)))[0]
    # a single pixel counts more or less as rays meet it; over a smooth image that evens out
    np.testing.assert_allclose(rows.sum(1), image.sum(), rtol=1e-3)


def test_agrees_with_scikit_image() -> None:
    columns = 129  # odd: scikit-image rotates about the pixel columns // 2
    image = gaussian(np.random.default_rng(5).random((columns, columns)), 3.0) * gaussian(
        disc(columns, 0.0, 0.0, 50.0), 2.0
    )
    degrees = np.arange(0, 360, 7.5)
    theirs = radon(image, degrees, circle=True).T
    pair = projector(columns, np.deg2rad(degrees).tolist())
    ours = pair.project(image[None].astype(np.float32), range(len(degrees)))[0]
    # it interpolates the image and sums along the ray, we share pixels out to detector columns
    assert np.linalg.norm(ours - theirs) < 0.005 * np.linalg.norm(theirs)


def test_opposite_views_mirror_each_other_and_a_turn_changes_nothing() -> None:
    columns = 96
    image = gaussian(np.random.default_rng(7).random((columns, columns)), 2.0)[None].astype(np.float32)
    image *= circle(columns)
    angles = [0.3, 0.3 + math.pi, 0.3 + 4 * math.pi, 0.3 - 2 * math.pi]
    rows = projector(columns, angles).project(image, range(4))[0]
    np.testing.assert_allclose(rows[1], rows[0][::-1], atol=2e-3 * rows.max())
    np.testing.assert_allclose(rows[2], rows[0], atol=1e-4 * rows.max())
    np.testing.assert_allclose(rows[3], rows[0], atol=1e-4 * rows.max())


def test_ray_lengths_are_the_projection_of_the_support() -> None:
    for support, inside in (("circle", circle(75)), ("square", np.ones((75, 75), bool))):
        pair = projector(75, ANGLES, 30.2, support=support)
        rows = pair.project(inside[None].astype(np.float32), range(len(ANGLES)))[0]
        np.testing.assert_allclose(pair.lengths, rows, atol=1e-4)


@pytest.mark.parametrize("count", range(1, 15))
def test_views_back_projected_together_add_up(count: int) -> None:
    rng = np.random.default_rng(count)
    pair = projector(48, ANGLES)
    views = rng.choice(len(ANGLES), count, replace=False)
    rows = rng.random((1, count, 48)).astype(np.float32)
    together = pair.backproject(rows, views)
    apart = sum(pair.backproject(rows[:, i : i + 1], views[i : i + 1]) for i in range(count))
    np.testing.assert_allclose(together, apart, atol=1e-4)


@pytest.mark.parametrize("slices", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_result_does_not_depend_on_threads_or_the_company_of_other_slices(slices: int, threads: int) -> None:
    rng = np.random.default_rng(slices)
    angles = rng.uniform(0, 6, 40).tolist()
    image = (rng.random((slices, 50, 50)) * circle(50)).astype(np.float32)
    rows = rng.random((slices, 40, 50)).astype(np.float32)
    shared = projector(50, angles, threads=threads)
    alone = projector(50, angles, threads=1)
    forward, back = shared.project(image, range(40)), shared.backproject(rows, range(40))
    for s in range(slices):
        np.testing.assert_allclose(forward[s : s + 1], alone.project(image[s : s + 1], range(40)), rtol=1e-5)
        np.testing.assert_allclose(back[s : s + 1], alone.backproject(rows[s : s + 1], range(40)), rtol=1e-5)


def test_projection_and_back_projection_do_not_disturb_each_other() -> None:
    pair = projector(70, ANGLES)
    image = disc(70, 3.0, 4.0, 20.0)[None]
    views = range(len(ANGLES))
    first = pair.project(image, views)
    pair.backproject(first, views)
    np.testing.assert_array_equal(pair.project(image, views), first)


def test_new_rotation_centre_holds_for_past_views() -> None:
    moved = projector(60, ANGLES, 29.5)
    moved.rotation_center = 22.25
    fresh = projector(60, ANGLES, 22.25)
    image = disc(60, -4.0, 6.0, 15.0)[None]
    np.testing.assert_array_equal(
        moved.project(image, range(len(ANGLES))), fresh.project(image, range(len(ANGLES)))
    )
    np.testing.assert_array_equal(moved.lengths, fresh.lengths)


def test_a_place_is_used_again_as_if_it_were_new() -> None:
    ring = projector(60, ANGLES[:4], 27.25)
    for round_ in range(3):
        for place in range(4):
            ring.drop_view(place)
            assert ring.views == 3
            assert ring.add_view(ANGLES[4 + (round_ * 4 + place) % 11]) == place
    held = [ANGLES[4 + i % 11] for i in range(8, 12)]
    fresh = projector(60, held, 27.25)
    image = disc(60, -4.0, 6.0, 15.0)[None]
    rows = fresh.project(image, range(4))
    np.testing.assert_array_equal(ring.project(image, range(4)), rows)
    np.testing.assert_array_equal(ring.backproject(rows, range(4)), fresh.backproject(rows, range(4)))
    ring.rotation_center = fresh.rotation_center = 31.0
    np.testing.assert_array_equal(ring.lengths, fresh.lengths)


def test_places_that_were_never_used_come_first_then_the_one_free_for_longest() -> None:
    pair = Projector(columns=8, views=4, rotation_center=3.5)
    assert [pair.add_view(0.1 * i) for i in range(3)] == [0, 1, 2]
    pair.drop_view(1)
    pair.drop_view(0)
    assert pair.held.tolist() == [2]
    assert [pair.add_view(0.1 * i) for i in range(3)] == [3, 1, 0]
    with pytest.raises(ValueError, match="4 views"):
        pair.add_view(1.0)


def test_a_view_that_is_not_held_cannot_be_used() -> None:
    pair = projector(8, [0.0, 1.0])
    pair.drop_view(0)
    for use in (pair.indices, lambda views: pair.project(np.zeros((1, 8, 8), np.float32), views)):
        with pytest.raises(ValueError, match="not all are among the 1 held"):
            use([0, 1])
    for view in (0, 2, -1):
        with pytest.raises(ValueError, match=f"view {view} cannot be dropped"):
            pair.drop_view(view)


def test_what_cannot_be_projected_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match="columns is 1"):
        Projector(columns=1, views=1, rotation_center=0.0)
    with pytest.raises(ValueError, match="views is 0"):
        Projector(columns=8, views=0, rotation_center=3.5)
    with pytest.raises(ValueError, match="phases is 0"):
        Projector(columns=8, views=1, rotation_center=3.5, phases=0)
    with pytest.raises(ValueError, match="'oval' is not one of circle, square"):
        Projector(columns=8, views=1, rotation_center=3.5, support="oval")
    for center in (-0.6, 7.6, math.nan):
        with pytest.raises(ValueError, match="not on the detector"):
            Projector(columns=8, views=1, rotation_center=center)
    pair = projector(8, [0.0])
    with pytest.raises(ValueError, match="1 views announced"):
        pair.add_view(1.0)
    for views in ([], [1], [-1], [[0]]):
        with pytest.raises(ValueError, match="views"):
            pair.project(np.zeros((1, 8, 8), np.float32), views)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inf"):
        Projector(columns=8, views=1, rotation_center=3.5).add_view(math.inf)


def test_threads_are_at_least_one_and_at_most_what_numba_may_start() -> None:
    assert usable_threads(1) == 1
    assert usable_threads(10_000) == usable_threads(None) >= 1
    with pytest.raises(ValueError, match="threads is 0"):
        usable_threads(0)
