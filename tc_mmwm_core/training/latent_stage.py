"""Stages in which the encoders rest (see :mod:`tc_mmwm_core.training.kinds`) and one part of the model is trained.

Encoding is most of a training step, and what is learned from latents needs many more steps than the encoders do:
how far a hand gets in a second, that a wall is in the way of a push, what is sharp in an expert (when to close a
gripper, which way around). With the encoders at rest each window is encoded once and learned from many times.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tc_mmwm_core.training.batch import (
    Batch,
    Decisions,
    Followed,
    Foreseen,
    Glimpsed,
    Imagined,
    Located,
    Mapped,
    Rows,
)
from tc_mmwm_core.training.checkpoint import Position
from tc_mmwm_core.training.collapse import collapse
from tc_mmwm_core.training.data import prefetch
from tc_mmwm_core.training.objective import Latents, decisions, followed, foreseen, glimpsed, imagined, located, mapped
from tc_mmwm_core.training.run import Run
from tc_mmwm_core.training.stage import Stage, TrainingError
from tc_mmwm_core.training.validation import encode_held_out, validate

ENCODED = {
    "memory": (Glimpsed, glimpsed),
    "keypoints": (Located, located),
    "dynamics": (Followed, followed),
    "field": (Mapped, mapped),
    "judge": (Imagined, imagined),
    "foresight": (Foreseen, foreseen),
    "policy": (Decisions, decisions),
}  # what a stage learns from, and who makes it


class LatentStage(Stage):
    """Encodes its windows, with what is hidden in them, before its first step, and again when it is resumed."""

    def run(self, output: Path, run: Run | None, start: Position) -> tuple[Position, dict[str, float]]:
        """See :class:`Stage`."""
        if start.stage_step == 0:  # heads are to fit the encoders that are exported: the averaged ones
            self.model.load_state_dict(self.ema.module.state_dict())
        self.show = run is not None and run.progress
        return super().run(output, run, start)

    def batches(self, first: int) -> Iterator[tuple[Rows, dict[str, Any]]]:
        """Rows drawn from all that were encoded, as many as one batch of windows has."""
        before = copy.deepcopy(self.sampler.state_dict())  # what a resumed stage encodes anew are the same windows
        every, most = self._joined()
        size = most - most % (self.share.count * self.config.accumulation)
        if not size:
            raise TrainingError(
                f"stage {self.stage.name}: a batch of {most} rows does not divide into "
                f"{self.share.count} processes x {self.config.accumulation} parts (accumulation)"
            )
        rows = self.share.rows(size)
        for step in count(first):
            drawn = np.random.default_rng([self.seed, step]).integers(len(every), size=size)
            yield every.rows(torch.from_numpy(drawn[rows])), before

    def scored(self) -> Sequence[Rows]:
        """See :class:`Stage`."""
        return self._held_out_rows

    def measures(self) -> dict[str, float]:
        """See :class:`Stage`. What rests is encoded, and its collapse measured, the first time alone."""
        model, rests = self.ema.module, self.stage.kind.rests
        judged = validate(model, self.held_out, self._held_out_latents if "latents" in rests else None)
        return judged | (self._collapse if "frames" in rests else collapse(model, self.frames))

    @cached_property
    def _held_out_latents(self) -> list[tuple[Latents, Latents]]:
        return list(encode_held_out(self.ema.module, self.held_out))

    @cached_property
    def _collapse(self) -> dict[str, float]:
        return collapse(self.ema.module, self.frames)

    @cached_property
    def _held_out_rows(self) -> list[Rows]:
        return [self._encode(batch, index) for index, batch in enumerate(self.held_out)]

    def _joined(self) -> tuple[Rows, int]:
        """All rows that are learned from, and the most that a batch gave."""
        batches, stage = self.steps // self.stage.passes, self.stage
        encoded = tqdm(self._encoded(), "encode", batches, disable=not self.show)
        most = batches * stage.trajectories * stage.starts * stage.instructions
        return ENCODED[stage.name][0].joined(encoded, most)

    def _encoded(self) -> Iterator[Rows]:
        """Every process encodes all of them: a batch is the same for any number of processes."""
        batches = prefetch(self.data, self.sampler, self.stage, self.seed, 0)
        for step in range(self.steps // self.stage.passes):
            batch, _ = next(batches)
            yield self._encode(batch.to(self.processes.device), self.seed + step).to("cpu")
        batches.close()

    def _encode(self, batch: Batch, seed: int) -> Rows:
        return ENCODED[self.stage.name][1](self.model, batch, self.stage, torch.Generator().manual_seed(seed))
