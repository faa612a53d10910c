"""Scripted drivers: an expert that keeps the rules, with graded noise; Meta-World's own policies, which know of none;
and an adversary that heads for what is forbidden."""

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

from tc_mmwm_core.domains.base import Driver
from tc_mmwm_core.domains.manipulation import oracle
from tc_mmwm_core.domains.manipulation.environment import ACTION_HIGH, ACTION_LOW, ManipulationEnv
from tc_mmwm_core.domains.manipulation.instructions import HIGH, LOW, SPEED_LIMIT, Instruction
from tc_mmwm_core.domains.manipulation.scene import WALL_CENTRE, WORKSPACE, Scene, wall_distance
from tc_mmwm_core.domains.manipulation.simulator import FULL_SPEED

POLICIES = {
    "reach-wall": SawyerReachWallV3Policy,
    "push": SawyerPushV3Policy,
    "push-wall": SawyerPushWallV3Policy,
    "pick-place-wall": SawyerPickPlaceWallV3Policy,
}
GRIP = {"reach": 0.0, "push": 0.6, "place": 0.9}  # what Meta-World's policies close with
AT_PUCK = 0.12  # m from hand to puck, where the fumbler fumbles
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
        command = _command(info["state"][None], env.scene, env.instruction, cruise, top_speed)
        disturbance = 0.8 * disturbance + 0.6 * noise * rng.normal(size=4)
        return _act(command[0], disturbance)

    return drive


def advise(states: np.ndarray, scene: Scene, meaning: Instruction) -> np.ndarray:
    """What the expert without noise would do in each of ``states`` [S, 13], [S, 4] in units."""
    cruise, top_speed = 0.125, 0.27  # the middle of what the experts have
    return _act(_command(states, scene, meaning, cruise, top_speed), np.zeros(4))


def explorer(rng: np.random.Generator) -> Driver:
    """The expert, and in between random actions held for a while (εz-greedy; Dabney et al., 2021).

    A planner asks of every state what comes of actions that no expert would take there. Without recordings of them the
    world model is wrong where candidates differ most, and the best-looking candidate is the one it is most wrong about.
    """
    return _exploring(expert(rng, noise=0.1), rng, lambda state: 0.06, lengths=(4, 16), about=0.5)


def fumbler(rng: np.random.Generator) -> Driver:
    """The :func:`explorer`, mostly where hand and puck meet: what slips or is pushed away takes the most to learn."""
    drive, often = expert(rng, noise=0.1), rng.uniform(0.1, 0.35)

    def likely(state: np.ndarray) -> float:
        return often if np.linalg.norm(state[oracle.HAND] - state[oracle.PUCK]) < AT_PUCK else 0.03

    return _exploring(drive, rng, likely, lengths=(6, 13), about=0.3)


def _exploring(
    drive: Driver,
    rng: np.random.Generator,
    likely: Callable[[np.ndarray], float],
    lengths: tuple[int, int],
    about: float,
) -> Driver:
    """``drive``, and at each step, with the probability ``likely`` in its state, an action held for a while.

    ``lengths``: control steps, from the first to below the second; ``about``: how often the action is one near to what
    ``drive`` does, and not any.
    """
    held, left = np.zeros(4), 0

    def explore(environment: gymnasium.Env, info: dict[str, Any]) -> np.ndarray:
        nonlocal held, left
        action = drive(environment, info)
        if left == 0 and rng.random() < likely(info["state"]):
            left = int(rng.integers(*lengths))
            around, spread = (action, 0.4) if rng.random() < about else (np.zeros(4), 1.0)
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
        return _act(np.append(action[:3] * FULL_SPEED, action[3]), disturbance)

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
        return _act(np.append(error * min(GAIN, speed / (np.linalg.norm(error) + 1e-9)), grip), disturbance)

    return drive


def _act(command: np.ndarray, disturbance: np.ndarray) -> np.ndarray:
    action = command + disturbance * (ACTION_HIGH - ACTION_LOW) / 2
    return np.clip(action, ACTION_LOW, ACTION_HIGH).astype(np.float32)


def _command(states: np.ndarray, scene: Scene, meaning: Instruction, cruise: float, top_speed: float) -> np.ndarray:
    """:func:`_plan` within the speed that is allowed, [S, 4], and commanded so that it is what the arm does."""
    speed = min(top_speed, 0.75 * SPEED_LIMIT) if meaning.slow else top_speed
    velocity, grip = _plan(states, scene, meaning, cruise, speed)
    share = np.minimum(1.0, speed / np.maximum(np.linalg.norm(velocity, axis=1), 1e-9))
    return np.concatenate([velocity * share[:, None] / scene.factors.gain, grip[:, None]], 1)


def _plan(
    states: np.ndarray, scene: Scene, meaning: Instruction, cruise: float, speed: float
) -> tuple[np.ndarray, np.ndarray]:
    """Velocity [S, 3] in m/s and grip [S] for ``states`` [S, 13]."""
    hand, puck = states[:, oracle.HAND], states[:, oracle.PUCK]
    low, high = (HIGH + 0.02 if meaning.height == "high" else 0.0), (LOW - 0.02 if meaning.height == "low" else 1.0)
    grip = np.full(len(states), GRIP[meaning.verb])
    if meaning.verb == "reach":
        return _follow(hand[:, :2], hand, scene, meaning, np.clip(cruise, low, high), speed), grip

    apart = puck[:, :2] - hand[:, :2]
    distance = np.hypot(*apart.T)
    grasp = puck[:, 2] + oracle.GRASP_HEIGHT - 0.02
    held = (distance < 0.03) & (hand[:, 2] < grasp + 0.03) & (states[:, oracle.GRIPPING] > 0.5)
    closing = ~held & (distance < 0.012) & (hand[:, 2] < grasp + 0.012)
    # Down a funnel: the nearer to above the puck, the lower. A policy that learns this sees no step in what is wanted.
    hover = np.minimum(np.maximum(cruise, puck[:, 2] + 0.10), high)
    funnel = grasp + (hover - grasp) * np.clip((distance - 0.012) / 0.02, 0.0, 1.0)
    across = GAIN * apart
    far = ~held & (distance > 0.06)
    for ways, there in oracle.puck_ways(scene, meaning, puck[:, :2], far):
        across[there] = speed * oracle.GRID.descent(ways.around, hand[there, :2])
    near = distance < 0.10  # first up, then above the puck: a low hand would push it away
    across[near] *= np.clip((hand[near, 2] - funnel[near] + 0.03) / 0.02, 0.0, 1.0)[:, None]
    velocity = np.concatenate([across, (GAIN * (funnel - hand[:, 2]))[:, None]], 1)
    velocity[closing] = GAIN * np.concatenate([apart, (grasp - hand[:, 2])[:, None]], 1)[closing]
    carry = oracle.GRASP_HEIGHT if meaning.verb == "push" else oracle.GRASP_HEIGHT + 0.02
    velocity[held] = _follow(puck[held, :2], hand[held], scene, meaning, carry, speed)
    return velocity, np.where(held | closing, grip, -1.0)


def _follow(
    place: np.ndarray, hand: np.ndarray, scene: Scene, meaning: Instruction, height: float, speed: float
) -> np.ndarray:
    """Velocity [S, 3] that brings ``place`` [S, 2] (the hand's or the held puck's) to the goal, around or over the
    wall."""
    ways, over = oracle.goal_ways(scene, meaning), oracle.lift(scene, meaning)
    above = hand[:, 2]
    here = np.concatenate([place, above[:, None]], 1)
    around = ways.travel(here, None, height)
    crossing = np.zeros(len(place), bool) if over is None else ways.travel(here, over, height) < around - 0.01
    across = np.empty_like(place)
    for way, taken in ((ways.around, ~crossing), (ways.across, crossing)):
        distance = oracle.GRID.sample(way, place[taken])[:, None]
        along = np.minimum(speed, GAIN * distance) * oracle.GRID.descent(way, place[taken])
        across[taken] = np.where(distance < 0.03, GAIN * (oracle.goal(scene, meaning) - place[taken]), along)
    if over is not None:
        near = wall_distance(hand[crossing, :2])
        share = np.clip(np.maximum(near / 0.05, (above[crossing] - over + 0.03) / 0.02), 0.0, 1.0)
        across[crossing] *= share[:, None]
    heights = height if over is None else np.where(crossing, over + 0.01, height)
    return np.concatenate([across, (GAIN * (heights - above))[:, None]], 1)
