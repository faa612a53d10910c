"""Readout: what the sensors would read in an imagined latent, as they came to read."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_huber

DELTA = 0.1  # standard deviations of a reading


def readout(read: Tensor, sensor: Tensor, mask: Tensor) -> Tensor:
    """Σ_t h_δ(ŝ_t − s_t) / δ with the Huber loss h_δ, summed over the sensor fields, mean over the batch.

    Args:
        read, sensor: normalised sensor vectors [B, ..., Ds].
        mask: bool [B, ...], valid steps.
    """
    return masked_huber(read, sensor, mask, DELTA)
