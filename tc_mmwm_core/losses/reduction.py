"""What the losses share: above all the one reduction, sum over the valid steps of a trajectory, mean over the batch.

A sum divided by the batch size is linear in the trajectories, so that gradients averaged over equal shares of a batch
(data-parallel processes, gradient accumulation) are those of the whole batch. A mean over the valid entries is not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sum_over_steps(values: Tensor, mask: Tensor) -> Tensor:
    """Sum ``values`` [B, ...] where ``mask`` [B, ...] (bool, same shape) holds, and average over B.

    Raises:
        ValueError: the shapes differ (broadcasting would silently count some entries many times).
    """
    same_shape("values", values, "mask", mask)
    return torch.where(mask, values, 0.0).flatten(1).sum(1).mean()


def masked_difference(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``predicted - target`` [*M, ...], zero where ``mask`` [*M] (bool) does not hold.

    Masking the difference, not its square, keeps the gradient zero where the padding holds inf or NaN.

    Raises:
        ValueError: ``predicted`` and ``target`` differ in shape, or ``mask`` is not their leading part.
    """
    same_shape("predicted", predicted, "target", target)
    if mask.shape != predicted.shape[: mask.dim()]:
        raise ValueError(
            f"mask has shape {list(mask.shape)}, the first {mask.dim()} dimensions of "
            f"predicted {list(predicted.shape)} are needed"
        )
    trailing = (1,) * (predicted.dim() - mask.dim())
    return torch.where(mask.reshape(*mask.shape, *trailing), predicted - target, 0.0)


def prudent(loss: Tensor, difference: Tensor, prudence: float) -> Tensor:
    """``loss``, ``prudence`` times as much where ``difference``, predicted less true, is below zero.

    The minimum of an absolute error then lies at the quantile q = prudence / (1 + prudence) of what may be true
    (Koenker & Bassett, Regression quantiles, 1978), and near it for the Huber loss.
    """
    return torch.where(difference < 0, prudence * loss, loss)


def same_shape(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Refuse two tensors that would broadcast instead of pairing up."""
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} has shape {list(first.shape)}, {second_name} has {list(second.shape)}: they must be the same"
        )
