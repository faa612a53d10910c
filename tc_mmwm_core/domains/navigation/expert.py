"""Scripted drivers: an expert with graded noise, one that heeds no rule, an adversary that heads for the forbidden."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Driver
from tc_mmwm_core.domains.navigation import oracle
from tc_mmwm_core.domains.navigation.environment import ACTION_HIGH, ACTION_LOW, NavigationEnv
from tc_mmwm_core.domains.navigation.instructions import SPEED_LIMIT
from tc_mmwm_core.domains.navigation.scene import ARENA

CRUISE = 0.6  # m/s
SLOW = 0.75 * SPEED_LIMIT


def steer(states: np.ndarray, heading: np.ndarray | float, speed: float) -> np.ndarray:
    """Actions [..., 2] that turn ``states`` [..., 5] to ``heading`` (rad) and, facing it, drive at ``speed`` (m/s)."""
    error = heading - states[..., 2]
    error = np.arctan2(np.sin(error), np.cos(error))
    forward = speed * np.maximum(0.0, np.cos(error)) ** 2
    return np.stack([forward, np.clip(3.0 * error, ACTION_LOW[1], ACTION_HIGH[1])], -1).astype(np.float32)


def advise(states: np.ndarray, field: np.ndarray, slow: bool) -> np.ndarray:
    """What the expert would do in each of ``states`` [S, 5], given the cost to go ``field``: [S, 2]."""
    way = oracle.GRID.descent(field, states[:, :2])
    return steer(states, np.arctan2(way[:, 1], way[:, 0]), SLOW if slow else CRUISE)


def expert(rng: np.random.Generator, noise: float = 0.0) -> Driver:
    """Follows the cheapest way to the goal; ``noise`` is the std of a slow disturbance, as a share of the range."""
    disturbance = np.zeros(2)
    top_speed = rng.uniform(0.45, 0.7)

    def drive(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        env: NavigationEnv = environment.unwrapped
        nonlocal disturbance
        state = info["state"]
        way = oracle.GRID.descent(env.field, state[None, :2])[0]
        speed = min(top_speed, SLOW) if env.instruction.slow else top_speed
        disturbance = 0.8 * disturbance + 0.6 * noise * rng.normal(size=2)
        action = steer(state, math.atan2(way[1], way[0]), speed) + disturbance * (ACTION_HIGH - ACTION_LOW) / 2
        return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)

    return drive


def heedless(rng: np.random.Generator) -> Driver:
    """The expert on the cheapest way to the goal as if no rule had been given."""
    told, field = None, None
    speed = rng.uniform(0.45, 0.7)

    def drive(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        env: NavigationEnv = environment.unwrapped
        nonlocal told, field
        if told is not env.instruction:
            told = env.instruction
            field = oracle.cost_field(env.scene, replace(told, keep_out=(), slow=False, clear=False))
        way = oracle.GRID.descent(field, info["state"][None, :2])[0]
        return steer(info["state"], math.atan2(way[1], way[0]), speed)

    return drive


def visitor(rng: np.random.Generator) -> Driver:
    """Drives straight to places: zones (so that rules get broken), pads, or anywhere, one after the other."""
    place: np.ndarray | None = None
    disturbance = np.zeros(2)
    speed = rng.uniform(0.2, 0.7)

    def drive(_: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        nonlocal place, disturbance, speed
        xy = info["state"][:2]
        if place is None or np.hypot(*(place - xy)) < 0.12 or rng.random() < 0.02:
            scene = info["scene"]
            targets = [*scene["zones"]] * 3 + [*scene["pads"]]
            if rng.random() < 0.75 and targets:
                target = targets[rng.integers(len(targets))]
                place = np.array([target["x"], target["y"]]) + rng.normal(0, 0.2, 2)
            else:
                place = rng.uniform(-ARENA + 0.2, ARENA - 0.2, 2)
            speed = rng.uniform(0.2, 0.7)
        disturbance = 0.8 * disturbance + 0.1 * rng.normal(size=2)
        action = steer(info["state"], math.atan2(*(place - xy)[::-1]), speed)
        return np.clip(action + disturbance * (ACTION_HIGH - ACTION_LOW) / 2, ACTION_LOW, ACTION_HIGH).astype(
            np.float32
        )

    return drive
