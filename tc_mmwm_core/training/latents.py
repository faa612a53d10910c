"""How much a latent holds: effective rank, variance, and how well the true state can be read from it linearly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def effective_rank(latents: NDArray) -> float:
    """Number of directions that ``latents`` [N, D] spread over, from 1 to min(N, D); 0 where they are all the same.

    exp of the entropy of the normalised singular values (Roy & Vetterli, 2007), of the centred latents: what all
    samples have in common tells nothing apart.
    """
    centred = np.asarray(latents, np.float64) - np.mean(latents, axis=0, dtype=np.float64)
    singular = np.linalg.svd(centred, compute_uv=False)
    # What is left of equal samples is the rounding of their own type and of the float64 mean: no direction.
    rounding = max(np.finfo(latents.dtype).eps, max(centred.shape) * np.finfo(np.float64).eps)
    if singular.max(initial=0.0) <= np.abs(latents).max(initial=0.0) * np.sqrt(centred.size) * rounding:
        return 0.0
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share))))


def variance(latents: NDArray) -> NDArray[np.float64]:
    """Variance of each dimension of ``latents`` [N, D] over the samples, [D]."""
    return np.var(latents, axis=0, dtype=np.float64)


def linear_state(states: NDArray, units: Sequence[str]) -> NDArray[np.float32]:
    """``states`` [N, P] as what can be read linearly, [N, P']: an angle (unit rad) as its cosine and sine."""
    columns = []
    for column, unit in zip(states.T, units, strict=True):
        columns += [np.cos(column), np.sin(column)] if unit == "rad" else [column]
    return np.stack(columns, 1).astype(np.float32)


class LinearProbe:
    """Ridge regression from latents [N, D], standardised, to values [N, P]."""

    def __init__(self, latents: NDArray, values: NDArray, penalty: float = 1e-3) -> None:
        self.mean, std = latents.mean(0), latents.std(0)
        self.scale = np.where(std > 0, std, 1.0)
        self.offset = values.mean(0)
        x, y = self._features(latents), values - self.offset
        self.weights = np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ y)

    def __call__(self, latents: NDArray) -> NDArray:
        """Latents [..., D] to values [..., P]."""
        return self.offset + self._features(latents) @ self.weights

    def _features(self, latents: NDArray) -> NDArray:
        return (latents - self.mean) / self.scale


def linear_probe_r2(
    latents: NDArray,
    states: NDArray,
    trajectories: NDArray,
    *,
    test_share: float = 0.25,
    penalty: float = 1e-3,
    seed: int = 0,
) -> NDArray[np.float64]:
    """R² of each true state variable on held-out trajectories, read from the latents by ridge regression.

    1 is a variable read exactly, 0 no better than the training mean. A variable that does not vary among the held-out
    samples has no R²: NaN.

    Args:
        latents: [N, D].
        states: true states, [N, P].
        trajectories: which trajectory each sample is of, [N]. They are split as a whole: neighbouring steps are alike.
        test_share: share of trajectories held out, at least one and not all.
        penalty: ridge penalty per sample on standardised latents.
        seed: of the split.

    Returns:
        R² of each state variable, [P].

    Raises:
        ValueError: fewer than two trajectories, or lengths that differ.
    """
    latents, states = np.asarray(latents, np.float64), np.asarray(states, np.float64)
    names = np.unique(trajectories)
    if not len(latents) == len(states) == len(trajectories):
        raise ValueError(
            f"{len(latents)} latents, {len(states)} states and {len(trajectories)} trajectory labels: "
            "one of each per sample is needed"
        )
    if len(names) < 2:
        raise ValueError(f"{len(names)} trajectory: at least 2 are needed, one to train on and one to hold out")
    held_out = int(np.clip(round(test_share * len(names)), 1, len(names) - 1))
    test = np.isin(trajectories, np.random.default_rng(seed).permutation(names)[:held_out])

    read = LinearProbe(latents[~test], states[~test], penalty)
    residual = np.sum((states[test] - read(latents[test])) ** 2, axis=0)
    total = np.sum((states[test] - states[test].mean(0)) ** 2, axis=0)
    rounding = np.finfo(np.float32).eps * np.abs(states[test]).max(0)  # simulators' states are stored in float32
    varies = total > test.sum() * np.square(rounding)
    return np.where(varies, 1.0 - residual / np.where(varies, total, 1.0), np.nan)
