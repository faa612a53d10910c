"""How near the instruction is to done: what ranks the candidates that screening accepts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tc_mmwm_core.losses.reduction import masked_difference

DELTA = 0.2


def progress(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ_t h_δ(progress(ẑ_t, z_l) − target_t) / δ with the Huber loss h_δ and δ = 0.2, mean over the batch.

    Linear beyond δ: the cost to go jumps inside what is forbidden, and least squares would learn little else.

    Args:
        predicted, target: [B, ...], in the unit of the domain's progress.
        mask: bool [B, ...], steps whose progress is known.
    """
    difference = masked_difference(predicted, target, mask)
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=DELTA) / DELTA
    return loss.flatten(1).sum(1).mean()
