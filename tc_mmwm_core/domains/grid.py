"""Fields on a grid over a floor or table, e.g. the cost to go: read in between, and followed downhill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the values of a field [Y, X] are.

    Attributes:
        start: x and y of the first, metres: [2], or a number for both (which leaves float32 points in float32).
        count: how many there are along x and y: [2], or a number for both.
        cell: metres between them.
    """

    start: np.ndarray | float
    count: np.ndarray | int
    cell: float

    def sample(self, field: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Bilinear read of ``field`` at points ``xy`` [S, 2] in metres, [S]; beyond the grid, its edge."""
        position = np.clip((xy - self.start) / self.cell, 0.0, self.count - 1.001)
        column, row = position[:, 0].astype(int), position[:, 1].astype(int)
        fx, fy = position[:, 0] - column, position[:, 1] - row
        low = field[row, column] * (1 - fx) + field[row, column + 1] * fx
        high = field[row + 1, column] * (1 - fx) + field[row + 1, column + 1] * fx
        return low * (1 - fy) + high * fy

    def descent(self, field: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Unit directions [S, 2] in which ``field`` falls at points ``xy`` [S, 2]."""
        step = self.cell * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        around = self.sample(field, (xy[:, None] + step).reshape(-1, 2)).reshape(-1, 4)
        gradient = around[:, :2] - around[:, 2:]
        return -gradient / (np.linalg.norm(gradient, axis=1, keepdims=True) + 1e-9)
