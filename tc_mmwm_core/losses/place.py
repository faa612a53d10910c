"""Localisation: where in the image a latent says that the robot and what it moves are, where a simulator knows it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tc_mmwm_core.losses.reduction import masked_difference

DELTA = 0.05


def place(located: Tensor, target: Tensor, mask: Tensor, delta: float = DELTA) -> Tensor:
    """Σ_t h_δ(p̂_t − p_t) / δ with the Huber loss h_δ, summed over the coordinates, mean over the batch.

    Args:
        located, target: image coordinates in [-1, 1], [B, ..., 2 · bodies].
        mask: bool [B, ...], where the true place is known.
        delta: δ, in image coordinates: errors beyond it count by their size, smaller ones by their square.
    """
    difference = masked_difference(located, target, mask)
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta) / delta
    return loss.flatten(1).sum(1).mean()
