"""Self-localisation: where in the image a latent says that the robot is, where a simulator knows it."""

from __future__ import annotations

from torch import Tensor

from tc_mmwm_core.losses.reduction import masked_difference


def place(located: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σ_t ‖p̂_t − p_t‖², mean over the batch.

    Args:
        located, target: image coordinates in [-1, 1], [B, ..., 2].
        mask: bool [B, ...], where the true place is known.
    """
    return masked_difference(located, target, mask).square().flatten(1).sum(1).mean()
