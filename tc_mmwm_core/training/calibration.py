"""The threshold of screening, with a bound on how many violating sequences are accepted.

Of a trajectory's violating sequences, on average over trajectories, at most α are accepted, with confidence 1 − δ.
A sequence is accepted where its score max_k v is at most τ. The risk R(τ) is the expected share of a trajectory's
violating sequences that are accepted; it grows with τ. A trajectory with many violating sequences weighs no more in it
than one with few. Held-out trajectories give the largest τ for which

    P(R(τ) > α) ≤ δ        over the draw of the held-out trajectories.

Learn then Test (Angelopoulos, Bates, Candès, Jordan & Lei, 2021) with fixed-sequence testing: τ rises through the
scores while a valid p-value of the hypothesis R(τ) > α stays at most δ, and stops at the first that does not. As the
risk is monotone, no correction for testing many thresholds is needed (Bates et al., "Distribution-free,
risk-controlling prediction sets", 2021). The p-value is exact binomial where each trajectory gives one sequence, and
one by betting (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", 2024) where it gives
several: shares of trajectories vary less than hits and misses do, which a bet adapts to and Hoeffding and Bentkus's
p-value does not. What is independent is the trajectory, never the window: windows of one trajectory resemble each
other, and counting them singly would promise far too much. Trajectories of one episode, or of one
layout, resemble each other, too, and count as one (:attr:`tc_mmwm_core.data.dataset.TrajectoryInfo.group`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import ceil, exp, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.stats import binom

from tc_mmwm_core.config import Config


class CalibrationError(ValueError):
    """The bound asked for cannot be given from these trajectories."""


class Threshold(Config):
    """A threshold and what it promises; a bundle keeps it as :class:`tc_mmwm_core.runtime.bundle.Calibration`."""

    tau: float = Field(description="accept a sequence where max_k violation <= tau (a float32 value)")
    alpha: float = Field(gt=0, lt=1, description="most of a trajectory's violating sequences accepted, on average ...")
    delta: float = Field(gt=0, lt=1, description="... except with this probability over the calibration draw")
    n: int = Field(ge=1, description="held-out trajectories with violating sequences that this rests on")
    sequences: int = Field(ge=1, description="violating sequences in them")
    method: Literal["binomial", "betting"] = Field(description="the p-value's kind")
    empirical_miss: float = Field(ge=0, le=1, description="what alpha bounds, in the calibration set itself")


def calibrate(scores: ArrayLike, trajectories: Sequence[object] | NDArray, alpha: float, delta: float) -> Threshold:
    """The largest τ that keeps the risk at most ``alpha`` with confidence 1 − ``delta``.

    Args:
        scores: max_k v of each violating held-out sequence, [S]; compared in float32, as the runtime does.
        trajectories: which trajectory each comes from, [S], any labels.

    Raises:
        CalibrationError: too few trajectories (says how many are needed), or a score that is not finite.
    """
    for name, value in {"alpha": alpha, "delta": delta}.items():
        if not 0 < value < 1:
            raise CalibrationError(f"{name} is {value}, a number between 0 and 1 is needed")
    values, owners = _sequences(scores, trajectories)
    n = int(owners.max()) + 1 if len(owners) else 0
    single = n == len(values)
    p_value = binomial_p_value if single else partial(betting_p_value, delta=delta)

    # Just below a score everything smaller is accepted and it is not; between two scores nothing changes.
    share = 1.0 / np.bincount(owners)[owners]
    losses = np.zeros(n)  # of each trajectory, with everything below the score accepted
    tau, empirical = None, 0.0
    for score, those in _by_score(values):
        if p_value(losses, alpha) > delta:
            break
        tau, empirical = np.nextafter(score, np.float32(-np.inf)), losses.mean()
        np.add.at(losses, owners[those], share[those])
        losses = np.minimum(losses, 1.0)  # a sum of shares may come out a rounding error above 1
    if tau is None:
        needed = trajectories_needed(alpha, delta, single and n > 0)  # of none, nobody knows what each would give
        raise CalibrationError(
            f"{n} held-out trajectories with violations cannot bound the miss rate by {alpha} with confidence "
            f"{1 - delta:g}: at least {needed} are needed, even if none is missed"
        )
    return Threshold(
        tau=float(tau),
        alpha=alpha,
        delta=delta,
        n=n,
        sequences=len(values),
        method="binomial" if single else "betting",
        empirical_miss=float(empirical),
    )


def miss_rate(scores: ArrayLike, trajectories: Sequence[object] | NDArray, tau: float) -> float:
    """Share of a trajectory's violating sequences accepted at ``tau``, mean over trajectories: what α bounds."""
    values, owners = _sequences(scores, trajectories)
    if not len(values):
        raise CalibrationError("no violating sequence was given")
    accepted = np.bincount(owners, weights=values <= np.float32(tau))
    return float(np.mean(accepted / np.bincount(owners)))


def trajectories_needed(alpha: float, delta: float, single: bool = True) -> int:
    """Least n that can give the bound, with no violating sequence accepted.

    (1 − α)^n ≤ δ where each trajectory gives a ``single`` sequence; a little more where it gives several.
    """
    needed = ceil(log(delta) / log(1 - alpha))
    while not single and betting_p_value(np.zeros(needed), alpha, delta) > delta:
        needed += 1
    return needed


def binomial_p_value(losses: NDArray, alpha: float) -> float:
    """P(at most as many misses of n), were each trajectory missed with probability α (Clopper & Pearson).

    ``losses`` are 0 or 1, [n].
    """
    return float(binom.cdf(round(losses.sum()), len(losses), alpha))


def betting_p_value(losses: NDArray, alpha: float, delta: float) -> float:
    """The same bound where losses [n] may be any share in [0, 1]: 1 / max_i Π_{j ≤ i} (1 − ν_j (L_j − α)).

    Were the mean loss above α, each factor were at most 1 in expectation whatever is bet, and such a product exceeds
    1/p with probability p at most (Ville). The bet ν_j rests on the losses before: the Waudby-Smith and
    Ramdas bound of Bates et al., 2021. ``delta`` tunes it; any makes a valid p-value.
    """
    n = len(losses)
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(losses)) / (1 + count)
    variance = (0.25 + np.cumsum(np.square(losses - mean))) / (1 + count)
    before = np.concatenate([[0.25], variance[:-1]])
    bet = np.minimum(1.0, np.sqrt(2 * log(1 / delta) / (n * before)))
    wealth = np.cumsum(np.log1p(-bet * (losses - alpha)))
    return min(1.0, exp(-wealth.max(initial=0.0)))


def _by_score(values: NDArray) -> Iterator[tuple[np.float32, NDArray]]:
    """Each score, rising, and the indices of the sequences that have it."""
    order = np.argsort(values, kind="stable")
    scores, first = np.unique(values[order], return_index=True)
    yield from zip(scores, np.split(order, first)[1:], strict=True)


def _sequences(scores: ArrayLike, trajectories: Sequence[object] | NDArray) -> tuple[NDArray, NDArray]:
    """Scores as float32 [S] and their trajectories numbered 0, 1, ..."""
    values = np.asarray(scores, np.float32)
    if values.ndim != 1 or len(values) != len(trajectories):
        raise CalibrationError(
            f"scores have shape {list(values.shape)} for {len(trajectories)} trajectory labels; "
            "one of each per sequence is needed"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise CalibrationError(f"score {bad[0]} is {values[bad[0]]} (and {len(bad) - 1} more): they must be finite")
    return values, np.unique(np.asarray(trajectories), return_inverse=True)[1].reshape(-1)
