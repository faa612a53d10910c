"""How near the instruction is to done: what ranks the candidates that screening accepts."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def progress(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ_t (progress(ẑ_t, z_l) − target_t)², mean over the batch.

    Args:
        predicted, target: [B, ...], in the unit of the domain's progress.
        mask: bool [B, ...], steps whose progress is known.
    """
    return masked_difference(predicted, target, mask).square().flatten(1).sum(1).mean()
