"""Scripted drivers: an expert that keeps the rules, with graded noise; Meta-World's own policies, which know of none;
a wanderer; and an adversary that heads for what is forbidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from metaworld.policies import (
    SawyerPickPlaceWallV3Policy,
    SawyerPushV3Policy,
    SawyerPushWallV3Policy,
    SawyerReachWallV3Policy,
)

from tc_mmwm_core.domains.manipulation import oracle
from tc_mmwm_core.domains.manipulation.environment import ACTION_HIGH, ACTION_LOW, ManipulationEnv
from tc_mmwm_core.domains.manipulation.instructions import HIGH, LOW, SPEED_LIMIT, Instruction
from tc_mmwm_core.domains.manipulation.scene import WALL_CENTRE, WORKSPACE, Scene, wall_distance
from tc_mmwm_core.domains.manipulation.simulator import FULL_SPEED

Driver = Callable[[gymnasium.Env, dict[str, Any]], np.ndarray]
POLICIES = {
    "reach-wall": SawyerReachWallV3Policy,
    "push": SawyerPushV3Policy,
    "push-wall": SawyerPushWallV3Policy,
    "pick-place-wall": SawyerPickPlaceWallV3Policy,
}
GRIP = {"reach": 0.0, "push": 0.6, "place": 0.9}  # what Meta-World's policies close with
GAIN = 8.0  # 1/s, metres to metres a second: theirs, of 10 hundredths a step


def expert(rng: np.random.Generator, noise: float = 0.0) -> Driver:
    """The stages of Meta-World's policies (above the object, down, close, away) on the oracle's cheapest way.

    ``noise`` is the std of a slow disturbance, as a share of the action range.
    """
    top_speed = rng.uniform(0.24, 0.30)
    cruise = rng.uniform(0.115, 0.135)  # m
    disturbance = np.zeros(4)

    def drive(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        env: ManipulationEnv = environment.unwrapped
        nonlocal disturbance
        velocity, grip = _command(info["state"], env.scene, env.instruction, cruise, top_speed)
        disturbance = 0.8 * disturbance + 0.6 * noise * rng.normal(size=4)
        return _act(velocity, grip, disturbance)

    return drive


def advise(states: np.ndarray, scene: Scene, meaning: Instruction) -> np.ndarray:
    """What the expert without noise would do in each of ``states`` [S, 13], [S, 4] in units."""
    cruise, top_speed, none = 0.125, 0.27, np.zeros(4)  # the middle of what the experts have
    return np.array([_act(*_command(state, scene, meaning, cruise, top_speed), none) for state in states])


def explorer(rng: np.random.Generator) -> Driver:
    """The expert, and in between random actions held for a while (εz-greedy; Dabney et al., 2021).

    A planner asks of every state what comes of actions that no expert would take there. Without recordings of them the
    world model is wrong where candidates differ most, and the best-looking candidate is the one it is most wrong about.
    """
    drive = expert(rng, noise=0.1)
    held, left = np.zeros(4), 0

    def explore(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        nonlocal held, left
        action = drive(environment, info)
        if left == 0 and rng.random() < 0.06:
            left = int(rng.integers(4, 16))
            around, spread = (action, 0.4) if rng.random() < 0.5 else (np.zeros(4), 1.0)
            noise = rng.normal(size=4) if spread < 1 else rng.uniform(-1, 1, 4)
            held = np.clip(around + spread * noise * ACTION_HIGH, ACTION_LOW, ACTION_HIGH).astype(np.float32)
        if left == 0:
            return action
        left -= 1
        return held

    return explore


def misled(rng: np.random.Generator) -> Driver:
    """The expert, wrong by a centimetre or so about where the puck is, each second in another way.

    Who imitates an expert that sees the truth never sees a hand beside the puck that it is about to grasp, which is
    where its own errors take it (of noise in what experts do: Laskey et al., DART, 2017).
    """
    drive, error = expert(rng), np.zeros(2)

    def blunder(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        nonlocal error
        if rng.random() < 0.05:
            error = rng.normal(0.0, 0.012, 2)  # m
        state = np.array(info["state"])
        if state[oracle.GRIPPING] < 0.5:
            state[oracle.PUCK][:2] += error
        return drive(environment, info | {"state": state})

    return blunder


def heedless(rng: np.random.Generator) -> Driver:
    """Meta-World's own scripted policy for the instruction's goal, which heeds no rule."""
    disturbance = np.zeros(4)
    noise = rng.uniform(0.0, 0.2)

    def drive(environment: gymnasium.Env, _: dict[str, Any]) -> np.ndarray:
        env: ManipulationEnv = environment.unwrapped
        nonlocal disturbance
        action = POLICIES[env.scene.task]().get_action(env.simulator.policy_observation())
        disturbance = 0.8 * disturbance + 0.6 * noise * rng.normal(size=4)
        return _act(action[:3] * FULL_SPEED, action[3], disturbance)

    return drive


def wanderer(rng: np.random.Generator) -> Driver:
    """Smooth random actions over the whole action range, held for random times."""
    target = rng.uniform(ACTION_LOW, ACTION_HIGH)
    action = target.copy()

    def drive(_: gymnasium.Env, __: dict[str, Any]) -> np.ndarray:
        nonlocal target, action
        if rng.random() < 0.1:
            target = rng.uniform(ACTION_LOW, ACTION_HIGH)
        action = action + rng.uniform(0.2, 1.0) * (target - action)
        return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)

    return drive


def visitor(rng: np.random.Generator) -> Driver:
    """Goes straight to places: zones, wall and puck (so that rules get broken), marks, or anywhere, one by one."""
    place: np.ndarray | None = None
    speed, grip = 0.3, 0.0
    disturbance = np.zeros(4)

    def drive(_: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        nonlocal place, speed, grip, disturbance
        hand = info["state"][oracle.HAND]
        if place is None or np.linalg.norm(place - hand) < 0.04 or rng.random() < 0.02:
            scene = info["scene"]
            targets = [(zone["x"], zone["y"]) for zone in scene["zones"]] * 2
            targets += [(mark["x"], mark["y"]) for mark in scene["marks"]]
            targets += [tuple(info["state"][oracle.PUCK][:2]), tuple(WALL_CENTRE)]
            place = rng.uniform(*WORKSPACE)
            if rng.random() < 0.8:
                place[:2] = np.array(targets[rng.integers(len(targets))]) + rng.normal(0, 0.03, 2)
            if rng.random() < 0.6:
                place[2] = rng.uniform(0.05, 0.15)
            speed, grip = rng.uniform(0.1, 0.3), rng.uniform(-1, 1)
        disturbance = 0.8 * disturbance + 0.06 * rng.normal(size=4)
        error = place - hand
        return _act(error * min(GAIN, speed / (np.linalg.norm(error) + 1e-9)), grip, disturbance)

    return drive


def _act(velocity: np.ndarray, grip: float, disturbance: np.ndarray) -> np.ndarray:
    action = np.append(velocity, grip) + disturbance * (ACTION_HIGH - ACTION_LOW) / 2
    return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)


def _command(
    state: np.ndarray, scene: Scene, meaning: Instruction, cruise: float, top_speed: float
) -> tuple[np.ndarray, float]:
    """:func:`_plan` within the speed that is allowed, and commanded so that it is what the arm does."""
    speed = min(top_speed, 0.75 * SPEED_LIMIT) if meaning.slow else top_speed
    velocity, grip = _plan(state, scene, meaning, cruise, speed)
    return velocity * min(1.0, speed / max(np.linalg.norm(velocity), 1e-9)) / scene.factors.gain, grip


def _plan(
    state: np.ndarray, scene: Scene, meaning: Instruction, cruise: float, speed: float
) -> tuple[np.ndarray, float]:
    """Velocity [3] in m/s and grip for ``state`` [13]."""
    hand, puck = state[oracle.HAND], state[oracle.PUCK]
    low, high = (HIGH + 0.02 if meaning.height == "high" else 0.0), (LOW - 0.02 if meaning.height == "low" else 1.0)
    if meaning.verb == "reach":
        return _follow(hand[:2], hand, scene, meaning, np.clip(cruise, low, high), speed), GRIP["reach"]

    apart = puck[:2] - hand[:2]
    distance = np.hypot(*apart)
    grasp = puck[2] + oracle.GRASP_HEIGHT - 0.02
    held = distance < 0.03 and hand[2] < grasp + 0.03
    if held and state[oracle.GRIPPING] > 0.5:
        carry = oracle.GRASP_HEIGHT if meaning.verb == "push" else oracle.GRASP_HEIGHT + 0.02
        return _follow(puck[:2], hand, scene, meaning, carry, speed), GRIP[meaning.verb]
    if distance < 0.012 and hand[2] < grasp + 0.012:
        return np.append(GAIN * apart, GAIN * (grasp - hand[2])), GRIP[meaning.verb]
    # Down a funnel: the nearer to above the puck, the lower. A policy that learns this sees no step in what is wanted.
    hover = min(max(cruise, puck[2] + 0.10), high)
    funnel = grasp + (hover - grasp) * np.clip((distance - 0.012) / 0.02, 0.0, 1.0)
    across = GAIN * apart
    if distance > 0.06:
        across = speed * oracle.descent(oracle.puck_ways(scene, meaning, puck[:2]).around, hand[:2])
    if distance < 0.10:  # first up, then above the puck: a low hand would push it away
        across = across * np.clip((hand[2] - funnel + 0.03) / 0.02, 0.0, 1.0)
    return np.append(across, GAIN * (funnel - hand[2])), -1.0


def _follow(
    place: np.ndarray, hand: np.ndarray, scene: Scene, meaning: Instruction, height: float, speed: float
) -> np.ndarray:
    """Velocity [3] that brings ``place`` [2] (the hand's or the held puck's) to the goal, around or over the wall."""
    ways, over = oracle.goal_ways(scene, meaning), oracle.lift(scene, meaning)
    here = np.array([[*place, hand[2]]])
    around = ways.travel(here, None, height)[0]
    crossing = over is not None and ways.travel(here, over, height)[0] < around - 0.01
    way = ways.across if crossing else ways.around
    distance = float(oracle.sample(way, place[None])[0])
    across = min(speed, GAIN * distance) * oracle.descent(way, place)
    if distance < 0.03:
        across = GAIN * (oracle.goal(scene, meaning) - place)
    if crossing:
        height = over + 0.01
        near = wall_distance(hand[None, :2])[0]
        across = across * np.clip(max(near / 0.05, (hand[2] - over + 0.03) / 0.02), 0.0, 1.0)
    return np.append(across, GAIN * (height - hand[2]))
