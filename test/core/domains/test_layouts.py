"""Zones, and what varies beside them."""

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import Zone, box_depth, box_distance, varying

ZONE = Zone("red", 0.2, -0.3, 0.25)
POINTS = np.random.default_rng(0).uniform(-1, 1, (200, 2))


def test_box_distance_is_that_of_the_nearest_point_of_the_square():
    grid = np.linspace(-ZONE.half, ZONE.half, 201)
    square = np.stack(np.meshgrid(grid + ZONE.x, grid + ZONE.y), -1).reshape(-1, 2)
    nearest = np.linalg.norm(POINTS[:, None] - square[None], axis=-1).min(1)
    np.testing.assert_allclose(box_distance(POINTS, ZONE), nearest, atol=3e-3)


def test_box_depth_is_that_to_the_nearest_edge_inside_and_minus_the_distance_outside():
    inside = box_distance(POINTS, ZONE) == 0
    assert 0 < inside.sum() < len(POINTS)
    np.testing.assert_array_equal(box_depth(POINTS, ZONE) > 0, inside)
    np.testing.assert_array_equal(-box_depth(POINTS, ZONE)[~inside], box_distance(POINTS, ZONE)[~inside])
    assert box_depth(np.array([[0.2, -0.3], [0.4, -0.3]]), ZONE) == pytest.approx([0.25, 0.05])


def test_a_factor_beyond_is_drawn_from_any_of_its_ranges_outside():
    vary = varying(np.random.default_rng(0), ("light",))
    drawn = np.array([vary("light", (0.8, 1.2), (0.5, 0.7), (1.3, 1.5)) for _ in range(100)])
    low = drawn < 1
    assert 20 < low.sum() < 80 and (drawn[low] < 0.7).all() and (drawn[~low] > 1.3).all()
    assert all(0.8 < vary("dynamics", (0.8, 1.2), (0.5, 0.7)) < 1.2 for _ in range(50))
