"""Candidate action sequences: where they come from, and how the good ones are refined.

Everything is in normalised action space, [-1, 1] per field. N candidates, K latent steps, A action fields.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from tc_mmwm_core.config import Config


class RefinementConfig(Config):
    """Resampling around the best candidates: one more call of the model per iteration."""

    method: Literal["none", "mppi", "cem"] = Field("none", description="none, mppi or cem (cross-entropy method)")
    iterations: int = Field(1, ge=1, le=20, description="further rounds of sampling and screening")
    elites: int = Field(32, ge=2, description="number of best candidates that the next round is sampled around")
    temperature: float = Field(0.1, gt=0, description="mppi: a candidate whose score is this much lower weighs 1/e")
    shrink: float = Field(0.5, gt=0, le=1, description="mppi: factor on the noise from one round to the next")
    min_sigma: float = Field(0.05, ge=0, description="cem: lower bound on the spread, in normalised actions")


class ProposalConfig(Config):
    """How many candidates each source contributes. Shares are relative; what a source cannot use goes to `policy`."""

    candidates: int = Field(256, ge=8, le=65536, description="N, candidates per round, without external ones")
    policy: float = Field(1.0, ge=0, description="share of noisy copies of the policy's proposal")
    shifted: float = Field(1.0, ge=0, description="share of noisy copies of the last plan, shifted by the elapsed time")
    fan: float = Field(1.0, ge=0, description="share of constant actions, on a grid over the action limits")
    slowed: int = Field(
        7, ge=0, le=64, description="copies of the policy's proposal at n/(slowed + 1) of its speed, n = 1, 2, ..."
    )
    sigma: float = Field(0.4, gt=0, le=2, description="standard deviation of the noise, in normalised actions")
    smoothing: float = Field(0.6, ge=0, lt=1, description="correlation of the noise from one latent step to the next")
    refinement: RefinementConfig = RefinementConfig()

    @model_validator(mode="after")
    def _some_source(self) -> ProposalConfig:
        if self.policy + self.shifted + self.fan <= 0:
            raise ValueError("policy, shifted and fan are all 0: at least one share must be positive")
        return self


def propose(
    config: ProposalConfig,
    policy: np.ndarray,
    shifted: np.ndarray | None,
    safe: np.ndarray,
    motions: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
    """Candidates of the first round, and who proposed how many of them.

    Always among them, whatever the shares: the safe action held, the policy's proposal as it is and more slowly, and
    the shifted plan, where there is one. Noise makes a slow plan faster, hardly ever slower: where only the speed is
    wrong, a slower copy is what is left to accept.

    Args:
        config: how many from where.
        policy: [K, A], the policy's proposal.
        shifted: [K, A], what is left of the last plan, or None.
        safe: [A], the action that stops the robot.
        motions: bool [A], fields of which a slower copy is nearer to ``safe``: velocities, and positions to be held.
        rng: where the noise comes from.

    Returns:
        float32 [N, K, A] and ((source, count), ...) in their order.
    """
    steps, size = policy.shape
    slower = _slowed(policy, safe, motions, min(config.slowed, config.candidates // 4))
    rest = config.candidates - 1 - len(slower)
    weights = {"policy": config.policy, "shifted": config.shifted if shifted is not None else 0.0, "fan": config.fan}
    total = sum(weights.values()) or 1.0
    grid = fan(int(rest * weights["fan"] / total), size)
    around_plan = int(rest * weights["shifted"] / total)
    around_policy = rest - len(grid) - around_plan
    parts = [("safe", np.broadcast_to(safe, (1, steps, size)))]
    parts.append(("policy", _around(policy, around_policy, config, rng)))
    parts.append(("slowed", slower))
    if shifted is not None:
        parts.append(("shifted", _around(shifted, around_plan, config, rng)))
    parts.append(("fan", np.broadcast_to(grid[:, None], (len(grid), steps, size))))
    parts = [(name, part) for name, part in parts if len(part)]
    actions = np.concatenate([part for _, part in parts]).astype(np.float32)
    return actions, tuple((name, len(part)) for name, part in parts)


def fan(count: int, size: int) -> np.ndarray:
    """Constant actions on a regular grid over [-1, 1]^size, at most ``count`` of them: float32 [M, size].

    Every field gets an odd number of levels, so that ends and middle are among them, and levels are added to one
    field after the other while the grid still fits.
    """
    if count < 1:
        return np.zeros((0, size), np.float32)
    levels = [1] * size
    grown = True
    while grown:
        grown = False
        for field in range(size):
            wider = [level + 2 * (index == field) for index, level in enumerate(levels)]
            if np.prod(wider) <= count:
                levels, grown = wider, True
    axes = [np.linspace(-1, 1, level) if level > 1 else np.zeros(1) for level in levels]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, size).astype(np.float32)


def correlated_noise(shape: tuple[int, int, int], smoothing: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise [N, K, A] of variance 1, correlated by ``smoothing`` from step to step (AR(1))."""
    noise = rng.standard_normal(shape, np.float32)
    fresh = np.float32(np.sqrt(1 - smoothing**2))
    for k in range(1, shape[1]):
        noise[:, k] = np.float32(smoothing) * noise[:, k - 1] + fresh * noise[:, k]
    return noise


def shift_plan(plan: np.ndarray, steps: float) -> np.ndarray:
    """What is left of ``plan`` [..., K, A] after ``steps`` latent steps, which need not be whole: [..., K, A].

    A plan holds each action for one latent step, and a decision is taken every control period, so the window of a
    latent step usually straddles two of the plan's. Its action is their average, weighted by how long each lasts
    within the window; the last action is held beyond the plan's end.
    """
    whole = int(np.floor(steps))
    fraction = np.float32(steps - whole)
    last = plan.shape[-2] - 1
    index = np.arange(last + 1) + whole
    now, later = (plan[..., np.minimum(index + ahead, last), :] for ahead in (0, 1))
    return (1 - fraction) * now + fraction * later if fraction else now


def refine_mppi(
    elites: np.ndarray, scores: np.ndarray, config: ProposalConfig, iteration: int, rng: np.random.Generator
) -> np.ndarray:
    """Candidates around the elites' mean, weighted by exp(score / temperature): Williams et al., ICRA 2017.

    Args:
        elites: [M, K, A], the best so far.
        scores: [M], higher is better.
        iteration: 1, 2, ...; each shrinks the noise once more.

    Returns:
        float32 [N, K, A], the mean itself first.
    """
    weights = np.exp((scores - scores.max()) / config.refinement.temperature)
    mean = np.tensordot(weights / weights.sum(), elites, 1)
    sigma = config.sigma * config.refinement.shrink**iteration
    return _sample(mean, np.full_like(mean, sigma), config, rng)


def refine_cem(elites: np.ndarray, config: ProposalConfig, rng: np.random.Generator) -> np.ndarray:
    """Candidates from a Gaussian fitted to ``elites`` [M, K, A]: the cross-entropy method, Rubinstein 1999.

    Returns:
        float32 [N, K, A], the elites' mean first.
    """
    spread = np.maximum(elites.std(0), config.refinement.min_sigma)
    return _sample(elites.mean(0), spread, config, rng)


def _sample(mean: np.ndarray, sigma: np.ndarray, config: ProposalConfig, rng: np.random.Generator) -> np.ndarray:
    noise = correlated_noise((config.candidates, *mean.shape), config.smoothing, rng)
    noise[0] = 0
    return np.clip(mean + sigma * noise, -1, 1).astype(np.float32)


def _slowed(plan: np.ndarray, safe: np.ndarray, motions: np.ndarray, count: int) -> np.ndarray:
    """``plan`` [K, A] with n/(count + 1) of its ``motions``, n = count .. 1: [count, K, A]; none without any."""
    if not motions.any():
        return np.zeros((0, *plan.shape), np.float32)
    share = np.arange(count, 0, -1, dtype=np.float32)[:, None, None] / (count + 1)
    return np.where(motions, safe + share * (plan - safe), plan)


def _around(plan: np.ndarray, count: int, config: ProposalConfig, rng: np.random.Generator) -> np.ndarray:
    """``plan`` [K, A] itself and ``count`` - 1 noisy copies: [count, K, A]."""
    noise = correlated_noise((count, *plan.shape), config.smoothing, rng)
    noise[:1] = 0
    return np.clip(plan + np.float32(config.sigma) * noise, -1, 1)
