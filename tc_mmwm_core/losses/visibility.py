"""What is seen and what is hidden: teaches the memory of the view when to keep what it has."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tc_mmwm_core.losses.reduction import same_shape, sum_over_steps


def visibility(logit: Tensor, visible: Tensor, mask: Tensor) -> Tensor:
    """Σ_t of the mean cross entropy over the map's cells, mean over the batch. What was erased is known without labels.

    Args:
        logit: that a cell is seen, [B, T, P].
        visible: share of the cell that nothing hides, [B, T, P].
        mask: bool [B, T], steps that were observed.
    """
    same_shape("logit", logit, "visible", visible)
    return sum_over_steps(binary_cross_entropy_with_logits(logit, visible, reduction="none").mean(-1), mask)
