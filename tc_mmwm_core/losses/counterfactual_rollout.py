"""L_rollout: k-step imagined latents against the encoded ones (training procedure, section 7)."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def counterfactual_rollout(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_rollout = Σ_t Σ_{k=2..K} ‖g_k(z_t, a_{t:t+k}) − z_{t+k}‖², mean over the batch.

    k = 1 is L_state's, and is left out here.

    Args:
        predicted: ẑ_{t+k} = g_k(z_t, a_{t:t+k}) for k = 2..K, [B, T, K-1, D].
        target: z_{t+k}, encoded, [B, T, K-1, D].
        mask: bool [B, T, K-1], where steps t to t+k are all valid.
    """
    return masked_difference(predicted, target, mask).square().flatten(1).sum(1).mean()
