"""Which cell of the map a body is in: teaches a heat map at every cell at once, where a simulator knows the place."""

from __future__ import annotations

import torch
from torch import Tensor


def keypoints(logits: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """Σ_t Σ_bodies −Σ_cells q · log softmax(logits), mean over the batch; q spreads a place bilinearly over four cells.

    Args:
        logits: heat maps [B, ..., bodies, H, W].
        place: image coordinates in [-1, 1], x right and y up, [B, ..., bodies, 2]; beyond the image, its edge.
        mask: bool [B, ..., bodies], where the true place is known.
    """
    height, width = logits.shape[-2:]
    x, y = torch.where(mask[..., None], place, 0.0).unbind(-1)
    across, down = _spread((x + 1) * width / 2, width), _spread((1 - y) * height / 2, height)
    wanted = down[..., :, None] * across[..., None, :]
    entropy = -(wanted * logits.flatten(-2).log_softmax(-1).view_as(logits)).sum((-2, -1))
    return torch.where(mask, entropy, 0.0).flatten(1).sum(1).mean()


def _spread(position: Tensor, cells: int) -> Tensor:
    """Weights [..., cells] of the two cells whose centres are nearest to ``position``, in cells from the edge."""
    centre = torch.arange(cells, device=position.device, dtype=position.dtype) + 0.5
    return (1 - (position.clamp(0.5, cells - 0.5)[..., None] - centre).abs()).clamp(min=0)
