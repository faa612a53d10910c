"""Whether the constraint function means something: who it tells apart, and whether its threshold keeps its promise."""

from __future__ import annotations

from typing import Any

import numpy as np

from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.training.calibration import CalibrationError, calibrate, miss_rate
from tc_mmwm_core.training.held_out import SequenceScores
from tc_mmwm_core.training.validation import area_under_curve


def discrimination(scores: SequenceScores, domain: Domain) -> dict[str, float]:
    """Area under the ROC curve of violating against complying sequences: ``all``, and by kind of rule.

    A sequence counts for a rule where its instruction has that rule and no other; NaN where none of them violates.
    """
    rules = {text: domain.rules(text) for text in np.unique(scores.instruction)}
    only = np.array([rules[text][0] if len(rules[text]) == 1 else "" for text in scores.instruction])
    found = {"all": area_under_curve(scores.score, scores.violating)}
    for rule in sorted({str(rule) for rule in only} - {""}):
        found[rule] = area_under_curve(scores.score[only == rule], scores.violating[only == rule])
    return found


def verdicts(scores: SequenceScores, tau: float) -> dict[str, float]:
    """At ``tau``: ``miss_rate``, mean over trajectories as it is bounded, and ``false_alarm_rate`` over sequences."""
    complying = scores.score[~scores.violating]
    return {
        "miss_rate": miss_rate(*scores.violations, tau),
        "false_alarm_rate": float((complying > np.float32(tau)).mean()) if len(complying) else float("nan"),
    }


def calibrated(scores: SequenceScores, alpha: float, delta: float, share: float, seed: int) -> dict[str, float]:
    """Calibrate on a random ``share`` of the trajectories, and say what the threshold does on the rest.

    Raises:
        CalibrationError: too few trajectories.
    """
    return _calibrated(scores, alpha, delta, share, np.random.default_rng(seed))


def bound(
    scores: SequenceScores, alpha: float, delta: float, resamples: int, share: float, seed: int
) -> dict[str, Any]:
    """How often the bound "at most α are missed, with confidence 1 − δ" fails, over random calibration sets.

    Each time a random ``share`` of the trajectories calibrates and the rest stand for the population. Small shares
    suit: the rest must be many, or its own noise counts as failures.

    Returns:
        ``exceeding``, the share of resamples whose miss rate on the rest is above ``alpha``, which the bound keeps at
        most ``delta``; ``miss_rates``; ``calibration_trajectories`` and ``trajectories`` with violations.
    """
    rng = np.random.default_rng(seed)
    drawn = [_calibrated(scores, alpha, delta, share, rng) for _ in range(resamples)]
    misses = [each["miss_rate"] for each in drawn]
    return {
        "alpha": alpha,
        "delta": delta,
        "resamples": resamples,
        "exceeding": float(np.mean(np.array(misses) > alpha)),
        "miss_rate_mean": float(np.mean(misses)),
        "miss_rate_max": float(np.max(misses)),
        "false_alarm_rate_mean": float(np.mean([each["false_alarm_rate"] for each in drawn])),
        "calibration_trajectories": drawn[0]["calibration_trajectories"],
        "trajectories": len(np.unique(scores.violations[1])),
        "miss_rates": misses[:20],
    }


def _calibrated(
    scores: SequenceScores, alpha: float, delta: float, share: float, rng: np.random.Generator
) -> dict[str, float]:
    names = np.unique(scores.violations[1])
    chosen = np.isin(scores.trajectory, rng.permutation(names)[: round(share * len(names))])
    first, rest = scores.where(chosen), scores.where(~chosen)
    if not rest.violating.any():
        raise CalibrationError(f"{len(names)} trajectories with violations leave none to test a threshold on")
    found = calibrate(*first.violations, alpha, delta)
    return {"tau": found.tau, "calibration_trajectories": found.n, **verdicts(rest, found.tau)}
