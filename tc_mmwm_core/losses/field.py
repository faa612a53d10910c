"""The instruction's field against an oracle's, at every place in view, where a simulator has one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tc_mmwm_core.losses.reduction import masked_difference, prudent

OPEN = 0.02  # less than any place costs: keeps the logarithm from telling apart what is next to nothing


def field(predicted: Tensor, target: Tensor, mask: Tensor, prudence: float = 1.0) -> Tensor:
    """Σ over decisions of the mean over places of h_δ(p − t) / δ, δ = 0.2, mean over the batch.

    Args:
        predicted, target: one channel [B, ..., H, W], on the scale of progress or of violation scores.
        mask: bool [B, ...], where an oracle judged.
        prudence: how many times as bad a value too low is as one too high.
    """
    return _huber(masked_difference(predicted, target, mask), prudence)


def crossing(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ over decisions of the mean over places of h_δ(ln p − ln t) / δ, δ = 0.2, mean over the batch.

    What a place costs to cross. A cost to go hardly tells of it, because the cheapest ways go round what is dear; and a
    small pillar is a few places of a thousand.

    Args:
        predicted, target: slowness [B, ..., H, W], >= 0.
        mask: bool [B, ..., H, W], where an oracle judged and a way goes.
    """
    return _huber(masked_difference((predicted + OPEN).log(), (target + OPEN).log(), mask))


def _huber(difference: Tensor, prudence: float = 1.0) -> Tensor:
    delta = 0.2
    loss = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta) / delta
    return prudent(loss, difference, prudence).mean((-2, -1)).flatten(1).sum(1).mean()
