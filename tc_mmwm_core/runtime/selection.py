"""The rule of the decision: which candidates are accepted, and which of them is executed.

accept  max_k violation <= τ      choose the best score among the accepted      none accepted: retreat, or none

Where candidates of another policy are preferred, the best is chosen among the accepted ones of these, if there are any.
The score is progress, less what is taken off for coming near to τ and for straying from the policy's proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from tc_mmwm_core.runtime.limits import outside_value_limits
from tc_mmwm_core.runtime.screener import Rollouts

NEAR = 1.0  # of the violation score, whose unit is objective.margin_scale: from here to τ a candidate is near to τ
ProgressRule = Literal["final", "mean", "best"]


class Verdict(IntEnum):
    """What became of a candidate; the constants of ``Screening.msg``."""

    ACCEPTED = 0
    REJECTED_VIOLATION = 1
    REJECTED_LIMITS = 2
    REJECTED_NON_FINITE = 3


@dataclass(frozen=True, eq=False)
class Screening:
    """What one decision made of every candidate."""

    actions: np.ndarray  # float32 [N, K, A], units: what would have been executed
    violation: np.ndarray  # float32 [N, K]
    progress: np.ndarray  # float32 [N, K]
    verdict: np.ndarray  # uint8 [N], a Verdict each
    score: np.ndarray  # float32 [N], what accepted candidates are ranked by
    threshold: float  # τ
    fields: list[str]  # [A], action field names
    limits: np.ndarray  # float32 [A, 2], units
    chosen: int  # index of the executed candidate, -1 where it was none: the safe action, at once
    sources: tuple[tuple[str, int], ...]  # who proposed them: (source, how many), in order
    external: range = range(0)  # another policy's candidates
    preferred: range = range(0)  # candidates that come before all others where any of them is accepted

    @property
    def accepted(self) -> int:
        """How many candidates were accepted."""
        return int(np.count_nonzero(self.verdict == Verdict.ACCEPTED))

    def reason(self, index: int) -> str:
        """Why candidate ``index`` was rejected, in words; empty where it was accepted."""
        match Verdict(int(self.verdict[index])):
            case Verdict.ACCEPTED:
                return ""
            case Verdict.REJECTED_VIOLATION:
                k = int(np.argmax(self.violation[index]))
                return f"violation {self.violation[index, k]:.3f} > {self.threshold:.3f} at step {k + 1}"
            case Verdict.REJECTED_LIMITS:
                k, field = np.argwhere(outside_value_limits(self.actions[index], self.limits))[0]
                value = self.actions[index, k, field]
                low, high = self.limits[field]
                return f"{self.fields[field]} is {value:g} at step {k + 1}, allowed are {low:g} to {high:g}"
            case Verdict.REJECTED_NON_FINITE:
                what = "candidate" if not np.isfinite(self.actions[index]).all() else "prediction"
                return f"{what} is NaN or infinite"


def score(
    rollouts: Rollouts, strayed: np.ndarray, rule: ProgressRule, threshold: float, caution: float, trust: float
) -> np.ndarray:
    """The number that ranks each candidate, [N]: progress - caution · near - trust · strayed.

    Near is the mean over k of how far the violation score lies above τ - :data:`NEAR`. What is executed is not
    quite what was imagined, so of two candidates that get as far, the one that keeps more distance is better.

    Args:
        rollouts: violation and progress [N, K].
        strayed: [N], mean squared distance from the policy's proposal, normalised. Where progress is foretold no more
            finely than candidates differ, the policy knows better; a large ``trust`` makes the planner a filter that
            changes what the policy proposes only where that is rejected.
        rule: progress at which steps.
        threshold: τ.
        caution, trust: progress subtracted per unit of each.
    """
    with np.errstate(invalid="ignore"):  # what is not finite is rejected, whatever its score
        near = np.maximum(rollouts.violation - np.float32(threshold - NEAR), 0).mean(1)
        return _PROGRESS[rule](rollouts.progress) - np.float32(caution) * near - np.float32(trust) * strayed


_PROGRESS: dict[ProgressRule, Callable[[np.ndarray], np.ndarray]] = {
    "final": lambda progress: progress[:, -1],
    "mean": lambda progress: progress.mean(1),
    "best": lambda progress: progress.max(1),
}


def judge(actions: np.ndarray, outside: np.ndarray, rollouts: Rollouts, threshold: float) -> np.ndarray:
    """A verdict for each candidate, uint8 [N].

    Args:
        actions: [N, K, A], any units.
        outside: bool [N], leaves the action limits.
        rollouts: violation and progress [N, K].
        threshold: τ; a violation equal to it is accepted.
    """
    # NaN compares false, so what is not finite would pass for "not above the threshold": it is judged first.
    finite = np.isfinite(actions).all((1, 2))
    finite &= np.isfinite(rollouts.violation).all(1) & np.isfinite(rollouts.progress).all(1)
    verdict = np.full(len(actions), Verdict.ACCEPTED, np.uint8)
    verdict[rollouts.violation.max(1) > threshold] = Verdict.REJECTED_VIOLATION
    verdict[outside] = Verdict.REJECTED_LIMITS
    verdict[~finite] = Verdict.REJECTED_NON_FINITE
    return verdict


def choose(verdict: np.ndarray, scores: np.ndarray, preferred: range = range(0)) -> int:
    """Index of the accepted candidate with the best score, the lowest index where several tie; -1: none accepted.

    Where any of the ``preferred`` ones is accepted, it is the best of these.
    """
    accepted = verdict == Verdict.ACCEPTED
    if accepted[preferred].any():
        return preferred.start + choose(verdict[preferred], scores[preferred])
    return int(np.argmax(np.where(accepted, scores, -np.inf))) if accepted.any() else -1


def retreat(verdict: np.ndarray, violation: np.ndarray) -> int:
    """Index of the way out where none was accepted; -1: nothing is better than to stop.

    It is the one with the least mean violation of those that violate at no step more than candidate 0, which holds the
    safe action, and end lower.

    Without it, a robot that stands within the margin that τ keeps would stand there for ever: each way out starts
    inside. None of these is accepted; each is foreseen to be better than what would be done instead.
    """
    inside = (verdict == Verdict.REJECTED_VIOLATION) & (violation <= violation[0]).all(1)
    inside &= violation[:, -1] < violation[0, -1]
    return int(np.argmin(np.where(inside, violation.mean(1), np.inf))) if inside.any() else -1


def best(merit: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` highest of ``merit`` [N] where ``among`` [N] holds, best first; ties keep order."""
    order = np.argsort(np.where(among, -merit, np.inf), kind="stable")
    return order[: min(count, int(np.count_nonzero(among)))]
