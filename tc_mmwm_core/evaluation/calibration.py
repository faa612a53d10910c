"""The threshold of screening, with a bound: at most α of violating sequences are accepted, with confidence 1 − δ.

A sequence is accepted where its score max_k v is at most τ. The risk R(τ) is the expected share of a trajectory's
violating sequences that are accepted; it grows with τ. Held-out trajectories give the largest τ for which

    P(R(τ) > α) ≤ δ        over the draw of the held-out trajectories.

Learn then Test (Angelopoulos, Bates, Candès, Jordan & Lei, 2021) with fixed-sequence testing: τ rises through the
scores while a valid p-value of the hypothesis R(τ) > α stays at most δ, and stops at the first that does not. As the
risk is monotone, no correction for testing many thresholds is needed (Bates et al., "Distribution-free,
risk-controlling prediction sets", 2021). The p-value is exact binomial where each trajectory gives one sequence, and
Hoeffding and Bentkus's where it gives several. What is independent is the trajectory, never the window: windows of one
trajectory resemble each other, and counting them singly would promise far too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, e, exp, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.stats import binom

from tc_mmwm_core.config import Config


class CalibrationError(ValueError):
    """The bound asked for cannot be given from these trajectories."""


class Calibration(Config):
    """A threshold and what it promises; goes into the bundle as it is."""

    tau: float = Field(description="accept a sequence where max_k violation <= tau (a float32 value)")
    alpha: float = Field(gt=0, lt=1, description="at most this share of violating sequences is accepted ...")
    delta: float = Field(gt=0, lt=1, description="... except with this probability over the calibration draw")
    n: int = Field(ge=1, description="held-out trajectories with violating sequences that this rests on")
    sequences: int = Field(ge=1, description="violating sequences in them")
    method: Literal["binomial", "hoeffding-bentkus"] = Field(description="the p-value's kind")
    empirical_miss: float = Field(ge=0, le=1, description="share accepted at tau in the calibration set itself")


def calibrate(scores: ArrayLike, trajectories: Sequence[object] | NDArray, alpha: float, delta: float) -> Calibration:
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
    needed = trajectories_needed(alpha, delta)
    if n < needed:
        raise CalibrationError(
            f"{n} held-out trajectories with violations cannot bound the miss rate by {alpha} with confidence "
            f"{1 - delta:g}: at least {needed} are needed, even if none is missed"
        )
    single = n == len(values)
    p_value = binomial_p_value if single else hoeffding_bentkus_p_value

    # Just below a score everything smaller is accepted and it is not; between two scores nothing changes.
    share = 1.0 / np.bincount(owners)[owners]
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    missed = np.concatenate([[0.0], np.cumsum(share[order])]) / n  # risk with the smallest 0, 1, ... scores accepted
    tau, empirical = None, 0.0
    for score in np.unique(ordered):
        below = missed[np.searchsorted(ordered, score, side="left")]
        if p_value(below, n, alpha) > delta:
            break
        tau, empirical = np.nextafter(score, np.float32(-np.inf)), below
    assert tau is not None  # with nothing missed the p-value is (1 - alpha)^n, which `needed` has seen to
    return Calibration(
        tau=float(tau),
        alpha=alpha,
        delta=delta,
        n=n,
        sequences=len(values),
        method="binomial" if single else "hoeffding-bentkus",
        empirical_miss=float(min(1.0, empirical)),
    )


def miss_rate(scores: ArrayLike, trajectories: Sequence[object] | NDArray, tau: float) -> float:
    """Share of a trajectory's violating sequences accepted at ``tau``, mean over trajectories: what α bounds."""
    values, owners = _sequences(scores, trajectories)
    if not len(values):
        raise CalibrationError("no violating sequence was given")
    accepted = np.bincount(owners, weights=values <= np.float32(tau))
    return float(np.mean(accepted / np.bincount(owners)))


def trajectories_needed(alpha: float, delta: float) -> int:
    """Least n that can give the bound, with no violating sequence accepted: (1 − α)^n ≤ δ."""
    return ceil(log(delta) / log(1 - alpha))


def binomial_p_value(risk: float, n: int, alpha: float) -> float:
    """P(at most n · ``risk`` of n trajectories are missed), were each missed with probability α (Clopper & Pearson).

    ``risk`` is the share missed of n trajectories with one sequence each.
    """
    return float(binom.cdf(round(n * risk), n, alpha))


def hoeffding_bentkus_p_value(risk: float, n: int, alpha: float) -> float:
    """The same bound where a trajectory's loss may be any share in [0, 1]: the smaller of Hoeffding's and Bentkus's.

    exp(−n h(min(risk, α), α)) with h(a, b) = a log(a/b) + (1 − a) log((1 − a)/(1 − b)), and
    e · P(Bin(n, α) ≤ ⌈n risk⌉).
    """
    below = min(risk, alpha)
    divergence = (1 - below) * log((1 - below) / (1 - alpha)) + (below * log(below / alpha) if below > 0 else 0.0)
    # A sum of shares may come out a rounding error above a whole number; the ceiling must not jump.
    return min(exp(-n * divergence), e * float(binom.cdf(ceil(n * risk - 1e-9), n, alpha)), 1.0)


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
