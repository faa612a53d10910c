"""Memory of the view: what was seen of each place stays, where it is hidden now.

The latent state and the instruction's field are made from this map, not from the last frame alone: a robot must not
drive through a zone because someone's arm is in front of the camera. A gated running mean a cell of the map, as a
convolutional GRU (Ballas et al., 2016) without its candidate: what there is to remember is what was seen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 0.001  # of what is seen now that is always taken over: what hides a place for good is what is there
# A cell is taken over where it is surely seen, by the gate's logit, and kept else: with a plain sigmoid a cell that is
# hidden with a probability of 0.9 is overwritten within a second, and one that is half hidden at once.
SURE, SHARPNESS = 2.0, 4.0


class MapMemory(nn.Module):
    """Weighs each cell as seen now against the same cell as remembered.

    The memory of a map [P, E] is [P, E + 1]: the running mean, and how well the cell is known, from 0 to 1. Zeros are
    the memory of one who has seen nothing; the first frame is then taken as it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Linear(2 * width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1))
        nn.init.constant_(self.seen[-1].bias, 3.0)  # at first, nearly all is taken from the frame

    def forward(self, features: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [B, T, P, E] and the memory before [B, P, E + 1] to the maps [B, T, P, E] and the memory after.

        And the logits [B, T, P] of each cell of the frames being seen, not hidden.
        """
        if memory is None:
            memory = features.new_zeros(features.shape[0], features.shape[2], features.shape[3] + 1)
        maps, logits = [], []
        for frame in features.unbind(1):
            logits.append(self.gate(frame, memory[..., :-1]))
            memory = keep(frame, memory, logits[-1])
            maps.append(memory[..., :-1])
        return torch.stack(maps, 1), memory, torch.stack(logits, 1)

    def gate(self, frame: Tensor, remembered: Tensor) -> Tensor:
        """Logits [..., P] of each cell of a frame [..., P, E] being seen, given what is remembered of it."""
        return self.seen(torch.cat([frame, remembered], -1))[..., 0]


def keep(frame: Tensor, memory: Tensor, logit: Tensor) -> Tensor:
    """The memory [B, P, E + 1] after a frame [B, P, E], each cell of which is seen as surely as ``logit`` [B, P]."""
    remembered, known = memory[..., :-1], memory[..., -1:]
    seen = LEAST + (1 - LEAST) * (SHARPNESS * (logit[..., None] - SURE)).sigmoid()
    known = seen + (1 - seen) * known
    return torch.cat([remembered + seen / known * (frame - remembered), known], -1)
