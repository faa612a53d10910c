"""Latent dynamics ẑ_{t+1} = g(z_t, a_t)."""

from __future__ import annotations

from torch import Tensor, nn


class Dynamics(nn.Module):
    """g as a residual network. The action's share of the first layer is separate: a rollout computes it at once."""

    def __init__(self, latent: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.from_state = nn.Linear(latent, hidden)
        self.from_action = nn.Linear(actions, hidden, bias=False)
        self.change = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, latent),
        )
        nn.init.normal_(self.change[-1].weight, std=0.01)
        nn.init.zeros_(self.change[-1].bias)

    def forward(self, z: Tensor, action_share: Tensor) -> Tensor:
        """One step from z [..., D] under ``from_action(a)`` [..., H]."""
        return z + self.change(self.from_state(z) + action_share)
