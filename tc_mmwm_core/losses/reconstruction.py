"""Encoder pretraining: what was seen, decoded from the latent (training procedure, section 11, stage 1)."""

from __future__ import annotations

from math import prod

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def reconstruction(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ_t mean over an observation's elements of (ô_t − o_t)², mean over the batch.

    The mean over elements (pixels, sensor fields) keeps an image from outweighing a sensor vector by its size alone.

    Args:
        predicted, target: [B, T, ...]: images in [-1, 1] or normalised sensor vectors.
        mask: bool [B, T], valid steps.
    """
    elements = prod(predicted.shape[mask.dim() :])
    return masked_difference(predicted, target, mask).square().flatten(1).sum(1).mean() / elements
