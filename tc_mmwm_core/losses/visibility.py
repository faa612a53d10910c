"""What is seen and what is hidden: teaches the memory of the view when to keep what it has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tc_mmwm_core.losses.reduction import same_shape, sum_over_steps


def visibility(logit: Tensor, visible: Tensor, mask: Tensor) -> Tensor:
    """Σ_t of the mean cross entropy over the map's cells, mean over the batch; cells of which nobody knows count as 0.

    What was erased is known without labels, and so may be where the robot itself is in the way. Of the rest, the losses
    of what is named and what lies ahead decide what is worth keeping.

    Args:
        logit: that a cell is seen, [B, T, P].
        visible: share of the cell that nothing hides, NaN where unknown, [B, T, P].
        mask: bool [B, T], steps that were observed.
    """
    same_shape("logit", logit, "visible", visible)
    entropy = binary_cross_entropy_with_logits(logit, visible.nan_to_num(), reduction="none")
    return sum_over_steps(torch.where(visible.isfinite(), entropy, 0.0).mean(-1), mask)
