"""What a live simulator keeps count of."""

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import Zone
from tc_mmwm_core.domains.navigation.episode import Episode
from tc_mmwm_core.domains.navigation.instructions import Instruction
from tc_mmwm_core.domains.navigation.scene import Pad, Scene

SCENE = Scene(0, (Pad("green", 1.0, 0.0),), (Zone("blue", 0.0, 0.0, 0.3),), (), (-1.0, 0.0, 0.0))


def at(x):
    return np.array([x, 0.0, 0.0, 0.3, 0.0], np.float32)


def test_counts_steps_and_violations_and_ends_at_the_goal():
    episode = Episode(SCENE, Instruction("green", ("blue",)))
    for x in (-0.8, -0.2, 0.2, 0.7):
        episode.judge(at(x))
        assert bool(episode.broken) == (abs(x) < 0.43) and not episode.over
    episode.judge(at(0.9))
    assert (episode.over, episode.steps, episode.violations, episode.success) == ("goal", 5, 2, False)


def test_times_out():
    episode = Episode(SCENE, Instruction("green"), max_steps=2)
    episode.judge(at(-1.0))
    assert not episode.over
    episode.judge(at(-1.0))
    assert episode.over == "timeout" and not episode.success


def test_a_new_instruction_counts_from_when_it_is_given():
    episode = Episode(SCENE, Instruction("green"))
    episode.judge(at(0.0))
    episode.instruct(Instruction("green", ("blue",)))
    assert (episode.steps, episode.violations, episode.broken) == (1, 0, ["keep out of the blue zone"])
    episode.judge(at(0.0))
    assert (episode.violations, episode.broken) == (1, ["keep out of the blue zone"])
    episode.instruct(Instruction("green"))
    assert (episode.steps, episode.violations, episode.broken) == (2, 1, [])


def test_a_goal_that_is_not_there_is_refused_and_changes_nothing():
    episode = Episode(SCENE, Instruction("green"))
    with pytest.raises(ValueError, match="no red pad in layout 0; its pads are green"):
        episode.instruct(Instruction("red"))
    assert episode.instruction.goal == "green"
