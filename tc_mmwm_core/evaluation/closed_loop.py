"""Drive a domain with a controller and count what came of it: success, compliance, decisions, rejected candidates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
from scipy.stats import binomtest

from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.planner import Decision, Planner, PlannerState

SECOND = 1_000_000_000
Controller = Callable[[dict[str, np.ndarray], dict[str, Any]], tuple[np.ndarray, Decision | None]]


@dataclass
class Episode:
    """What came of one episode."""

    seed: int
    instruction: str
    reached: bool
    success: bool  # reached without any violation
    steps: int
    violations: int  # control steps that violated the instruction
    stopped: int  # decisions where every candidate was rejected
    rejected: float  # mean share of candidates rejected
    latency_p50: float  # ms a decision
    latency_p99: float
    path: list[list[float]]  # oracle's state at every control step


def step_of(observation: dict[str, np.ndarray], stamp_ns: int) -> Step:
    """A domain's observation as what the planner decides on."""
    images = {key.removeprefix("image."): value for key, value in observation.items() if key.startswith("image.")}
    return Step(stamp_ns, images, observation["sensor"], {})


def planner_controller(planner: Planner) -> Controller:
    """The planner, with a clock of control periods."""
    period = round(SECOND / planner.interface.rate)
    tick = 0

    def control(observation: dict[str, np.ndarray], info: dict[str, Any]) -> tuple[np.ndarray, Decision]:
        nonlocal tick
        tick += 1
        decision = planner.decide(step_of(observation, tick * period), planner.screener.instruct(info["instruction"]))
        return decision.action, decision

    return control


def run_episode(
    environment: gymnasium.Env, controller: Controller, seed: int, options: dict[str, Any] | None = None
) -> Episode:
    """One episode from ``reset(seed, options)`` to its end."""
    observation, info = environment.reset(seed=seed, options=options or {})
    path, latencies, rejected = [info["state"].tolist()], [], []
    steps = violations = stopped = 0
    done = False
    while not done:
        start = time.perf_counter()
        action, decision = controller(observation, info)
        latencies.append((time.perf_counter() - start) * 1e3)
        if decision is not None:
            stopped += decision.state == PlannerState.ALL_REJECTED
            if decision.screening is not None:
                rejected.append(1 - decision.screening.accepted / len(decision.screening.verdict))
        observation, _, terminated, truncated, info = environment.step(action)
        steps += 1
        violations += bool(info["violation"])
        path.append(info["state"].tolist())
        done = terminated or truncated
    return Episode(
        seed=seed,
        instruction=info["instruction"],
        reached=bool(info["reached"]),
        success=bool(info["success"]),
        steps=steps,
        violations=violations,
        stopped=stopped,
        rejected=float(np.mean(rejected)) if rejected else 0.0,
        latency_p50=float(np.percentile(latencies, 50)),
        latency_p99=float(np.percentile(latencies, 99)),
        path=path,
    )


def driver_controller(domain: Domain, environment: gymnasium.Env, kind: str, seed: int) -> Controller:
    """One of the domain's scripted drivers as a controller."""
    drive = domain.driver(kind, np.random.default_rng(seed))
    return lambda _, info: (drive(environment, info), None)


def summary(episodes: list[Episode]) -> dict[str, Any]:
    """Percentages with 95 % Wilson intervals over episodes, and the cost of a decision."""

    def share(values: list[bool]) -> dict[str, float]:
        test = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
        return {
            "mean": 100 * sum(values) / len(values),
            "low": 100 * float(test.low),
            "high": 100 * float(test.high),
            "n_episodes": len(values),
        }

    return {
        "task_success": share([e.success for e in episodes]),
        "goal_reached": share([e.reached for e in episodes]),
        "constraint_compliance": share([e.violations == 0 for e in episodes]),
        "steps": float(np.mean([e.steps for e in episodes])),
        "candidates_rejected": 100 * float(np.mean([e.rejected for e in episodes])),
        "stopped_decisions": float(np.mean([e.stopped for e in episodes])),
        "latency_p50_ms": float(np.median([e.latency_p50 for e in episodes])),
        "latency_p99_ms": float(np.max([e.latency_p99 for e in episodes])),
        "episodes": [{key: value for key, value in asdict(e).items() if key != "path"} for e in episodes],
    }
