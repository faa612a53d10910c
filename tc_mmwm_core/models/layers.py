"""Building blocks shared by the encoders and heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(inputs: int, hidden: int, outputs: int, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden layers of LayerNorm and SiLU, then a linear output (the NormedLinear stack of TD-MPC2)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class KeysValues(NamedTuple):
    """What attention goes over: found by ``keys`` [B, M, E], read from ``values`` (default: the keys)."""

    keys: Tensor
    values: Tensor | None = None
    mask: Tensor | None = None  # bool [B, M], what counts


class Attention(nn.Module):
    """Multi-head attention from queries [N, Q, E] over a source.

    N is a multiple of B: that many groups of queries share each source, whose keys and values are computed once.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, source: KeysValues) -> Tensor:
        """[N, Q, E]."""
        shape = queries.shape
        keys, values, mask = source
        query = self._split(self.query(queries).reshape(len(keys), -1, shape[-1]))
        key, value = self._split(self.key(keys)), self._split(self.value(keys if values is None else values))
        where = None if mask is None else mask[:, None, None, :]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=where)
        return self.out(attended.transpose(1, 2).reshape(shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: attention over each source in turn, then a feed-forward layer."""

    def __init__(self, width: int, heads: int, sources: int = 1) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(sources))
        self.attentions = nn.ModuleList(Attention(width, heads) for _ in range(sources))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, *sources: KeysValues | None) -> Tensor:
        """``sources``: one for each attention; None is self-attention."""
        for norm, attention, source in zip(self.norms, self.attentions, sources, strict=True):
            normed = norm(x)
            x = x + attention(normed, source or KeysValues(normed))
        return x + self.feed_forward(x)


def coordinates(height: int, width: int) -> Tensor:
    """Cell centres of a grid in [-1, 1], [1, 2, H, W]: x to the right, then y up."""
    y = 1 - (torch.arange(height) + 0.5) * 2 / height
    x = (torch.arange(width) + 0.5) * 2 / width - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]
