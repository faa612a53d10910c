"""The grounding of L_constraint: what violates must score as a violation, by a margin."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import sum_over_steps


def violation_hinge(v: Tensor, label: Tensor, margin: float) -> Tensor:
    """Σ_t max(0, m − v_t) over the steps labelled violating, mean over the batch: L_constraint's mirror image.

    Args:
        v: violation scores, [B, ...].
        label: 1 violating, 0 complying, −1 unknown, [B, ...]; only 1 counts here.
        margin: m, how far above 0 a violation must score.
    """
    return sum_over_steps((margin - v).clamp(min=0.0), label == 1)
