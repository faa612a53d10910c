"""Keypoints: where the robot and what it moves are, read off heat maps over all cameras' maps and off the sensors.

The latent state must hold where a puck is to the centimetre, and attention over the map, taught by the place alone,
does not find it. A heat map can be taught cell by cell, and its mean place is differentiable (spatial softmax; Levine
et al., End-to-end training of deep visuomotor policies, 2016). What the first camera is hidden from, another one sees:
a hand's own camera looks at what it is about to grasp.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import coordinates, mlp

LEAST = 1e-3  # variance of a place, in half images squared, that no heat map is surer than


class Keypoints(nn.Module):
    """A heat map for each body in each camera's map, and what they tell.

    The heads are told the places beside the latent: superposed on all else in z, a puck's blurs to several
    centimetres, more than a gripper may be off by.

    Attributes:
        size: of what is told: the bodies' places, how far each but the first is from the first, and of each heat map of
            another camera its mean place and its spread.
    """

    def __init__(self, width: int, shape: tuple[int, int], cameras: int, bodies: int, sensors: int, latent: int):
        super().__init__()
        self.shape, self.cells, self.bodies = shape, math.prod(shape), bodies
        self.heat = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, bodies))
            for _ in range(cameras)
        )
        self.locate = nn.ModuleList(mlp(2 * bodies + sensors, 128, 2 * bodies) for _ in range(cameras - 1))
        self.trust = nn.Linear(bodies * cameras, bodies * cameras)
        self.share = nn.Linear(2 * bodies, latent)
        self.size = 4 * bodies - 2 + 3 * bodies * (cameras - 1)
        self.register_buffer("grid", coordinates(*shape).flatten(2)[0].T.contiguous(), persistent=False)

    def forward(self, features: Tensor, reading: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, P, E], the first camera's cells first, and normalised sensors [B, Ds] to what was found.

        Returns logits of the heat maps [B, cameras · bodies, H, W], and what is told [B, size], the bodies' places
        [B, 2 · bodies] first: image coordinates of the first camera in [-1, 1], x right and y up.
        """
        maps = [heat(x).transpose(1, 2) for heat, x in zip(self.heat, features.split(self.cells, 1), strict=True)]
        # In bfloat16 the variance of a sharp map, a difference of squares, would come out negative.
        with torch.autocast(features.device.type, enabled=False):
            told = self._told([logits.float() for logits in maps], reading.float())
        return torch.cat(maps, 1).unflatten(-1, self.shape), told

    def _told(self, maps: list[Tensor], reading: Tensor) -> Tensor:
        (first, spread), *others = map(self._mean, maps)
        elsewhere = [torch.cat([mean, around], -1).flatten(1) for mean, around in others]
        # Each camera says where the bodies are; what it sees spread over its image, it sees badly or not at all.
        seen = (torch.cat([mean.flatten(1), reading], 1) for mean, _ in others)
        located = [locate(x).view_as(first) for locate, x in zip(self.locate, seen, strict=True)]
        said = torch.stack([first, *located], 2)  # [B, bodies, cameras, 2]
        spreads = torch.cat([spread, *(around for _, around in others)], 1).flatten(1)
        trust = self.trust((spreads + LEAST).log()).unflatten(-1, said.shape[1:3]).softmax(-1)
        places = (trust[..., None] * said).sum(2)
        offset = (places[:, 1:] - places[:, :1]) * (self.shape[1] / 2)  # in cells
        return torch.cat([places.flatten(1), offset.flatten(1), *elsewhere], -1)

    def places(self, told: Tensor) -> Tensor:
        """The bodies' places [..., 2 · bodies] in what was told."""
        return told[..., : 2 * self.bodies]

    def _mean(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of heat maps [B, n, cells] the mean place [B, n, 2] and the variance around it [B, n, 1]."""
        chance = logits.softmax(-1)
        mean = chance @ self.grid
        variance = chance @ self.grid.square().sum(1, keepdim=True) - mean.square().sum(-1, keepdim=True)
        return mean, variance.clamp(min=0)  # rounded, that of a sharp map may be a little less
