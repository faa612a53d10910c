"""95 % confidence intervals that stay honest at the edges: 30 of 30 is no certainty, nor is "never lost, in 50".

Wilson's for shares of episodes, Korn and Graubard's for candidates of several states, Student's over training seeds.
For differences and ratios of shares, draws of what the shares may be, smoothed by half an observation of each outcome
(Jeffreys' prior). Resampling what was seen would never draw what was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# scipy: intervals that others have checked.
from scipy.stats import beta, binomtest, t

DRAWS = 4000
UNKNOWN = {"mean": np.nan, "low": np.nan, "high": np.nan}


def share(values: Sequence[bool]) -> dict[str, float]:
    """Percentage of ``values`` that hold, with Wilson's interval; of none: NaN."""
    n = len(values)
    if not n:
        return UNKNOWN | {"n_episodes": 0}
    found = binomtest(int(sum(values)), n).proportion_ci(method="wilson")
    return {"mean": 100 * sum(values) / n, "low": 100 * found.low, "high": 100 * found.high, "n_episodes": n}


def clustered(counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Percentage over states of which each gives several candidates: rows (how many, of them how many hold).

    Candidates of one state resemble each other. Korn and Graubard (1998): Clopper and Pearson's interval of as many
    independent candidates as have the variance between the states. Where all or none hold no variance is seen, and only
    the states are counted. ``n_episodes`` counts the states that have any candidate.
    """
    whole, part = np.array([row for row in counts if row[0]], float).reshape(-1, 2).T
    states = len(whole)
    if not states:
        return UNKNOWN | {"n_episodes": 0}
    p = part.sum() / whole.sum()
    n = 1.0
    if states > 1:
        variance = states / (states - 1) * np.square(part - p * whole).sum() / whole.sum() ** 2
        n = min(p * (1 - p) / variance, whole.sum()) if variance > 0 else states
        n *= min(1.0, float(t.ppf(0.975, max(n - 1, 1)) / t.ppf(0.975, states - 1)) ** 2)
    low = beta.ppf(0.025, n * p, n * (1 - p) + 1) if p > 0 else 0.0
    high = beta.ppf(0.975, n * p + 1, n * (1 - p)) if p < 1 else 1.0
    return {"mean": 100 * float(p), "low": 100 * float(low), "high": 100 * float(high), "n_episodes": states}


def difference(rows: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Points between two shares in the same layouts: rows of -1 (lost), 0 or 1 (gained), or means of such.

    Draws of the 2 x 2 table of a layout's outcomes, with half an observation more in each cell (as Agresti & Min,
    2005); where rows are means, a Bayesian bootstrap (Rubin, 1981) with the same addition.
    """
    if not len(rows):
        return UNKNOWN | {"n_episodes": 0}
    weights = np.random.default_rng(seed).dirichlet(np.append(np.ones(len(rows)), [0.5, 1.0, 0.5]), DRAWS)
    low, high = _percentiles(100 * weights @ np.append(rows, [-1, 0, 1]))
    return {"mean": 100 * float(np.mean(rows)), "low": low, "high": high, "n_episodes": len(rows)}


def ratio(home: Sequence[bool], *beyond: Sequence[bool], seed: int = 0) -> dict[str, float]:
    """Mean over ``beyond`` of the share that holds there over the share at ``home``, percent; NaN where that is none.

    Draws from the Beta posterior of each share: Jeffreys' half observation of each outcome, which those ``beyond``
    divide between them. A half in each of six would add three failures to their mean, and its interval would lie too
    low. ``n_episodes`` counts those beyond.
    """
    n = sum(map(len, beyond))
    if not any(home) or not all(map(len, beyond)):
        return UNKNOWN | {"n_episodes": n}
    rng = np.random.default_rng(seed)

    def drawn(values: Sequence[bool], prior: float) -> NDArray[np.float64]:
        return rng.beta(sum(values) + prior, len(values) - sum(values) + prior, DRAWS)

    at_home, others = drawn(home, 0.5), [drawn(each, 0.5 / len(beyond)) for each in beyond]
    low, high = _percentiles(100 * np.mean(others, axis=0) / at_home)
    mean = 100 * float(np.mean([np.mean(each) for each in beyond]) / np.mean(home))
    return {"mean": mean, "low": low, "high": high, "n_episodes": n}


def mean(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Mean with the percentile bootstrap's interval, for what is no share; of fewer than two, no interval."""
    n = len(values)
    if n < 2:
        return UNKNOWN | {"mean": float(values[0]) if n else np.nan, "n_episodes": n}
    low, high = _percentiles(np.random.default_rng(seed).choice(values, (DRAWS, n)).mean(1))
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n_episodes": n}


def student(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of the mean of ``values``, e.g. one of each training seed; of fewer than two: NaN."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def paired(mine: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, float]:
    """Mean of mine - theirs over the training seeds that both have, seed by seed, with Student's interval."""
    seeds = [seed for seed in mine if seed in theirs]
    differences = np.array([mine[seed] - theirs[seed] for seed in seeds])
    low, high = student(differences)
    return {"mean": float(differences.mean()) if seeds else np.nan, "low": low, "high": high, "seeds": len(seeds)}


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
