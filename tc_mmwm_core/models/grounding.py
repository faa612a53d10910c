"""Grounding: the instruction attends over the visual feature map; what it finds joins what the heads see.

Late fusion alone leaves the words unbound to the pixels (progress correlates as well with shuffled instructions). Slots
read the words, look at the map, and their summary u_t is computed once a decision, not once a candidate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import Block, KeysValues

REFERENTS = 3  # what an instruction names, at most: its goal first, then what it forbids


class Grounding(nn.Module):
    """Slots that attend over words, map and each other. The first :data:`REFERENTS` slots point at what is named."""

    def __init__(self, width: int, slots: int = 6, slot_width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(1, slots, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, 4, sources=3) for _ in range(blocks))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, slot_width))
        self.point = nn.Linear(slot_width, 4)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B · M, S, E] and their summary u [B · M, S · slot_width] of M instructions for each map.

        Map [B, P, E], words [B · M, L, 2 E] (see :class:`~tc_mmwm_core.models.encoders.LanguageEncoder`), mask
        [B · M, L]. The M instructions of a map read it as queries of one attention, so that its keys and values are
        computed once.
        """
        x = self.slots.expand(len(words), -1, -1)
        phrase, word = words.chunk(2, -1)
        for block in self.blocks:
            x = block(x, KeysValues(phrase, word, mask), KeysValues(features), None)
        return x, self.out(x).flatten(1)

    def refer(self, u: Tensor) -> Tensor:
        """Where is what the instruction names: [..., REFERENTS, 4] rows of x, y, extent, and the logit of presence."""
        return self.point(u.unflatten(-1, (-1, self.point.in_features))[..., :REFERENTS, :])
