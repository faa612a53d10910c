"""Referring expressions: where is what the instruction names? Binds words to what the camera sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

from tc_mmwm_core.losses.reduction import masked_difference, sum_over_steps


def referring(predicted: Tensor, target: Tensor, mask: Tensor, delta: float = 0.1) -> Tensor:
    """Huber loss Σ_t Σ_r h_δ(x̂ − x) / δ of 2-D positions, summed over x and y, mean over the batch.

    h_δ(d) is d²/2 up to δ and δ(|d| − δ/2) beyond: near the target it is least squares, and far from it, where the
    words are not yet bound and two pads are both likely, one wrong pad does not outweigh all the rest. Divided by δ
    it has slope 1 beyond δ, whatever δ is.

    Args:
        predicted, target: [B, ..., 2], normalised image or arena coordinates in [-1, 1].
        mask: bool [B, ...], where the position of what is named is known.
        delta: δ, in the same coordinates.
    """
    difference = masked_difference(predicted, target, mask)
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return loss.flatten(1).sum(1).mean() / delta


def presence(logit: Tensor, there: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of whether what is named is there at all, Σ over decisions and referents, mean over the batch.

    Args:
        logit: [B, ...].
        there: bool [B, ...].
        mask: bool [B, ...], where it is known.
    """
    loss = binary_cross_entropy_with_logits(logit, there.to(logit.dtype), reduction="none")
    return sum_over_steps(loss, mask)
