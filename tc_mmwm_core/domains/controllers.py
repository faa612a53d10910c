"""Who drives in a domain: the planner, by itself or screening another; a policy; a scripted driver; chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Domain, Driver
from tc_mmwm_core.domains.policies import Proposals
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.candidates import ExternalCandidates
from tc_mmwm_core.runtime.limits import limit_sequence
from tc_mmwm_core.runtime.planner import SECOND, Decision, Planner, PlannerState

PLANNER, POLICY, RANDOM = "planner", "policy", "random"  # beside each domain's own drivers

Controller = Callable[[dict[str, np.ndarray], dict[str, Any]], tuple[np.ndarray, Decision | None]]


def step_of(observation: dict[str, np.ndarray], stamp_ns: int) -> Step:
    """A domain's observation as what the planner decides on."""
    images = {key.removeprefix("image."): value for key, value in observation.items() if key.startswith("image.")}
    return Step(stamp_ns, images, observation["sensor"], {})


def planner_controller(planner: Planner, proposals: Proposals | None = None) -> Controller:
    """The planner from a fresh start, with a clock of control periods.

    ``proposals``: of another policy, which it screens beside its own, as of the topic ``candidate_actions``.
    """
    planner.reset()
    period = round(SECOND / planner.interface.rate)
    tick = 0

    def control(observation: dict[str, np.ndarray], info: dict[str, Any]) -> tuple[np.ndarray, Decision]:
        nonlocal tick
        tick += 1
        step, instruction = step_of(observation, tick * period), planner.screener.instruct(info["instruction"])
        theirs = []
        if proposals is not None:
            theirs = [ExternalCandidates("other policy", step.stamp_ns, proposals(observation, info))]
        decision = planner.decide(step, instruction, *theirs)
        return decision.action, decision

    return control


def policy_controller(planner: Planner) -> Controller:
    """The first action of the bundle's own proposal, within the robot's limits; nothing is imagined or screened."""
    screener, interface = planner.screener, planner.interface
    last: np.ndarray | None = None
    memory: np.ndarray | None = None
    period = 1 / interface.rate

    def control(observation: dict[str, np.ndarray], info: dict[str, Any]) -> tuple[np.ndarray, Decision]:
        nonlocal last, memory
        scene = screener.encode(step_of(observation, 0), screener.instruct(info["instruction"]), memory)
        memory = scene.memory
        proposed = interface.denormalise_action(scene.proposal[:, :1])
        limits, rates = interface.action_limits, interface.action_max_rate
        before = interface.safe_action(observation["sensor"]) if last is None else last
        last = limit_sequence(proposed, before, limits, rates, period, period)[0, 0]
        return last, Decision(last, PlannerState.PLANNING, "", scene=scene)

    return control


def unscreened_controller(proposals: Proposals) -> Controller:
    """The first action of what a policy from elsewhere wants most, anew at every control step."""
    return lambda observation, info: (proposals(observation, info)[0, 0], None)


def driver_controller(domain: Domain, environment: gymnasium.Env, kind: str, seed: int) -> Controller:
    """One of the domain's scripted drivers, which read the simulator's truth."""
    drive = domain.driver(kind, np.random.default_rng(seed))
    return lambda _, info: (drive(environment, info), None)


def intention(
    drive: Driver, environment: gymnasium.Env, ahead: gymnasium.Env, horizon: int, frame_skip: int
) -> Proposals:
    """What ``drive`` is about to do, as one candidate of ``horizon`` latent steps, as a policy of action chunks has it.

    It drives on in ``ahead``, a second environment (it need not render) that is in the same episode.
    """

    def foresee(_: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        ahead.unwrapped.restore(environment.unwrapped.save())
        actions = []
        for _ in range(horizon):
            actions.append(drive(ahead, info))
            for _ in range(frame_skip):
                info = ahead.step(actions[-1])[-1]
        return np.stack(actions)[None]

    return foresee


def random_controller(environment: gymnasium.Env, seed: int) -> Controller:
    """Actions drawn uniformly from the action space, a new one at every step."""
    rng, space = np.random.default_rng(seed), environment.action_space
    return lambda _, __: (rng.uniform(space.low, space.high).astype(np.float32), None)
