"""Cross view: what the other cameras see at each place of the first camera's view.

Arm and gripper hide from the first camera what they are about to grasp; another camera sees it. Where cameras stand
still, a cell of one view shows the place of the same cells of the other in every frame; which these are is learned as
one matrix over cells (view relation; Pan et al., Cross-view semantic segmentation for sensing surroundings, 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossView(nn.Module):
    """Adds to each cell of the first camera's map what the other cameras' maps say of its place."""

    def __init__(self, width: int, cells: int, cameras: int) -> None:
        super().__init__()
        self.cells = cells
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.relate = nn.Linear((cameras - 1) * cells, cells)
        self.write = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, P, E], the first camera's cells first, to the same with them completed."""
        first, others = features[:, : self.cells], features[:, self.cells :]
        seen = self.relate(self.read(others).transpose(1, 2)).transpose(1, 2)
        return torch.cat([first + self.write(seen), others], 1)
