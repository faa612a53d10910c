"""Keypoints: where the robot and what it moves are in the first camera's map.

The latent state must hold where a puck is to the centimetre, and attention over the map, taught by the place alone,
does not find it. A heat map can be taught cell by cell, and its mean place is differentiable (spatial softmax; Levine
et al., End-to-end training of deep visuomotor policies, 2016).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import coordinates


class Keypoints(nn.Module):
    """A heat map for each body, its mean place, and the share of z_v that the place has.

    The heads are shown the places beside the latent: superposed on all else in z, a puck's blurs to several
    centimetres, more than a gripper may be off by.

    Attributes:
        size: of :meth:`tell`.
    """

    def __init__(self, width: int, shape: tuple[int, int], bodies: int, latent: int) -> None:
        super().__init__()
        self.shape, self.cells = shape, math.prod(shape)
        self.heat = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, bodies))
        self.share = nn.Linear(2 * bodies, latent)
        self.size = 4 * bodies - 2
        self.register_buffer("grid", coordinates(*shape).flatten(2)[0].T.contiguous(), persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, P, E], the first camera's cells first, to logits [B, bodies, H, W] and places [B, bodies, 2].

        Places are image coordinates in [-1, 1], x right and y up.
        """
        logits = self.heat(features[:, : self.cells]).transpose(1, 2)
        return logits.unflatten(-1, self.shape), logits.softmax(-1) @ self.grid

    def tell(self, features: Tensor) -> Tensor:
        """The places, and how far each body but the first is from the first in cells: [B, size]."""
        _, places = self(features)
        offset = (places[:, 1:] - places[:, :1]) * (self.shape[1] / 2)
        return torch.cat([places.flatten(1), offset.flatten(1)], 1)
