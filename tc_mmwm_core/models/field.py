"""The instruction as a field over what the camera sees, read where an imagined latent says that the robot will be.

A rule like "never enter the blue zone" is a statement about places. One convolutional pass a decision turns map and
instruction into a few values for every place in view; a candidate then only has to look up the place it would reach.
Convolution makes it the same everywhere in the image, and a simulator's oracle can supervise every place at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tc_mmwm_core.models.eikonal import cost_to_go
from tc_mmwm_core.models.layers import mlp

REFINEMENT = 2  # the field has this many places a side of each of the map's cells, to tell a gap from none


class InstructionField(nn.Module):
    """Every cell of the map asks the grounded slots what it means; dilated convolutions spread it over the map.

    The first two channels are supervised where an oracle is to be had: minus the cost to go, and the margin of standing
    there. The cost to go is not regressed: it travels over the map from the goal (:mod:`tc_mmwm_core.models.eikonal`).

    Attributes:
        shape: rows and columns of the field, :data:`REFINEMENT` times the map's.
    """

    def __init__(self, width: int, shape: tuple[int, int], channels: int = 8, inner: int = 32) -> None:
        super().__init__()
        self.map_shape, self.channels, self.inner = shape, channels, inner
        self.solve = cost_to_go  # an attribute, so that who compiles the module can leave its loops as they are
        self.shape = (shape[0] * REFINEMENT, shape[1] * REFINEMENT)
        self.ask = nn.Linear(width, 2 * inner)
        self.answer = nn.Linear(width, 2 * inner)
        self.spread = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=d, dilation=d) for d in (1, 2, 4, 1))
        self.norms = nn.ModuleList(nn.GroupNorm(4, inner) for _ in self.spread)
        self.out = nn.Conv2d(inner, (channels + 1) * REFINEMENT**2, 1)
        with torch.no_grad():  # at first, each place costs a tenth to cross and is done nowhere
            self.out.bias.view(-1, REFINEMENT**2)[:2] = torch.tensor([[-2.2], [6.0]])

    def forward(self, features: Tensor, slots: Tensor) -> Tensor:
        """First camera's map [B, P, E] and slots [N, S, E] (N a multiple of B) to the field [N, channels · H · W]."""
        cells, groups = self.map_shape[0] * self.map_shape[1], len(slots) // len(features)
        query, own = self.ask(features[:, :cells]).chunk(2, -1)
        key, value = (
            x.unflatten(0, (len(features), groups)) for x in self.answer(slots).chunk(2, -1)
        )  # [B, M, S, inner]
        heard = functional.scaled_dot_product_attention(query[:, None].expand(-1, groups, -1, -1), key, value)
        x = (own[:, None] + heard).flatten(0, 1).transpose(1, 2).unflatten(-1, self.map_shape)
        for spread, norm in zip(self.spread, self.norms, strict=True):
            x = x + spread(functional.silu(norm(x)))
        x = functional.pixel_shuffle(self.out(functional.silu(x)), REFINEMENT)  # (Shi et al., 2016)
        slowness, stop, others = x[:, :1], x[:, 1:2], x[:, 2:]
        progress = -self.solve(functional.softplus(slowness[:, 0]), functional.softplus(stop[:, 0]))[:, None]
        return torch.cat([progress, others], 1).flatten(1)  # under autocast: progress stays float32, and so becomes all


class FieldReader(nn.Module):
    """Where in the image an imagined latent has the robot and what it moves, and what the field says there.

    Read are, of each body, the field's channels at its place; and of each but the first, how far it is from the first.
    """

    def __init__(self, latent: int, shape: tuple[int, int], channels: int, bodies: int = 1) -> None:
        super().__init__()
        self.shape, self.channels = shape, channels
        self.size = bodies * channels + 2 * (bodies - 1)
        self.locate = mlp(latent, 64, 2 * bodies, depth=1)  # α scales each modality's share of z: not linear in z alone

    def place(self, z: Tensor) -> Tensor:
        """x and y of each body in the first camera's image, x right and y up in [-1, 1], [..., 2 · bodies]."""
        return self.locate(z)

    def forward(self, z: Tensor, field: Tensor) -> Tensor:
        """Bilinear read of ``field`` [N, channels · H · W] at the places of z [N, ..., D], and offsets in cells.

        [N, ..., bodies · channels + 2 · (bodies - 1)].
        """
        # reshape, not unflatten, which would make the traced number of candidates a constant
        place = self.place(z).reshape(*z.shape[:-1], -1, 2)  # [N, ..., bodies, 2]
        read = self._sample(field, place).flatten(-2)
        if place.shape[-2] == 1:
            return read
        offset = (place[..., 1:, :] - place[..., :1, :]) * (self.shape[1] / 2)
        return torch.cat([read, offset.flatten(-2)], -1)

    def slope(self, place: Tensor, field: Tensor) -> Tensor:
        """How cost and margin change from a cell before each place [N, bodies, 2] to a cell after it, right and up.

        [N, 4 · bodies], cut to ±1: which way the cheapest one leads.
        """
        cell = torch.diag(place.new_tensor([2 / self.shape[1], 2 / self.shape[0]]))
        ends = place[:, :, None, None] + torch.stack([-cell, cell])  # [N, bodies, 2, axes, 2]
        before, after = self._sample(field, ends)[..., :2].unbind(2)
        return (after - before).clamp(-1, 1).flatten(1)

    def _sample(self, field: Tensor, place: Tensor) -> Tensor:
        """Bilinear read of ``field`` [N, channels · H · W] at places [N, ..., 2], [N, ..., channels]."""
        grid = (place * place.new_tensor([1.0, -1.0])).flatten(1, -2)[:, :, None]  # grid_sample counts rows downwards
        values = field.unflatten(-1, (self.channels, *self.shape))
        read = functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
        return read[..., 0].transpose(1, 2).unflatten(1, place.shape[1:-1])
