"""Causal composition operator: z_t = α_v z_v + α_l z_l + α_s z_s (method, section 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

MODALITIES = ("vision", "language", "sensor")
FLOOR = 0.05  # least weight of a modality: none can be switched off for good while it learns


class CausalComposition(nn.Module):
    """Bounded, normalised weights: each α in [FLOOR, 1 - 2 FLOOR], and they sum to 1.

    ``global``: three learned numbers. ``contextual``: they depend on the three latents. ``concatenation``:
    the ablation, a linear layer over the stacked latents in place of the weighted sum (its weights read as equal).
    """

    def __init__(self, latent: int, kind: Literal["contextual", "global", "concatenation"] = "contextual") -> None:
        super().__init__()
        self.kind = kind
        if kind == "concatenation":
            self.stack = nn.Linear(3 * latent, latent)
        elif kind == "contextual":
            self.gate = nn.Sequential(nn.Linear(3 * latent, 64), nn.SiLU(), nn.Linear(64, 3))
            nn.init.zeros_(self.gate[2].weight)
            nn.init.zeros_(self.gate[2].bias)
        else:
            self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, z_v: Tensor, z_l: Tensor, z_s: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [..., D]. Returns z [..., D] and α [..., 3] in the order of :data:`MODALITIES`."""
        stacked = torch.cat([z_v, z_l, z_s], -1)
        if self.kind == "concatenation":
            return self.stack(stacked), torch.full_like(stacked[..., :3], 1 / 3)
        logits = self.gate(stacked) if self.kind == "contextual" else self.logits.expand(*z_v.shape[:-1], 3)
        alpha = FLOOR + (1 - 3 * FLOOR) * logits.softmax(-1)
        return alpha[..., 0:1] * z_v + alpha[..., 1:2] * z_l + alpha[..., 2:3] * z_s, alpha
