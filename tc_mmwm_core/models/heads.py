"""What is read off an imagined latent: violation, progress, and the policy's proposal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import mlp

AHEAD = 0.25  # cost to go that a front straight ahead on the way has less
NEAR = 0.3  # cost to go within which facing the way matters less and less


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
    """v_{t+1} = constraint_function(ẑ_{t+1}, z_l): > 0 means that the instruction is broken (method, section 6).

    With ``actions``, it sees a_t too: what a rule on motion is about.
    """

    def __init__(self, latent: int, context: int, channels: int, hidden: int, actions: int = 0) -> None:
        super().__init__(latent, context, channels + actions, hidden)
        self.sees_actions = actions > 0

    def forward(self, z: Tensor, read: Tensor, context: Tensor, action: Tensor) -> Tensor:
        """As :meth:`LatentHead.forward`; ``action`` [..., A], normalised, is what led to each z."""
        return super().forward(z, torch.cat([read, action], -1) if self.sees_actions else read, context)


class Progress(LatentHead):
    """How near the instruction is to done: minus the cost to go; ranks the accepted candidates."""


class FieldProgress(nn.Module):
    """Progress read off the instruction's field alone: where ẑ has the robot, and how far its front is ahead there.

    :class:`Progress` sees the whole latent and is right on average; but candidates differ by centimetres, and its
    errors of a few decimetres made robots stop half way. The field solves the eikonal equation: some way on is better.
    """

    def __init__(self, channels: int, bodies: int) -> None:
        super().__init__()
        self.front = channels if bodies > 1 else None

    def forward(self, z: Tensor, read: Tensor, context: Tensor) -> Tensor:
        """Score [...] of ``read`` [..., F], whose first channel at each point is minus the cost to go."""
        here = read[..., 0]
        if self.front is None:
            return here
        on_the_way = (-here / NEAR).clamp(0, 1)  # at the goal it no longer matters where the robot faces
        nearer = (read[..., self.front] - here).clamp(-AHEAD, AHEAD)  # the front may reach into what is dear to cross
        return here + on_the_way * (nearer - AHEAD)


class Policy(nn.Module):
    """A behaviour-cloned proposal of K latent steps, normalised actions in [-1, 1]."""

    def __init__(self, latent: int, context: int, actions: int, horizon: int, hidden: int) -> None:
        super().__init__()
        self.shape = (horizon, actions)
        self.net = mlp(latent + context, hidden, horizon * actions)

    def forward(self, state: Tensor) -> Tensor:
        """``state`` [..., D + C] (latent, then context) to actions [..., K, A]."""
        return self.net(state).tanh().unflatten(-1, self.shape)
