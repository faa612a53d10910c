"""The arena as a Gymnasium environment."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.navigation.environment import ACTION_HIGH, ACTION_LOW, NavigationEnv
from tc_mmwm_core.interface.robot import RobotInterface


@pytest.fixture
def environment():
    made = NavigationEnv()
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore")  # its advice: odometry is unbounded, and actions are in units
def test_gymnasium_finds_the_environment_well_formed(environment):
    check_env(environment, skip_render_check=True)


def test_a_seed_reproduces_the_episode(environment):
    def play():
        observation, info = environment.reset(seed=11)
        rows, rng = [observation["sensor"]], np.random.default_rng(0)
        for _ in range(5):
            observation, *_ = environment.step(rng.uniform(ACTION_LOW, ACTION_HIGH))
            rows.append(observation["sensor"])
        return info["instruction"], np.array(rows), observation["image.overhead"]

    first, second = play(), play()
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[2], second[2])


def test_restore_gives_the_same_step_again(environment):
    environment.reset(seed=2)
    saved = environment.save()
    one = environment.step(np.array([0.5, 1.0], np.float32))
    environment.step(np.array([0.5, -1.0], np.float32))
    environment.restore(saved)
    again = environment.step(np.array([0.5, 1.0], np.float32))
    np.testing.assert_array_equal(one[0]["image.overhead"], again[0]["image.overhead"])
    np.testing.assert_array_equal(one[0]["sensor"], again[0]["sensor"])
    assert one[1:4] == again[1:4]


def test_action_limits_are_those_of_the_robot_interface(share):
    interface = RobotInterface.load(share / "config" / "robots" / load_domain("navigation").robot)
    np.testing.assert_array_equal(interface.action_limits, np.stack([ACTION_LOW, ACTION_HIGH], 1))
    assert interface.rate == NavigationEnv.metadata["render_fps"]
