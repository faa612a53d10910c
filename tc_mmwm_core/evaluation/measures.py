"""The measures of docs/benchmark.md, from what episodes and probes left behind. Percent, except where said otherwise.

Each is ``{"mean", "low", "high", "n_episodes"}`` with its 95 % interval; ``n_episodes`` counts what it rests on.
Retention is cut off at 100 and a drop at 0, but their intervals are of the ratio and of the difference themselves: that
of a drop may lie below 0, where more succeeded under the perturbation than without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tc_mmwm_core.domains.perturbations import KINDS
from tc_mmwm_core.evaluation import counterfactual, intervals
from tc_mmwm_core.evaluation.closed_loop import Episode
from tc_mmwm_core.evaluation.counterfactual import Truth
from tc_mmwm_core.evaluation.intervals import clustered, share
from tc_mmwm_core.evaluation.suite import HOME, Records
from tc_mmwm_core.training.validation import area_under_curve

Measure = dict[str, float]
FRACTIONS = (  # not percent; errors are in the unit of the domain's cost
    "counterfactual_rank_correlation",
    "counterfactual_error",
    "counterfactual_error_of_staying",
    "screening_auroc",
)
DISTANCES = 4  # groups of equal size that episodes are put into by the distance of their goal


def measures(records: Records) -> dict[str, Measure]:
    """Every measure that ``records`` hold enough for."""
    home = records.episodes[HOME]
    found = {
        "task_success": share([e.success for e in home]),
        "goal_reached": share([e.reached for e in home]),
        "constraint_compliance": complied(home),
    }
    factors = {name: episodes for name, episodes in records.episodes.items() if name != HOME and name not in KINDS}
    for name, episodes in factors.items():
        found[f"success.{name}"] = share([e.success for e in episodes])
        found[f"compliance.{name}"] = complied(episodes)
        found[f"retention.{name}"] = _retained(home, episodes)
    if factors:
        found["ood_retention"] = _retained(home, *factors.values())
    disturbed = {name: episodes for name, episodes in records.episodes.items() if name in KINDS}
    for name, episodes in disturbed.items():
        found[f"success.{name}"] = share([e.success for e in episodes])
        found[f"compliance.{name}"] = complied(episodes)
        found[f"drop.{name}"] = _dropped(home, episodes)
    if disturbed:
        found["robustness_drop"] = _dropped(home, *disturbed.values())
    if records.truths:
        found |= foresight(records)
    return found


def foresight(records: Records) -> dict[str, Measure]:
    """What the probes say; intervals are over the probed states that have anything to say: ``n_episodes`` counts them.

    States that break the rule from the start say nothing of screening. ``miss_rate`` is the share of all violating
    candidates that are accepted; ``miss_rate_by_state`` the mean over states of each one's share, as the calibrated
    bound is on the mean over trajectories of each one's (see :mod:`tc_mmwm_core.training.calibration`). Its sequences
    are those that were driven, though, and these are drawn at random.
    """
    truths, tau = records.truths, records.threshold
    known = [truth for truth in truths if truth.goal_there is not None and records.goal_threshold is not None]
    begun = [truth for truth in truths if any(truth.complies)]
    turns = [counterfactual.turned(truth, tau) for truth in truths if all(truth.complies)]
    sequences = counterfactual.sequences(truths)
    errors = [counterfactual.prediction_error(truth) for truth in truths]
    misses = [counterfactual.missed(truth, tau) for truth in begun]
    by_state = [100 * accepted / violating for violating, accepted in misses if violating]
    ranks = [rank for rank in map(counterfactual.rank_correlation, truths) if np.isfinite(rank)]
    return {
        "language_truth": clustered(turns) | {"n_candidates": sum(turn[0] for turn in turns)},
        "counterfactual_rank_correlation": intervals.mean(ranks),
        "counterfactual_error": intervals.mean([error for error, _ in errors]),
        "counterfactual_error_of_staying": intervals.mean([error for _, error in errors]),
        "miss_rate": clustered(misses),
        "miss_rate_by_state": intervals.mean(by_state),
        "false_alarm_rate": clustered([counterfactual.alarmed(truth, tau) for truth in begun]),
        "screening_auroc": {"mean": area_under_curve(*sequences), "n_episodes": len(begun)},
        **_goals_told(known, records.goal_threshold),
    }


def _goals_told(truths: Sequence[Truth], threshold: float | None) -> dict[str, Measure]:
    """Of goals that are not there, the share that is told; of those that are, the share that is not seen."""
    if not truths:
        return {}
    return {
        "absent_goal_told": share([truth.goal_absent <= threshold for truth in truths]),
        "goal_overlooked": share([truth.goal_there <= threshold for truth in truths]),
    }


def cost(records: Records) -> dict[str, float]:
    """What decisions cost in distribution (percentiles over all of them), and how often none was accepted."""
    home = records.episodes[HOME]
    followed = [e.followed for e in home if e.followed is not None]
    p50, p99 = np.percentile(np.concatenate([e.latencies for e in home]), [50, 99])
    return {
        "steps": float(np.mean([e.steps for e in home])),
        "candidates_rejected": 100 * float(np.mean([e.rejected for e in home])),
        "stopped_decisions": float(np.mean([e.stopped for e in home])),
        **({"other_policy_followed": 100 * float(np.mean(followed))} if followed else {}),
        "latency_p50_ms": float(p50),
        "latency_p99_ms": float(p99),
    }


def curves(records: Records) -> dict[str, Any]:
    """What the figure shows: success over horizon, compliance by rule, α over phases, ROC, where screening errs."""
    home = records.episodes[HOME]
    found: dict[str, Any] = {
        "success_within_steps": success_within(home),
        "success_by_distance": success_by_distance(home),
        "compliance_by_rule": compliance_by_rule(home),
        "contributions_by_phase": contributions_by_phase(home),
    }
    if records.truths:
        told = foresight(records)
        found["roc"] = roc_curve(*counterfactual.sequences(records.truths))
        found["calibrated_point"] = {
            "threshold": records.threshold,
            "false_alarm_rate": told["false_alarm_rate"]["mean"],
            "hit_rate": 100 - told["miss_rate"]["mean"],
        }
        found["errors_by_margin"] = counterfactual.errors_by_margin(records.truths, records.threshold)
        found["errors_by_rule"] = counterfactual.errors_by_rule(records.truths, records.threshold)
    return found


def successes(episodes: Sequence[Episode]) -> list[bool]:
    """Which succeeded."""
    return [e.success for e in episodes]


def complied(episodes: Sequence[Episode]) -> Measure:
    """Share of the episodes in which no control step violated the instruction."""
    return share([e.violations == 0 for e in episodes])


def retention(home: Sequence[bool], *beyond: Sequence[bool]) -> float:
    """Mean over factors of success under the factor over success in distribution, each at most 100 %.

    Doing better than at home under one factor does not make up for another.
    """
    at_home = float(np.mean(home))
    return 100 * float(np.mean([min(1.0, float(np.mean(each)) / at_home) for each in beyond])) if at_home else np.nan


def _retained(home: Sequence[Episode], *beyond: Sequence[Episode]) -> Measure:
    at_home, others = successes(home), [successes(episodes) for episodes in beyond]
    return intervals.ratio(at_home, *others) | {"mean": retention(at_home, *others)}


def by_layout(home: Sequence[Episode], *disturbed: Sequence[Episode]) -> list[tuple[bool, ...]]:
    """Successes of the same layout, at home and under each perturbation."""
    at_home = {e.seed: e.success for e in home}
    rows = zip(*disturbed, strict=True)
    return [(at_home[row[0].seed], *(e.success for e in row)) for row in rows if row[0].seed in at_home]


def drop(rows: Sequence[tuple[bool, ...]]) -> float:
    """Mean over perturbations of the points of success lost, each at least 0."""
    if not rows:
        return np.nan
    home, *disturbed = np.mean(rows, axis=0) * 100
    return float(np.mean([max(0.0, home - each) for each in disturbed]))


def _dropped(home: Sequence[Episode], *disturbed: Sequence[Episode]) -> Measure:
    rows = by_layout(home, *disturbed)
    return intervals.difference([row[0] - float(np.mean(row[1:])) for row in rows]) | {"mean": drop(rows)}


def success_within(episodes: Sequence[Episode]) -> list[tuple[int, float]]:
    """(steps, % of all episodes that had succeeded by then), at every number of steps where one did."""
    steps = sorted(e.steps for e in episodes if e.success)
    return [(n, 100 * float(np.searchsorted(steps, n, "right")) / len(episodes)) for n in dict.fromkeys(steps)]


def success_by_distance(episodes: Sequence[Episode]) -> list[Measure]:
    """Success in groups of equal size by the cost to go at the start, nearest first, with each group's range."""
    ordered = sorted(episodes, key=lambda e: e.distance)
    groups = [ordered[i * len(ordered) // DISTANCES : (i + 1) * len(ordered) // DISTANCES] for i in range(DISTANCES)]
    return [
        {"nearest": group[0].distance, "farthest": group[-1].distance, **share(successes(group))}
        for group in groups
        if group
    ]


def compliance_by_rule(episodes: Sequence[Episode]) -> dict[str, Measure]:
    """Of the episodes whose instruction gives a rule, the share that never broke it, by the rule in words."""
    rules = sorted({rule for e in episodes for rule in e.named})
    return {rule: share([rule not in e.broken for e in episodes if rule in e.named]) for rule in rules}


def contributions_by_phase(episodes: Sequence[Episode]) -> list[list[float] | None]:
    """Mean α of each modality in each fifth of the way, over the episodes that have decisions there."""
    phases = zip(*(e.contributions for e in episodes), strict=True)
    seen = [[row for row in phase if row is not None] for phase in phases]
    return [np.mean(rows, axis=0).tolist() if rows else None for rows in seen]


def roc(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False alarm rate and hit rate, 0..1, as the threshold falls from above the highest score; empty without both."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(score) else np.zeros(0, int)
    hits, alarms = np.cumsum(positive[order])[ends], np.cumsum(~positive[order])[ends]
    if not len(ends) or not hits[-1] or not alarms[-1]:
        return np.zeros(0), np.zeros(0)
    return np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])


def roc_curve(score: np.ndarray, positive: np.ndarray) -> dict[str, list[float]]:
    """The ROC curve at every percent of false alarms; empty without both kinds."""
    false_alarms, hits = roc(score, positive)
    at = np.arange(101) if len(hits) else np.zeros(0)
    reached = hits[np.searchsorted(100 * false_alarms, at, "right") - 1] if len(hits) else at
    return {"false_alarm_rate": at.tolist(), "hit_rate": (100 * reached).tolist()}
