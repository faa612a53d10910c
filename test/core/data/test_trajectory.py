"""Which steps of a trajectory hang together."""

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.trajectory import valid_runs


@pytest.mark.parametrize(
    ("valid", "runs", "longest"),
    [
        ("111111", [(0, 6)], (0, 6)),
        ("011011", [(1, 3), (4, 6)], (1, 3)),
        ("100111", [(0, 1), (3, 6)], (3, 6)),
        ("000000", [], (0, 0)),
    ],
)
def test_runs_of_valid_steps_and_the_longest(navigation, valid, runs, longest):
    trajectory = make_trajectory(navigation, 0, len(valid))
    trajectory.valid = np.array([step == "1" for step in valid])
    first, end = valid_runs(trajectory.valid)
    assert list(zip(first.tolist(), end.tolist(), strict=True)) == runs
    assert trajectory.unbroken == slice(*longest)
