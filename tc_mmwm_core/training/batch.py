"""A batch as the objective sees it: windows of latent steps, each under several instructions; or decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B windows of T latent steps (T + 1 observations where dynamics are trained), M instructions a window.

    Attributes:
        images: one uint8 [B, T, H, W, 3] a camera.
        visible: float32 [B, T, P], share of each cell of the model's map that nothing was put in front of.
        sensor: float32 [B, T, Ds], raw units.
        actions: float32 [B, T, A], normalised, mean over the control steps of a latent step.
        plan: float32 [B, T, K, A], the K actions from each step on; plan_valid: bool [B, T, K], within the window.
        valid: bool [B, T].
        tokens, mask: [B, M, L].
        margin, cost: float32 [B, M, T], NaN where unknown.
        violation: int64 [B, M, T], 1, 0 or -1 unknown.
        referents: float32 [B, M, R, 4].
        place: float32 [B, T, 2 · bodies], NaN where unknown.
        elsewhere: float32 [B, T, C - 1, bodies, 2], in the images of the other cameras; NaN where unknown.
        field: float32 [B, M, 2, G, G], NaN where unknown.
        expert: bool [B, M].
        advice: float32 [B, M, T, A], normalised, what an expert would do at each step; NaN where unknown.
    """

    images: list[Tensor]
    visible: Tensor
    sensor: Tensor
    actions: Tensor
    plan: Tensor
    plan_valid: Tensor
    valid: Tensor
    tokens: Tensor
    mask: Tensor
    margin: Tensor
    cost: Tensor
    violation: Tensor
    referents: Tensor
    place: Tensor
    elsewhere: Tensor
    field: Tensor
    expert: Tensor
    advice: Tensor

    def __len__(self) -> int:
        return len(self.sensor)

    @property
    def steps(self) -> int:
        """Latent steps of all windows."""
        return self.valid.numel()

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def rows(self, rows: slice) -> Batch:
        """Some of the windows."""
        return self._each(lambda values: values[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Batch(**{k: [*map(change, v)] if isinstance(v, list) else change(v) for k, v in values.items()})


@dataclass(frozen=True)
class Decisions:
    """R decisions, each at one step under one instruction, as stage ``policy`` learns from them.

    Attributes:
        seen: float32 [R, S], what the policy is told (see :meth:`WorldModel.policy_input`).
        wanted: float32 [R, K, A], normalised actions to propose; known: bool [R, K], which of them are known.
    """

    seen: Tensor
    wanted: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def steps(self) -> int:
        """As many as there are decisions."""
        return len(self)

    def to(self, device: torch.device | str) -> Decisions:
        """Copy to a device."""
        return Decisions(*(x.to(device, non_blocking=True) for x in (self.seen, self.wanted, self.known)))

    def rows(self, rows: slice | Tensor) -> Decisions:
        """Some of them."""
        return Decisions(self.seen[rows], self.wanted[rows], self.known[rows])

    @staticmethod
    def joined(parts: Sequence[Decisions]) -> Decisions:
        """All decisions of ``parts``."""
        return Decisions(*(torch.cat([getattr(part, name) for part in parts]) for name in ("seen", "wanted", "known")))
