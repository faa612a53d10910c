"""What is read off an imagined latent: violation, progress, and the policy's proposal."""

from __future__ import annotations

from torch import Tensor, nn

from tc_mmwm_core.models.layers import mlp


class LatentHead(nn.Module):
    """A score of (ẑ, context). The context's share of the first layer is separate: it is the same for all candidates."""

    def __init__(self, latent: int, context: int, hidden: int) -> None:
        super().__init__()
        self.from_latent = nn.Linear(latent, hidden)
        self.from_context = nn.Linear(context, hidden, bias=False)
        self.score = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """z [..., D] and context [..., C], broadcast against each other, to a score [...]."""
        return self.score(self.from_latent(z) + self.from_context(context)).squeeze(-1)


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
