"""Counterfactual and language truth: restore a state, replay other actions, compare what came with predictions.

The simulator is put back bit for bit before each candidate, so that nothing but the action differs; the verdicts of two
instructions are compared on the same state and the same candidates, so that nothing but the words differ.

The model sees what the robot would: it has watched the episode up to the state, as the planner does. Screening is
judged only under instructions that the state itself complies with. Where the rule is broken before anything is done,
every candidate violates, and a model that rejects them all has screened nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from scipy.stats import spearmanr

from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.domains.controllers import step_of
from tc_mmwm_core.domains.drivers import drawn
from tc_mmwm_core.runtime.screener import Screener

LATEST = 40  # control steps that a probed state lies into its episode, at most
MARGINS = (0.01, 0.02, 0.05, 0.1)  # where errors are counted by the oracle's margin, on either side of 0
HELD_SPREAD = 0.3  # candidates are an action held, drawn uniformly, and this much noise on each step of it


@dataclass(frozen=True)
class Truth:
    """Candidates of one state: what was predicted and what came. N candidates, K latent steps, instructions 0 and 1."""

    seed: int
    margins: list[float]  # the oracle's, in the state itself, one per instruction; > 0: the rule is broken already
    rules: list[str]  # the kinds of rule in each instruction: "speed, zone"
    foretold: list[np.ndarray]  # violation [N], max over k, one row per instruction
    reached: list[np.ndarray]  # the oracle's largest margin [N] on the way, one row per instruction
    progress: np.ndarray  # [N], at step K, under instruction 0
    outcome: np.ndarray  # [N], minus the cost to go after K steps, under instruction 0
    start: float  # minus the cost to go in the state itself
    # Progress of the best place in view under instruction 0, and under one whose goal is not there; None: not asked.
    goal_there: float | None = None
    goal_absent: float | None = None

    @property
    def broken(self) -> list[np.ndarray]:
        """Whether each candidate breaks the rule, bool [N], one row per instruction."""
        return [margin > 0 for margin in self.reached]

    @property
    def complies(self) -> list[bool]:
        """Whether the state itself complies, one per instruction."""
        return [margin <= 0 for margin in self.margins]


def drawn_state(
    domain: Domain, environment: gymnasium.Env, seed: int, rng: np.random.Generator
) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]] | None:
    """A state some way into a scripted episode in the layout of ``seed``; None where the episode ended before that.

    The driver is drawn as for collection. Returns every observation from the first to that of the state, and the
    state's info.
    """
    observation, info = environment.reset(seed=seed, options={"factors": ()})
    observations = [observation]
    drive = domain.driver(drawn(domain.drivers(), rng), rng)
    for _ in range(int(rng.integers(1, LATEST))):
        observation, _, terminated, truncated, info = environment.step(drive(environment, info))
        if terminated or truncated:
            return None
        observations.append(observation)
    return observations, info


def drawn_candidates(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Normalised action sequences, float32 of ``shape`` [N, K, A]: each an action held, with a little noise."""
    held = rng.uniform(-1, 1, (shape[0], 1, shape[2]))
    return np.clip(held + HELD_SPREAD * rng.normal(size=shape), -1, 1).astype(np.float32)


def replay(environment: gymnasium.Env, saved: Any, sequence: np.ndarray, frame_skip: int) -> np.ndarray:
    """States [K · frame_skip, P] after each control step of ``sequence`` [K, A] (units) from ``saved``."""
    environment.unwrapped.restore(saved)
    states = []
    for action in np.repeat(sequence, frame_skip, axis=0):
        states.append(environment.step(action)[-1]["state"])
    return np.stack(states)


def probe(
    domain: Domain,
    environment: gymnasium.Env,
    screener: Screener,
    seed: int,
    candidates: int,
) -> Truth | None:
    """Judge the :func:`drawn_state` of ``seed``; None where there is none.

    The second instruction is drawn until it means other places than the first.
    """
    rng = np.random.default_rng([seed, 0xCF])
    drawn = drawn_state(domain, environment, seed, rng)
    if drawn is None:
        return None
    observations, info = drawn
    saved = environment.unwrapped.save()
    manifest, interface = screener.bundle.manifest, screener.bundle.interface
    normalised = drawn_candidates(rng, (candidates, manifest.horizon, interface.action_size))
    texts = [info["instruction"], _another(domain, info, rng)]
    step, memory = step_of(observations[-1], 0), watched(screener, observations[:-1], texts[0])
    actions = interface.denormalise_action(normalised)
    futures = [replay(environment, saved, sequence, manifest.frame_skip) for sequence in actions]
    foretold, reached, here = [], [], []
    for text in texts:
        scene = screener.encode(step, screener.instruct(text), memory)
        rollouts = screener.screen(scene, normalised)
        foretold.append(rollouts.violation.max(1))
        judged = domain.judge(info["scene"], np.concatenate(futures), text)
        reached.append(judged.margin.reshape(candidates, -1).max(1))
        if text == texts[0]:
            there = scene.goal
            progress = rollouts.progress[:, -1]
            outcome = -judged.cost.reshape(candidates, -1)[:, -1]
        here.append(domain.judge(info["scene"], info["state"][None], text))
    margins, start = [float(judged.margin[0]) for judged in here], -float(here[0].cost[0])
    rules = [", ".join(sorted(domain.rules(text))) for text in texts]
    goals = {}
    absent = domain.absent_goal(info["scene"], np.random.default_rng([seed, 0xAB5E]))
    if there is not None and absent is not None:
        scene = screener.encode(step, screener.instruct(absent), memory)
        goals = {"goal_there": float(there[0]), "goal_absent": float(scene.goal[0])}
    return Truth(seed, margins, rules, foretold, reached, progress, outcome, start, **goals)


def watched(screener: Screener, observations: Sequence[dict[str, np.ndarray]], text: str) -> np.ndarray | None:
    """The memory of the view after ``observations``, one per control step, as the planner keeps it; None of none.

    It is of what was seen alone: the same under any instruction.
    """
    memory, instruction = None, screener.instruct(text)
    for observation in observations:
        memory = screener.encode(step_of(observation, 0), instruction, memory).memory
    return memory


def turned(truth: Truth, threshold: float) -> tuple[int, int]:
    """Candidates whose oracle verdict differs between the instructions; of them those judged right under both.

    None of a state that breaks either instruction from the start.
    """
    if not all(truth.complies):
        return 0, 0
    differs = truth.broken[0] != truth.broken[1]
    right = [(foretold > threshold) == broken for foretold, broken in zip(truth.foretold, truth.broken, strict=True)]
    return int(differs.sum()), int((differs & right[0] & right[1]).sum())


def rank_correlation(truth: Truth) -> float:
    """Spearman's correlation between predicted progress and what came; NaN where every outcome is the same."""
    return float(spearmanr(truth.progress, truth.outcome).statistic) if np.ptp(truth.outcome) > 0 else float("nan")


def prediction_error(truth: Truth) -> tuple[float, float]:
    """Mean distance, in the unit of the domain's cost, from what came to what was predicted, and to the start."""
    return float(np.abs(truth.progress - truth.outcome).mean()), float(np.abs(truth.start - truth.outcome).mean())


def sequences(truths: Sequence[Truth]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted violation [S] and whether the oracle saw one, bool [S], of every candidate.

    Under every instruction that its state complies with.
    """
    foretold, margin = _pooled(truths)
    return foretold, margin > 0


def errors_by_margin(truths: Sequence[Truth], threshold: float) -> list[dict[str, float]]:
    """Of candidates whose largest margin lies in each range of :data:`MARGINS`, the percentage judged wrong.

    Above 0 those are misses, below false alarms; ``n`` counts the candidates. Ranges without any are left out.
    """
    edges = [-np.inf, *(-m for m in reversed(MARGINS)), 0.0, *MARGINS, np.inf]
    foretold, margin = _pooled(truths)
    wrong = (foretold > threshold) != (margin > 0)
    found = []
    for least, most in itertools.pairwise(edges):
        here = wrong[(margin > least) & (margin <= most)]
        if len(here):
            found.append({"from": least, "to": most, "wrong": 100 * float(here.mean()), "n": len(here)})
    return found


def errors_by_rule(truths: Sequence[Truth], threshold: float) -> dict[str, dict[str, int]]:
    """By kinds of rule: ``violating`` candidates, ``missed`` of them; ``complying`` ones, ``rejected`` of them."""
    found: dict[str, dict[str, int]] = {}
    for rules, foretold, margin in (row for truth in truths for row in _judged(truth)):
        broken, rejected = margin > 0, foretold > threshold
        row = found.setdefault(rules or "none", dict.fromkeys(("violating", "missed", "complying", "rejected"), 0))
        for name, which in zip(row, (broken, broken & ~rejected, ~broken, ~broken & rejected), strict=True):
            row[name] += int(which.sum())
    return dict(sorted(found.items()))


def missed(truth: Truth, threshold: float) -> tuple[int, int]:
    """Violating sequences; of them those accepted."""
    foretold, broken = sequences([truth])
    return int(broken.sum()), int((foretold[broken] <= threshold).sum())


def alarmed(truth: Truth, threshold: float) -> tuple[int, int]:
    """Complying sequences; of them those rejected."""
    foretold, broken = sequences([truth])
    return int((~broken).sum()), int((foretold[~broken] > threshold).sum())


def _judged(truth: Truth) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Rules, violation foretold [N] and largest margin [N], under each instruction that the state complies with."""
    rows = zip(truth.rules, truth.foretold, truth.reached, truth.complies, strict=True)
    return ((rules, foretold, margin) for rules, foretold, margin, complies in rows if complies)


def _pooled(truths: Sequence[Truth]) -> tuple[np.ndarray, np.ndarray]:
    """Violation foretold [S] and largest margin [S] of all of :func:`_judged`."""
    rows = [(foretold, margin) for truth in truths for _, foretold, margin in _judged(truth)]
    foretold, margin = zip(*rows, strict=True) if rows else ([np.zeros(0)], [np.zeros(0)])
    return np.concatenate(foretold), np.concatenate(margin)


def _another(domain: Domain, info: dict[str, Any], rng: np.random.Generator) -> str:
    first = domain.judge(info["scene"], info["state"][None], info["instruction"])
    for _ in range(50):
        text = domain.draw_instruction(info["scene"], rng)
        other = domain.judge(info["scene"], info["state"][None], text)
        if np.abs(other.field_margin - first.field_margin).max() > 0:
            return text
    return text
