"""Drive a domain with a controller, one episode at a time, and keep what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Domain, DomainError
from tc_mmwm_core.domains.controllers import Controller
from tc_mmwm_core.runtime.planner import PlannerState

PHASES = 5  # of a task: fifths of the way, by the oracle's cost to go


@dataclass(frozen=True)
class Episode:
    """What came of one episode.

    Attributes:
        distance: cost to go at the start, on the domain's own scale.
        success: reached without any violation.
        violations: control steps that violated the instruction.
        named: the rules that the instruction gives, in words; empty too where the domain does not list them.
        broken: those that were broken, in words.
        stopped: decisions where every candidate was rejected.
        rejected: mean share of candidates rejected.
        followed: share of decisions that executed another policy's candidate; None where there is no other policy.
        contributions: mean α of each modality in each of :data:`PHASES`; None for a phase without a decision.
        latencies: ms that each decision took, to 0.01.
    """

    seed: int
    instruction: str
    distance: float
    reached: bool
    success: bool
    steps: int
    violations: int
    named: list[str]
    broken: list[str]
    stopped: int
    rejected: float
    followed: float | None
    contributions: list[list[float] | None]
    latencies: list[float]


def run_episode(
    domain: Domain, environment: gymnasium.Env, controller: Controller, seed: int, options: dict[str, Any] | None = None
) -> Episode:
    """One episode from ``reset(seed, options)`` to its end.

    Raises:
        DomainError: it begins in violation of its instruction, which no driver is to blame for: compliance counts the
            control steps that were driven.
    """
    observation, info = environment.reset(seed=seed, options=options or {})
    if info["violation"]:
        raise DomainError(
            f"domain {domain.name!r}: the episode of seed {seed} begins in violation of {info['instruction']!r} "
            f"({', '.join(info['rules']) or 'no rule named'}), so nobody can comply; an episode must begin in a state "
            "that its instruction allows"
        )
    named = info.get("named_rules", [])
    states, weights, latencies, rejected, broken = [info["state"]], [], [], [], []
    followed: list[bool] = []
    violations = stopped = 0
    done = False
    while not done:
        start = time.perf_counter()
        action, decision = controller(observation, info)
        latencies.append(round((time.perf_counter() - start) * 1e3, 2))
        if decision is not None:
            stopped += decision.state == PlannerState.ALL_REJECTED
            if decision.scene is not None:
                weights.append(decision.scene.weights[0])
            if decision.screening is not None:
                rejected.append(1 - decision.screening.accepted / len(decision.screening.verdict))
                if decision.screening.external:
                    followed.append(decision.screening.chosen in decision.screening.external)
        observation, _, terminated, truncated, info = environment.step(action)
        violations += bool(info["violation"])
        broken += info["rules"]
        states.append(info["state"])
        done = terminated or truncated
    cost = domain.judge(info["scene"], np.stack(states), info["instruction"]).cost
    return Episode(
        seed=seed,
        instruction=info["instruction"],
        distance=float(cost[0]),
        reached=bool(info["reached"]),
        success=bool(info["success"]),
        steps=len(states) - 1,
        violations=violations,
        named=list(named),
        broken=list(dict.fromkeys(broken)),
        stopped=stopped,
        rejected=float(np.mean(rejected)) if rejected else 0.0,
        followed=float(np.mean(followed)) if followed else None,
        contributions=_by_phase(cost[:-1], weights),
        latencies=latencies,
    )


def _by_phase(cost: np.ndarray, weights: list[np.ndarray]) -> list[list[float] | None]:
    """Mean ``weights`` [T, M] over the decisions in each fifth of the way from the first ``cost`` [T] to none."""
    if len(weights) != len(cost):
        return [None] * PHASES
    done = 1 - cost / max(float(cost[0]), 1e-9)
    phase = np.clip((done * PHASES).astype(int), 0, PHASES - 1)
    table = np.stack(weights)
    return [table[phase == p].mean(0).tolist() if (phase == p).any() else None for p in range(PHASES)]
