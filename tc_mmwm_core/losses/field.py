"""The instruction's field against an oracle's, at every place in view, where a simulator has one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tc_mmwm_core.losses.reduction import masked_difference


def field(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ over decisions and channels of the mean over places of h_δ(p − t) / δ, δ = 0.2, mean over the batch.

    Args:
        predicted, target: [B, ..., H, W], on the scale of progress and of violation scores.
        mask: bool [B, ...], where an oracle judged.
    """
    delta = 0.2
    difference = masked_difference(predicted, target, mask)
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta) / delta
    return loss.mean((-2, -1)).flatten(1).sum(1).mean()
