"""A batch as the objective sees it: windows of latent steps, each under several instructions; or encoded decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


@dataclass(frozen=True)
class Batch:
    """B windows of T latent steps, M instructions a window.

    Attributes:
        images: one uint8 [B, T, H, W, 3] a camera.
        visible: float32 [B, T, P], share of each cell of the model's map that neither the robot itself nor what was put
            in front of it hides; NaN where nobody knows.
        sensor: float32 [B, T, Ds], raw units.
        actions: float32 [B, T, A], normalised, mean over the control steps of a latent step.
        plan: float32 [B, T, K, A], the K actions from each step on; plan_valid: bool [B, T, K], within the window.
        valid: bool [B, T].
        tokens, mask: [B, M, L].
        margin, violation: float32 and int64 [B, M, T], the worst since the latent step before; NaN or -1 where unknown.
        cost: float32 [B, M, T], NaN where unknown.
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


class Rows:
    """R rows of what the trained encoders made of decisions, each at one step under one instruction.

    What a stage on encoders at rest learns from; fields of a dataclass that inherits from it are tensors [R, ...].
    """

    def __len__(self) -> int:
        return len(self._values()[0])

    @property
    def steps(self) -> int:
        """As many as there are decisions."""
        return len(self)

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device."""
        return type(self)(*(x.to(device, non_blocking=True) for x in self._values()))

    def rows(self, rows: slice | Tensor) -> Self:
        """Some of them."""
        return type(self)(*(x[rows] for x in self._values()))

    @classmethod
    def joined(cls, parts: Iterable[Self], most: int) -> tuple[Self, int]:
        """All rows of ``parts``, ``most`` at most, and how many the largest part has.

        Each part is copied to its place as it comes, and can be let go: concatenated in the end, they would take as
        much memory again. Of what is set aside, the system gives only what is written to.
        """
        values, count, largest = [], 0, 0
        for part in parts:
            values = values or [x.new_empty(most, *x.shape[1:]) for x in part._values()]
            for value, x in zip(values, part._values(), strict=True):
                value[count : count + len(part)] = x
            count, largest = count + len(part), max(largest, len(part))
        return cls(*(value[:count] for value in values)), largest

    def _values(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


@dataclass(frozen=True)
class Decisions(Rows):
    """What stage ``policy`` learns from.

    Attributes:
        seen: float32 [R, S], what the policy is told (see :meth:`WorldModel.policy_input`).
        wanted: float32 [R, K, A], normalised actions to propose; known: bool [R, K], which of them are known.
    """

    seen: Tensor
    wanted: Tensor
    known: Tensor


@dataclass(frozen=True)
class Followed(Rows):
    """What stage ``dynamics`` learns from: latents from a step on, as encoded, and what was done in between.

    Attributes:
        z: float32 [R, 1 + K, D].
        actions: float32 [R, K, A], normalised.
        valid: bool [R, 1 + K].
    """

    z: Tensor
    actions: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Glimpsed(Rows):
    """What stage ``memory`` learns from: maps of single frames, and what a right memory has of each before it.

    Attributes:
        frame, remembered: see :meth:`MapMemory.gate`; float32 [R, P, E].
        visible: see :class:`Batch`; [R, P].
        valid: bool [R].
    """

    frame: Tensor
    remembered: Tensor
    visible: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Located(Rows):
    """What stage ``keypoints`` learns from: maps of single steps as remembered, and where the bodies were.

    Attributes:
        features: float16 [R, P, E]; reading: float32 [R, Ds], normalised; see :meth:`Keypoints.forward`.
        place, elsewhere, valid: see :class:`Batch`; [R, ...].
    """

    features: Tensor
    reading: Tensor
    place: Tensor
    elsewhere: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Mapped(Rows):
    """What stage ``field`` learns from: maps of single steps, each under M instructions.

    Attributes:
        features, told: see :meth:`WorldModel.ground`; float32 [R, P, E], [R, size].
        tokens, mask, referents, field: see :class:`Batch`; [R, M, ...].
        known: bool [R, M], an oracle judged.
    """

    features: Tensor
    told: Tensor
    tokens: Tensor
    mask: Tensor
    referents: Tensor
    field: Tensor
    known: Tensor


@dataclass(frozen=True)
class Foreseen(Rows):
    """What stage ``foresight`` learns from: a decision, what was done from then on, and what came of it, J = 1 + K.

    Attributes:
        z: float32 [R, J, D], as encoded.
        actions: float32 [R, K, A], normalised.
        summary: float32 [R, S], see :meth:`WorldModel.score`.
        field: float16 [R, channels · H · W]: as it is the most of what is kept.
        place: [R, J, 2 · bodies]; margin, cost, violation, valid: [R, J]; see :class:`Batch`.
    """

    z: Tensor
    actions: Tensor
    summary: Tensor
    field: Tensor
    place: Tensor
    margin: Tensor
    cost: Tensor
    violation: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Imagined(Rows):
    """What stage ``judge`` learns from: latents from a decision on, J = 1 + K steps, and what the oracle said of each.

    Attributes:
        z, read, summary, action: see :meth:`WorldModel.score`; float32 [R, J, D], [R, J, F], [R, S], [R, J, A].
        margin, cost, violation, valid: see :class:`Batch`; [R, J].
    """

    z: Tensor
    read: Tensor
    summary: Tensor
    action: Tensor
    margin: Tensor
    cost: Tensor
    violation: Tensor
    valid: Tensor
