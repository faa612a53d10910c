"""Keypoints: where the robot and what it moves are in the first camera's map.

The latent state must hold where a puck is to the centimetre, and attention over the map, taught by the place alone,
does not find it. A heat map can be taught cell by cell, and its mean place is differentiable (spatial softmax; Levine
et al., End-to-end training of deep visuomotor policies, 2016).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from tc_mmwm_core.models.layers import coordinates


class Keypoints(nn.Module):
    """A heat map for each body, and the share of z_v that its place has."""

    def __init__(self, width: int, shape: tuple[int, int], bodies: int, latent: int) -> None:
        super().__init__()
        self.shape, self.cells = shape, math.prod(shape)
        self.heat = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, bodies))
        self.share = nn.Linear(2 * bodies, latent)
        self.register_buffer("grid", coordinates(*shape).flatten(2)[0].T.contiguous(), persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, P, E], the first camera's cells first, to logits [B, bodies, H, W] and a share of z_v [B, D]."""
        logits = self.heat(features[:, : self.cells]).transpose(1, 2)
        places = logits.softmax(-1) @ self.grid  # [B, bodies, 2], in [-1, 1], x right and y up
        return logits.unflatten(-1, self.shape), self.share(places.flatten(1))
