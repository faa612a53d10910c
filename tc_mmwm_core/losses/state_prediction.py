"""L_state: the predicted next latent against the encoded one (training procedure, section 4)."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def state_prediction(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_state = Σ_t ‖g(z_t, a_t) − z_{t+1}‖², mean over the batch.

    Args:
        predicted: ẑ_{t+1} = g(z_t, a_t), [B, T, D].
        target: z_{t+1}, encoded, [B, T, D].
        mask: bool [B, T], steps where both ends of the transition are valid.
    """
    return masked_difference(predicted, target, mask).square().flatten(1).sum(1).mean()
