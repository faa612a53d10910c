"""What is read off an imagined latent: violation, progress, and the policy's proposal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import mlp


class LatentHead(nn.Module):
    """A score of ẑ, the context, and what the instruction's field says at ẑ's place.

    The context's share of the first layer is separate: it is the same for all candidates.
    """

    def __init__(self, latent: int, context: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.from_latent = nn.Linear(latent + channels, hidden)
        self.direct = nn.Linear(channels, 1)
        self.from_context = nn.Linear(context, hidden, bias=False)
        self.score = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, z: Tensor, read: Tensor, context: Tensor) -> Tensor:
        """z [..., D], read [..., F] and context [..., C], broadcast against each other, to a score [...]."""
        hidden = self.from_latent(torch.cat([z, read], -1)) + self.from_context(context)
        return (self.score(hidden) + self.direct(read)).squeeze(-1)


class ConstraintFunction(LatentHead):
    """v = constraint_function(ẑ, z_l): > 0 means that the instruction is broken (method, section 6)."""


class Progress(LatentHead):
    """How near the instruction is to done: minus the cost to go; ranks the accepted candidates."""


class Policy(nn.Module):
    """A behaviour-cloned proposal of K latent steps, normalised actions in [-1, 1]."""

    def __init__(self, latent: int, context: int, actions: int, horizon: int, hidden: int) -> None:
        super().__init__()
        self.shape = (horizon, actions)
        self.net = mlp(latent + context, hidden, horizon * actions)

    def forward(self, state: Tensor) -> Tensor:
        """``state`` [..., D + C] (latent, then context) to actions [..., K, A]."""
        return self.net(state).tanh().unflatten(-1, self.shape)
