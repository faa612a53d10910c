"""Behaviour cloning of what carried the instruction out: the policy's proposal is one of the screened candidates."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def proposal(proposed: Tensor, recorded: Tensor, mask: Tensor) -> Tensor:
    """Σ_k ‖â_k − a_k‖² over the decisions and the K actions that followed each, mean over the batch.

    Args:
        proposed, recorded: normalised actions [B, ..., A].
        mask: bool [B, ...], actions of successful trajectories under their own instruction.
    """
    return masked_difference(proposed, recorded, mask).square().flatten(1).sum(1).mean()
