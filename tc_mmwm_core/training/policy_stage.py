"""Stage ``policy``: the policy alone, on decisions that the trained encoders have encoded once.

Encoding is nine tenths of a training step, and a policy needs many more decisions than the encoders do: what is sharp
in an expert (when to close a gripper, which way around) is learnt last. With the encoders at rest each decision is
encoded once and learnt from many times.
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

from tc_mmwm_core.training.batch import Decisions
from tc_mmwm_core.training.checkpoint import Position
from tc_mmwm_core.training.data import prefetch
from tc_mmwm_core.training.objective import decisions
from tc_mmwm_core.training.run import Run
from tc_mmwm_core.training.stage import Stage


class PolicyStage(Stage):
    """Encodes its windows, with what is hidden in them, before its first step, and again when it is resumed."""

    def run(self, output: Path, run: Run | None, start: Position) -> tuple[Position, dict[str, float]]:
        """See :class:`Stage`."""
        if start.stage_step == 0:  # the policy is to fit the encoders that are exported: the averaged ones
            self.model.load_state_dict(self.ema.module.state_dict())
        self.show = run is not None and run.progress
        return super().run(output, run, start)

    def batches(self, first: int) -> Iterator[tuple[Decisions, dict[str, Any]]]:
        """Decisions drawn from all that were encoded, as many as one batch of windows has."""
        before = copy.deepcopy(self.sampler.state_dict())  # what a resumed stage encodes anew are the same windows
        encoded = list(tqdm(self._encoded(), "encode", self.steps // self.stage.passes, disable=not self.show))
        every, size = Decisions.joined(encoded), max(map(len, encoded))
        rows = self.share.rows(size - size % self.share.count)
        for step in count(first):
            drawn = np.random.default_rng([self.seed, step]).integers(len(every), size=size)
            yield every.rows(torch.from_numpy(drawn[rows])), before

    def scored(self) -> Sequence[Decisions]:
        """See :class:`Stage`."""
        return self._held_out_decisions

    def measures(self) -> dict[str, float]:
        """See :class:`Stage`. The policy is in none of them."""
        return self._measures

    @cached_property
    def _measures(self) -> dict[str, float]:
        return super().measures()

    @cached_property
    def _held_out_decisions(self) -> list[Decisions]:
        generators = (torch.Generator().manual_seed(index) for index in range(len(self.held_out)))
        return [decisions(self.model, b, self.stage, g) for b, g in zip(self.held_out, generators, strict=True)]

    def _encoded(self) -> Iterator[Decisions]:
        """Every process encodes all of them: a batch is the same for any number of processes."""
        batches = prefetch(self.data, self.sampler, self.stage, self.seed, 0)
        for step in range(self.steps // self.stage.passes):
            batch, _ = next(batches)
            generator = torch.Generator().manual_seed(self.seed + step)
            yield decisions(self.model, batch.to(self.processes.device), self.stage, generator).to("cpu")
        batches.close()
