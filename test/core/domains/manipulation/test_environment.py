"""The table as a Gymnasium environment."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.manipulation.environment import ACTION_HIGH, ACTION_LOW, ManipulationEnv
from tc_mmwm_core.domains.manipulation.scene import TASKS, draw_scene
from tc_mmwm_core.interface.robot import RobotInterface


def same(one, other):
    for name in one[0]:
        np.testing.assert_array_equal(one[0][name], other[0][name])
    np.testing.assert_array_equal(one[-1]["state"], other[-1]["state"])
    assert one[1] == other[1]


@pytest.mark.filterwarnings("ignore")  # its advice: readings are unbounded, and actions are in units
def test_gymnasium_finds_the_environment_well_formed(environment):
    check_env(environment, skip_render_check=True)


def test_a_seed_reproduces_the_episode_whatever_came_before(environment):
    def play():
        environment.reset(seed=11)
        rng = np.random.default_rng(0)
        return [environment.step(rng.uniform(ACTION_LOW, ACTION_HIGH)) for _ in range(5)]

    first = play()
    for seed in range(12, 16):  # other tasks, and other episodes of this one
        environment.reset(seed=seed)
        environment.step(ACTION_HIGH)
    for one, again in zip(first, play(), strict=True):
        same(one, again)
        assert one[-1]["instruction"] == again[-1]["instruction"]


@pytest.mark.parametrize("task", TASKS)
def test_restore_gives_the_same_steps_again_bit_for_bit(environment, task):
    domain = load_domain("manipulation")
    _, info = environment.reset(seed=2, options={"scene": draw_scene(2, task)})
    drive = domain.driver("expert", np.random.default_rng(0))
    for _ in range(22):  # until the hand is in contact with the puck, where there is one to move
        *_, info = environment.step(drive(environment, info))
    saved = environment.save()
    rng = np.random.default_rng(1)
    actions = rng.uniform(ACTION_LOW, ACTION_HIGH, (6, 4))
    first = [environment.step(action) for action in actions]
    for _ in range(3):
        environment.step(ACTION_LOW)
    environment.restore(saved)
    for one, action in zip(first, actions, strict=True):
        same(one, environment.step(action))


def test_action_limits_are_those_of_the_robot_interface(share):
    interface = RobotInterface.load(share / "config" / "robots" / load_domain("manipulation").robot)
    np.testing.assert_array_equal(interface.action_limits, np.stack([ACTION_LOW, ACTION_HIGH], 1))
    assert interface.rate == ManipulationEnv.metadata["render_fps"]


def test_observations_are_those_of_the_robot_interface(environment, share):
    interface = RobotInterface.load(share / "config" / "robots" / load_domain("manipulation").robot)
    observation, _ = environment.reset(seed=0)
    assert observation["sensor"].shape == (interface.sensor_size,)
    assert [f"image.{spec.name}" for spec in interface.images] == list(observation)[:-1]
    for spec in interface.images:
        assert observation[f"image.{spec.name}"].shape == (spec.height, spec.width, spec.channels)
