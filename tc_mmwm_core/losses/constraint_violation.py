"""L_constraint: what complies must not score as a violation (training procedure, section 6)."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import sum_over_steps


def constraint_violation(v: Tensor, mask: Tensor) -> Tensor:
    """L_constraint = Σ_t max(0, v_t), mean over the batch.

    Alone it is least for v ≡ −1; :mod:`tc_mmwm_core.losses.violation_hinge` is its other half.

    Args:
        v: violation scores v_t = constraint_function(ẑ_{t+1}, z_l), positive where violating, [B, ...].
        mask: bool [B, ...], steps known to comply: of recorded actions, since of others nobody knows.
    """
    return sum_over_steps(v.clamp(min=0.0), mask)
