"""What RViz is shown of the candidates."""

import numpy as np
import pytest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.runtime.selection import Screening, Verdict
from tc_mmwm_ros.markers import candidate_markers, twist_fields, unicycle_paths


def test_straight_ahead_and_a_quarter_turn_to_the_left():
    forward, turn = np.full((2, 5), 1.0), np.array([[0.0] * 5, [np.pi / 2] * 5])
    straight, arc = unicycle_paths(forward, turn, 0.2)
    np.testing.assert_allclose(straight[-1], [1, 0], atol=1e-9)
    radius = 2 / np.pi  # speed by turn rate, for 1 s
    np.testing.assert_allclose(arc[-1], [radius, radius], atol=2e-3)
    np.testing.assert_array_equal(arc[0], [0, 0])


def test_fields_are_found_by_what_they_command():
    action = RobotInterface.load(robot_file("navigation.yaml")).action
    assert twist_fields(action) == (0, 1)
    arm = action.model_copy(
        update={"fields": [field.model_copy(update={"path": "data[0]"}) for field in action.fields]}
    )
    assert twist_fields(arm) is None


@pytest.mark.parametrize("chosen", [2, -1])
def test_colour_groups_and_the_number_drawn(chosen):
    verdict = np.array([Verdict.REJECTED_VIOLATION, Verdict.REJECTED_NON_FINITE, Verdict.ACCEPTED, Verdict.ACCEPTED])
    actions = np.zeros((4, 3, 2), np.float32)
    actions[1] = np.nan
    zeros = np.zeros((4, 3), np.float32)
    limits = np.array([[-1, 1], [-1, 1]])
    screening = Screening(actions, zeros, zeros, verdict, zeros[:, 0], 0.0, ["forward", "turn"], limits, chosen, ())
    markers = candidate_markers(screening, (0, 1), 0.2, Header(frame_id="base_link"), 0.5, 100).markers
    per_path = 2 * 3 * 4  # two ends of each of 4 segments of 3 steps
    assert [len(marker.points) for marker in markers] == [per_path, 2 * per_path, per_path if chosen >= 0 else 0]
    assert [marker.action for marker in markers] == [
        Marker.ADD,
        Marker.ADD,
        Marker.ADD if chosen >= 0 else Marker.DELETE,
    ]
    drawn = candidate_markers(screening, (0, 1), 0.2, Header(), 0.5, 2).markers
    assert sum(len(marker.points) for marker in drawn[:2]) == 2 * per_path
