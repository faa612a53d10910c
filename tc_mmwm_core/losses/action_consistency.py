"""L_action: different actions on one latent must lead to different futures (training procedure, section 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from tc_mmwm_core.losses.reduction import sum_over_steps


def action_consistency(predicted: Tensor, mask: Tensor, eps: float, distance_scale: Tensor | None = None) -> Tensor:
    """L_action = Σ_t Σ_{i≠j} s_ij / (‖ẑ^(i)_{t+1} − ẑ^(j)_{t+1}‖ + ε), mean over the batch; s_ij = 1 in the method.

    Ordered pairs are summed, as written: each unordered pair counts twice. ε > 0 bounds the term by 1/ε and its slope
    by 1/ε². Where two futures coincide exactly the distance has no gradient; zero is taken, so that nothing becomes
    NaN.

    Args:
        predicted: ẑ^(i)_{t+1} = g(z_t, a^(i)_t) for M counterfactual actions at the same z_t, [B, T, M, D].
        mask: bool [B, T], steps where z_t is valid.
        eps: ε, in units of latent distance.
        distance_scale: s_ij = ‖a_i − a_j‖, [B, T, M, M], from :func:`action_distance`: the variant that does not push
            apart what hardly differs. The diagonal is not read.
    """
    if not eps > 0:
        raise ValueError(f"eps is {eps}, a number above 0 is needed: 1/distance is unbounded without it")
    if mask.shape != predicted.shape[:-2]:
        raise ValueError(f"mask has shape {list(mask.shape)}, {list(predicted.shape[:-2])} is needed")
    predicted = torch.where(mask[..., None, None], predicted, 0.0)  # before the norm: padding may hold inf or NaN
    candidates = predicted.shape[-2]
    first, second = torch.triu_indices(candidates, candidates, offset=1, device=predicted.device)
    distance = torch.linalg.vector_norm(predicted[..., first, :] - predicted[..., second, :], dim=-1)
    terms = 2.0 / (distance + eps)
    if distance_scale is not None:
        square = (*predicted.shape[:-1], candidates)
        if distance_scale.shape != square:
            raise ValueError(f"distance_scale has shape {list(distance_scale.shape)}, {list(square)} is needed")
        terms = terms * (distance_scale[..., first, second] + distance_scale[..., second, first]) / 2
    return sum_over_steps(terms.sum(-1), mask)


def action_distance(actions: Tensor) -> Tensor:
    """‖a_i − a_j‖ of ``actions`` [..., M, A] -> [..., M, M]."""
    return torch.linalg.vector_norm(actions.unsqueeze(-2) - actions.unsqueeze(-3), dim=-1)
