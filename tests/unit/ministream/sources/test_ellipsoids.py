"""Line integrals in closed form against known lengths and against the volume of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ministream.sources.ellipsoids import ROCK_HEIGHT, Ellipsoid, chords, rasterise, rock

HEIGHTS = np.array([0.0])


def test_a_ray_through_the_middle_of_a_ball_is_its_diameter() -> None:
    ball = Ellipsoid(x=3, y=-2, half_x=10, half_y=10, attenuation=0.5)
    for angle_rad in (0.0, 0.7, 2.0):
        middle = 3 * math.cos(angle_rad) - 2 * math.sin(angle_rad)
        positions = middle + np.array([-11.0, -6.0, 0.0, 6.0, 11.0])
        # chord at distance 6 of radius 10 is 16
        np.testing.assert_allclose(
            chords([ball], positions, HEIGHTS, angle_rad), [[0, 8, 10, 8, 0]], atol=1e-12
        )


def test_a_tilted_ellipse_shows_its_axes() -> None:
    body = Ellipsoid(x=0, y=0, half_x=8, half_y=3, tilt_rad=0.4, attenuation=1)
    for angle_rad, length in ((0.4, 6.0), (0.4 + math.pi / 2, 16.0)):
        positions = np.array([-9.0, 0.0, 9.0])
        assert chords([body], positions, HEIGHTS, angle_rad)[0, 1] == pytest.approx(length)


def test_an_ellipsoid_is_smaller_away_from_its_middle_and_ends() -> None:
    body = Ellipsoid(x=0, y=0, half_x=5, half_y=5, half_height=0.5, attenuation=1)
    integrals = chords([body], np.array([-6.0, 0.0, 6.0]), np.array([0.0, 0.3, 0.5, 0.9]), 0.0)
    np.testing.assert_allclose(integrals[:, 1], [10, 8, 0, 0], atol=1e-12)


def test_every_view_has_the_same_mass_as_the_pixels() -> None:
    columns = 128
    bodies = rock(radius=50, attenuation=0.01, seed=3)
    heights = np.array([-0.3, 0.2])
    volume = rasterise(bodies, heights, columns)
    rays = (np.arange(columns * 4) + 0.5) / 4 - columns / 2
    for angle_rad in (0.0, 1.0, 2.5):
        mass = chords(bodies, rays, heights, angle_rad).sum(axis=1) / 4
        np.testing.assert_allclose(mass, volume.sum(axis=(1, 2)), rtol=2e-3)


def test_the_axes_of_pixels_and_rays_are_the_same() -> None:
    """At angle 0 the detector sees sums over rows of pixels; at 90 degrees it looks along x, up is right."""
    columns = 64
    body = Ellipsoid(x=10, y=14, half_x=6, half_y=4, attenuation=1)
    (image,) = rasterise([body], HEIGHTS, columns)
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert row < columns / 2 < column
    rays = (np.arange(columns * 4) + 0.5) / 4 - columns / 2

    def seen(angle_rad: float) -> np.ndarray:
        return chords([body], rays, HEIGHTS, angle_rad)[0].reshape(columns, 4).mean(axis=1)

    np.testing.assert_allclose(seen(0.0), image.sum(axis=0), atol=0.35)
    np.testing.assert_allclose(seen(math.pi / 2), image.sum(axis=1)[::-1], atol=0.35)


@pytest.mark.parametrize("seed", range(8))
def test_a_rock_absorbs_everywhere_and_lies_in_its_circle(seed: int) -> None:
    bodies = rock(radius=100, attenuation=0.01, seed=seed)
    heights = ROCK_HEIGHT * np.linspace(-1, 1, 5)
    fine = np.linspace(-120, 120, 241)
    x, y = np.meshgrid(fine, fine)
    total = np.zeros((5, *x.shape))
    for body in bodies:
        along = (x - body.x) * math.cos(body.tilt_rad) + (y - body.y) * math.sin(body.tilt_rad)
        across = (y - body.y) * math.cos(body.tilt_rad) - (x - body.x) * math.sin(body.tilt_rad)
        inside = (along / body.half_x) ** 2 + (across / body.half_y) ** 2
        total += body.attenuation * (inside < body.scale(heights)[:, None, None] ** 2)
    assert total.min() > -1e-12
    assert not total[:, np.hypot(x, y) > 100].any()
    assert len(bodies) == 8 + 22
