"""What goes wrong on a robot, as Gymnasium wrappers around any domain: a hidden view, noisy sensors, noisy motors.

Each draws from the episode's seed, so that two drivers meet the same disturbance in the same layout.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from pydantic import Field

from tc_mmwm_core.config import Config

Kind = Literal["occlusion", "sensor_noise", "action_noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OCCLUDER = 127  # grey level
OCCLUDER_STAYS = 10  # control steps until it is somewhere else


class Perturbations(Config):
    """How strong each is."""

    occlusion: float = Field(0.2, ge=0, le=1, description="share of each image that a grey square hides")
    sensor_noise: float = Field(0.1, ge=0, description="std of Gaussian noise, in stds of each reading in training")
    action_noise: float = Field(0.1, ge=0, description="std of Gaussian noise, in halves of each field's range")


def perturbed(
    environment: gymnasium.Env, kind: Kind, strengths: Perturbations, sensor_scale: np.ndarray
) -> gymnasium.Env:
    """``environment`` under one perturbation; ``sensor_scale`` [Ds]: each reading's std in training."""
    match kind:
        case "occlusion":
            return Occlusion(environment, strengths.occlusion)
        case "sensor_noise":
            return SensorNoise(environment, strengths.sensor_noise * sensor_scale)
        case "action_noise":
            return ActionNoise(environment, strengths.action_noise)


class _Seeded(gymnasium.Wrapper):
    """Draws from the seed that each episode begins with."""

    salt: int

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :meth:`gymnasium.Env.reset`."""
        self.rng = np.random.default_rng(None if seed is None else [seed, self.salt])
        self.steps = 0
        return super().reset(seed=seed, options=options)


class Occlusion(_Seeded, gymnasium.ObservationWrapper):
    """A grey square hides ``share`` of each image; every :data:`OCCLUDER_STAYS` steps it is somewhere else."""

    salt = 0x0CC1

    def __init__(self, environment: gymnasium.Env, share: float) -> None:
        super().__init__(environment)
        self.side = share**0.5
        self.corners: dict[str, tuple[int, int]] = {}

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The observation with a square of each image painted over."""
        seen = dict(observation)
        for name in sorted(name for name in observation if name.startswith("image.")):
            image = observation[name].copy()
            tall, wide = round(image.shape[0] * self.side), round(image.shape[1] * self.side)
            if self.steps % OCCLUDER_STAYS == 0:
                room = image.shape[0] - tall, image.shape[1] - wide
                self.corners[name] = int(self.rng.integers(room[0] + 1)), int(self.rng.integers(room[1] + 1))
            top, left = self.corners[name]
            image[top : top + tall, left : left + wide] = OCCLUDER
            seen[name] = image
        self.steps += 1
        return seen


class SensorNoise(_Seeded, gymnasium.ObservationWrapper):
    """Gaussian noise of standard deviation ``std`` [Ds] (units) on the sensor vector, fresh at every step."""

    salt = 0x5E2501

    def __init__(self, environment: gymnasium.Env, std: np.ndarray) -> None:
        super().__init__(environment)
        self.std = std

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The observation with noise on ``sensor``."""
        sensor = observation["sensor"]
        return observation | {"sensor": (sensor + self.std * self.rng.normal(size=sensor.shape)).astype(np.float32)}


class ActionNoise(_Seeded, gymnasium.ActionWrapper):
    """Gaussian noise on every action, of standard deviation ``share`` of half of each field's range, then clipped."""

    salt = 0xAC7101

    def __init__(self, environment: gymnasium.Env, share: float) -> None:
        super().__init__(environment)
        self.share = share

    def action(self, action: np.ndarray) -> np.ndarray:
        """What is executed in place of ``action``."""
        space = self.env.action_space
        noise = self.share * (space.high - space.low) / 2 * self.rng.normal(size=space.shape)
        return np.clip(action + noise, space.low, space.high).astype(np.float32)
