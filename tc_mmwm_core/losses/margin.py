"""Regression of the oracle's margin, where a simulator knows how far the instruction is broken: gives v a scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tc_mmwm_core.losses.reduction import masked_difference, prudent


def margin_regression(v: Tensor, score: Tensor, mask: Tensor, prudence: float = 1.0) -> Tensor:
    """Σ_t h₁(v_t − score_t) with the Huber loss h₁, mean over the batch.

    Where the margin cannot be known, behind what hides the view, a prudence above 1 makes v an upper quantile of it.

    Args:
        v, score: violation scores and the oracle's margin on their scale, [B, ...].
        mask: bool [B, ...], where the margin is known.
        prudence: how many times as bad a v too low is as one too high.
    """
    difference = masked_difference(v, score, mask)
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none")
    return prudent(loss, difference, prudence).flatten(1).sum(1).mean()
