"""Counterfactual and language truth: restore a state, replay other actions, and ask the oracle what the model foretold.

The simulator is put back bit for bit before each candidate, so that nothing but the action differs; the verdicts of two
instructions are compared on the same state and the same candidates, so that nothing but the words differ.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from scipy.stats import spearmanr

from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.evaluation.closed_loop import step_of
from tc_mmwm_core.runtime.screener import Screener


@dataclass
class Truth:
    """Candidates of one state: what was foretold and what came. N candidates, K latent steps, instructions 0 and 1."""

    foretold: list[np.ndarray]  # violation [N], max over k, a row an instruction
    broken: list[np.ndarray]  # bool [N]
    progress: np.ndarray  # [N], at step K, under instruction 0
    outcome: np.ndarray  # [N], minus the cost to go after K steps, under instruction 0


def replay(environment: gymnasium.Env, saved: Any, sequence: np.ndarray, frame_skip: int) -> np.ndarray:
    """States [K · frame_skip, P] after each control step of ``sequence`` [K, A] (units) from ``saved``."""
    environment.unwrapped.restore(saved)
    states = []
    for action in np.repeat(sequence, frame_skip, axis=0):
        states.append(environment.step(action)[-1]["state"])
    return np.stack(states)


def probe(
    domain: Domain, screener: Screener, seed: int, candidates: int, factors: Collection[str] = ()
) -> Truth | None:
    """Judge one state in the layout of ``seed``, some way into a scripted episode; None where it ended before that.

    The second instruction is drawn until it forbids other places than the first.
    """
    rng = np.random.default_rng([seed, 0xCF])
    environment = domain.environment()
    try:
        observation, info = environment.reset(seed=seed, options={"factors": factors})
        drive = domain.driver("visitor", rng)
        for _ in range(int(rng.integers(1, 40))):
            observation, _, terminated, truncated, info = environment.step(drive(environment, info))
            if terminated or truncated:
                return None
        saved = environment.unwrapped.save()
        manifest = screener.bundle.manifest
        shape = (candidates, manifest.horizon, screener.bundle.interface.action_size)
        held = rng.uniform(-1, 1, (candidates, 1, shape[2]))
        normalised = np.clip(held + 0.3 * rng.normal(size=shape), -1, 1).astype(np.float32)
        actions = screener.bundle.interface.denormalise_action(normalised)
        texts = [info["instruction"], _another(domain, info, rng, factors)]
        step = step_of(observation, 0)
        futures = [replay(environment, saved, sequence, manifest.frame_skip) for sequence in actions]
    finally:
        environment.close()
    foretold, broken = [], []
    progress = outcome = np.zeros(candidates)
    for row, text in enumerate(texts):
        rollouts = screener.screen(screener.encode(step, screener.instruct(text)), normalised)
        judged = [domain.judge(info["scene"], states, text) for states in futures]
        foretold.append(rollouts.violation.max(1))
        broken.append(np.array([bool((j.margin > 0).any()) for j in judged]))
        if row == 0:
            progress = rollouts.progress[:, -1]
            outcome = -np.array([j.cost[-1] for j in judged])
    return Truth(foretold, broken, progress, outcome)


def language_truth(truths: list[Truth], threshold: float) -> tuple[float, int]:
    """Of the candidates whose oracle verdict differs between the instructions, the share where the model's does too.

    Returns the percentage and how many candidates it rests on.
    """
    flips = agreed = 0
    for truth in truths:
        differs = truth.broken[0] != truth.broken[1]
        rejected = [foretold > threshold for foretold in truth.foretold]
        right = (rejected[0] == truth.broken[0]) & (rejected[1] == truth.broken[1])
        flips += int(differs.sum())
        agreed += int((differs & right).sum())
    return (100 * agreed / flips if flips else float("nan")), flips


def rank_correlation(truths: list[Truth]) -> float:
    """Mean over states of Spearman's correlation between foretold progress and what came."""
    values = [spearmanr(t.progress, t.outcome).statistic for t in truths if np.ptp(t.outcome) > 0]
    return float(np.mean(values))


def verdicts(truths: list[Truth], threshold: float) -> dict[str, float]:
    """Share of violating sequences accepted (miss) and of complying sequences rejected (false alarm), percent."""
    foretold = np.concatenate([row for t in truths for row in t.foretold])
    broken = np.concatenate([row for t in truths for row in t.broken])
    return {
        "miss_rate": 100 * float((foretold[broken] <= threshold).mean()) if broken.any() else float("nan"),
        "false_alarm_rate": 100 * float((foretold[~broken] > threshold).mean()) if (~broken).any() else float("nan"),
        "violating_sequences": int(broken.sum()),
        "sequences": len(broken),
    }


def _another(domain: Domain, info: dict[str, Any], rng: np.random.Generator, factors: Collection[str]) -> str:
    first = domain.judge(info["scene"], info["state"][None], info["instruction"])
    for _ in range(50):
        text = domain.draw_instruction(info["scene"], rng, factors)
        other = domain.judge(info["scene"], info["state"][None], text)
        if np.abs(other.field_margin - first.field_margin).max() > 0:
            return text
    return text
