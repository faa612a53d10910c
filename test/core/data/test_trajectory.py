"""Which steps of a trajectory hang together."""

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
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


def test_a_scene_that_json_cannot_hold_is_refused_by_its_key(navigation, tmp_path):
    trajectory = make_trajectory(navigation, 0, 3)
    trajectory.scene = {"start": (0.0, 1), "balls": [{"x": np.float32(0.5)}]}
    with pytest.raises(DatasetError, match=r"'scene' holds under 'balls' what JSON cannot: .*numpy\.float32"):
        DatasetWriter(tmp_path, navigation).append([trajectory])
    trajectory.scene["balls"] = [{"x": float(np.float32(0.5))}]
    DatasetWriter(tmp_path, navigation).append([trajectory])
    assert Dataset.open(tmp_path)[0].scene == {"start": [0.0, 1], "balls": [{"x": 0.5}]}
