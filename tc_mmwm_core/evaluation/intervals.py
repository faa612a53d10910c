"""95 % confidence intervals: Wilson's for shares of episodes, Student's over seeds, else the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# scipy: intervals that others have checked.
from scipy.stats import binomtest, t

RESAMPLES = 2000


def share(values: Sequence[bool]) -> dict[str, float]:
    """Percentage of ``values`` that hold, with Wilson's interval; of none: NaN."""
    n = len(values)
    if not n:
        return {"mean": np.nan, "low": np.nan, "high": np.nan, "n_episodes": 0}
    found = binomtest(int(sum(values)), n).proportion_ci(method="wilson")
    return {"mean": 100 * sum(values) / n, "low": 100 * found.low, "high": 100 * found.high, "n_episodes": n}


def student(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of the mean of ``values``, e.g. one of each training seed; of fewer than two: NaN."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def bootstrap(statistic: Callable[..., float], *samples: Sequence[object], seed: int = 0) -> dict[str, float]:
    """``statistic(*samples)`` with its interval: each sample (episodes, states) is resampled by itself.

    Samples may hold anything; what is paired goes into one sample, as tuples. Resamples where the statistic does not
    exist (NaN) are left out. ``n_episodes`` is the length of the first sample.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES if all(map(len, samples)) else 0):
        again = [[sample[i] for i in rng.integers(len(sample), size=len(sample))] for sample in samples]
        drawn.append(statistic(*again))
    low, high = _percentiles(np.array(drawn, float))
    return {"mean": float(statistic(*samples)), "low": low, "high": high, "n_episodes": len(samples[0])}


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    return tuple(map(float, np.percentile(known, [2.5, 97.5]))) if len(known) else (np.nan, np.nan)
