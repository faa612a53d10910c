"""A domain as someone else might write it, quick enough to collect hundreds of episodes: a robot that stands still."""

from __future__ import annotations

import time

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Domain

BAD_SEED = 3


class Standing(gymnasium.Env):
    """Fits navigation.yaml; episodes of ``BAD_SEED`` end in an error or have a number too many."""

    action_space = gymnasium.spaces.Box(np.float32([-0.3, -2.5]), np.float32([0.7, 2.5]))

    def __init__(self, seconds: float = 0.0, fails: bool = False, misfits: bool = False):
        self.seconds, self.fails, self.misfits = seconds, fails, misfits

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fails and seed == BAD_SEED:
            raise RuntimeError("the gripper is stuck")
        self.size = 32 if self.misfits and seed == BAD_SEED else 31
        return self.observe()

    def step(self, action):
        time.sleep(self.seconds)
        observation, info = self.observe()
        return observation, 0.0, False, False, info

    def observe(self):
        image = self.np_random.integers(0, 256, (64, 64, 3), np.uint8)
        sensor = self.np_random.normal(size=self.size).astype(np.float32)
        info = {"instruction": "stand", "scene": {}, "state": sensor[:5], "violation": False, "success": True}
        info |= {"margin": -1.0, "rules": [], "reached": True}
        return {"image.overhead": image, "sensor": sensor}, info


class Narrow(Standing):
    """Takes other actions than the robot."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


class Reusing(Standing):
    """Fills the same arrays, the same scene and the same info anew at every step."""

    def reset(self, *, seed=None, options=None):
        self.buffers = None
        return super().reset(seed=seed, options=options)

    def observe(self):
        observation, info = super().observe()
        info["scene"] = {"step": 0}
        if self.buffers is None:
            self.buffers = observation, info
            return self.buffers
        for name, array in observation.items():
            self.buffers[0][name][:] = array
        self.buffers[1]["state"][:] = info["state"]
        self.buffers[1]["scene"]["step"] += 1
        self.buffers[1]["violation"] = self.buffers[1]["scene"]["step"] == 2
        return self.buffers


class Toy(Domain):
    """Its environment is made with ``settings``."""

    name, robot = "toy", "navigation.yaml"

    def __init__(self, world=Standing, **settings):
        self.world, self.settings = world, settings

    def environment(self, render=True):
        return self.world(**self.settings)

    def drivers(self):
        return {"still": 1.0}

    def driver(self, kind, rng):
        return lambda environment, info: np.zeros(2, np.float32)


def make():
    return Toy()


def narrow():
    return Toy(Narrow)


def reusing():
    return Toy(Reusing)


def foreign():
    """Of a robot that is not shipped, in an environment as the shipped one's."""
    toy = Toy()
    toy.robot = "toy.yaml"
    return toy


def failing():
    return Toy(seconds=0.01, fails=True)


def misfitting():
    return Toy(seconds=0.01, misfits=True)


def slow():
    return Toy(seconds=0.02)
