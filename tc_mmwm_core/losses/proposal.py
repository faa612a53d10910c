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


def median_proposal(proposed: Tensor, recorded: Tensor, mask: Tensor) -> Tensor:
    """Σ_k ‖â_k − a_k‖₁ of the same arguments, as Zhao et al. (ACT, 2023) have it.

    Its minimum is the median: where two ways are as good, one of them, and not the standstill between them.
    """
    return masked_difference(proposed, recorded, mask).abs().flatten(1).sum(1).mean()
