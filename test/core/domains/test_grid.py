"""Fields between the cells of a grid."""

import numpy as np
import pytest

from tc_mmwm_core.domains.grid import Grid

GRID = Grid(np.array([-1.0, 2.0]), np.array([21, 11]), 0.1)  # x -1 to 1, y 2 to 3
X, Y = np.meshgrid(-1.0 + 0.1 * np.arange(21), 2.0 + 0.1 * np.arange(11))
POINTS = np.random.default_rng(0).uniform((-0.9, 2.1), (0.9, 2.9), (50, 2))


def test_a_plane_is_read_exactly_and_beyond_the_edge_as_there():
    plane = 3 * X - 2 * Y
    np.testing.assert_allclose(GRID.sample(plane, POINTS), 3 * POINTS[:, 0] - 2 * POINTS[:, 1])
    assert GRID.sample(plane, np.array([[-5.0, 2.5], [0.0, 9.0]])) == pytest.approx([-8.0, -6.0], abs=0.01)


def test_descent_is_the_unit_way_down():
    np.testing.assert_allclose(GRID.descent(3 * X - 4 * Y, POINTS), np.tile([-0.6, 0.8], (50, 1)))
    assert np.linalg.norm(GRID.descent(X**2 + (Y - 2.5) ** 2, POINTS), axis=1) == pytest.approx(np.ones(50))


def test_a_number_stands_for_both_axes():
    square = Grid(-0.5, 11, 0.1)
    x, y = np.meshgrid(*[-0.5 + 0.1 * np.arange(11)] * 2)
    points = np.array([[0.21, -0.13], [0.0, 0.4]])
    np.testing.assert_allclose(square.sample(x + 2 * y, points), points @ [1, 2])
