"""One stage of the curriculum: its own optimizer, schedule and windows, its steps, validations and checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tc_mmwm_core.data.dataset import DatasetError
from tc_mmwm_core.models.composition import MODALITIES
from tc_mmwm_core.training.batch import Batch, Rows
from tc_mmwm_core.training.checkpoint import BEST, Position, load_checkpoint, save_checkpoint
from tc_mmwm_core.training.collapse import HeldOutFrames, collapse
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.curriculum import stage_steps, stage_warmup
from tc_mmwm_core.training.data import LabelledData, prefetch
from tc_mmwm_core.training.distributed import Processes
from tc_mmwm_core.training.early_stopping import EarlyStopping
from tc_mmwm_core.training.objective import Losses, Objective, Share
from tc_mmwm_core.training.optimizer import NonFiniteGradientError, build_optimizer, clip_and_step
from tc_mmwm_core.training.run import Run, save_batch
from tc_mmwm_core.training.schedulers import build_scheduler
from tc_mmwm_core.training.validation import validate

VALIDATION_BATCHES = 8


class TrainingError(RuntimeError):
    """Training cannot go on."""


def check_stages(
    config: TrainConfig, first: int, data: LabelledData, held_out: LabelledData, processes: Processes
) -> None:
    """Refuse what a stage from ``first`` on cannot be trained with, before hours are spent on those before it.

    Prints where windows will be shorter than a stage asks for, since no trajectory is as long, and where a stage has
    fewer optimizer steps than its warm-up asks for, since there are so few trajectories.

    Raises:
        TrainingError: a batch does not divide into the processes and parts.
        DatasetError: windows are longer than a dataset can give.
    """
    for stage in config.stages[first:]:
        # A stage on encoders at rest divides the rows that it draws, and not the windows: each process encodes all.
        if not stage.kind.encoders_rest and stage.trajectories % (processes.count * config.accumulation):
            raise TrainingError(
                f"stage {stage.name}: {stage.trajectories} trajectories a batch do not divide into "
                f"{processes.count} processes x {config.accumulation} parts (accumulation)"
            )
        steps = stage_steps(stage, data.trajectories)
        if processes.first and steps < config.warmup_steps:
            print(
                f"warning: stage {stage.name}: {steps} optimizer steps, fewer than warmup_steps {config.warmup_steps} "
                f"(it warms up for {stage_warmup(steps, config.warmup_steps)}): an epoch is one window of each of the "
                f"{data.trajectories} trajectories, {stage.trajectories} a step; raise its epochs, or record more",
                flush=True,
            )
        for part, which in ((data, "trained on"), (held_out, "held out")):
            try:
                longest = part.sampler(stage, config.seed).length[1]
            except DatasetError as error:
                raise DatasetError(f"stage {stage.name}, trajectories {which}: {error}") from None
            asked = (stage.max_length - 1) * config.model.frame_skip + 1  # with fewer there is one latent step less
            if part is data and processes.first and longest < asked:
                print(
                    f"stage {stage.name}: windows of at most {longest} control steps, since no trajectory has a longer "
                    f"run of valid steps; max_length {stage.max_length} (latent steps) asks for {asked}",
                    flush=True,
                )


class Stage:
    """Stage ``index`` of ``config.stages``."""

    def __init__(
        self,
        config: TrainConfig,
        index: int,
        objective: Objective | DistributedDataParallel,
        ema: AveragedModel,
        data: LabelledData,
        held_out: LabelledData,
        processes: Processes,
    ) -> None:
        self.config, self.index, self.objective, self.ema = config, index, objective, ema
        self.data, self.processes = data, processes
        self.stage = config.stages[index]
        self.model = (objective.module if isinstance(objective, DistributedDataParallel) else objective).model
        self.steps = stage_steps(self.stage, data.trajectories)
        rate = self.stage.learning_rate or config.optimizer.learning_rate
        self.optimizer = build_optimizer(
            self.model.parameters(), config.optimizer.model_copy(update={"learning_rate": rate})
        )
        self.scheduler = build_scheduler(self.optimizer, self.steps, stage_warmup(self.steps, config.warmup_steps))
        self.seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
        self.sampler = data.sampler(self.stage, self.seed)
        self.share = Share(processes.rank, processes.count)
        self.stopping = EarlyStopping(config.early_stopping)
        self.parts: dict[str, Any] = {
            "model": self.model,
            "ema": ema,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "sampler": self.sampler,
        }
        if config.early_stopping.patience is not None:
            self.parts["early_stopping"] = self.stopping
        self.held_out: list[Batch] = []
        if processes.first:
            sampler = held_out.sampler(self.stage, config.seed)
            self.held_out = [
                held_out.batch(sampler, self.stage, np.random.default_rng([config.seed, i])).to(processes.device)
                for i in range(VALIDATION_BATCHES)
            ]
            self.frames = HeldOutFrames.of(held_out).to(processes.device)

    def run(self, output: Path, run: Run | None, start: Position) -> tuple[Position, dict[str, float]]:
        """From ``start`` to the end. Returns where the run stands then, and the last validation's measures.

        With a patience, what a stage ends with, and the next goes on from, are its best weights and their measures.
        Only the first of several processes has a ``run`` to log to.
        """
        position, measures = start, {}
        saved = time.monotonic()
        batches = self.batches(start.stage_step)
        bar = run.stage(self.stage.name, self.steps, start.stage_step) if run else contextlib.nullcontext()
        with contextlib.closing(batches), bar:
            while position.stage_step < self.steps and not self.stopping.stop:
                waited = time.perf_counter()
                batch, sampler_state = next(batches)
                waited = time.perf_counter() - waited
                position = Position(position.step + 1, self.index, position.stage_step + 1)
                values = self.step(batch.to(self.processes.device), position, output) | {"wait": waited}
                last, best = position.stage_step == self.steps, False
                if last or position.stage_step % self.config.validate_every == 0:
                    measures = self.validate()
                    best = self.stopping.update(measures["loss"])
                    last = last or self.stopping.stop
                    values |= {f"valid/{name}": value for name, value in measures.items()}
                if run:
                    run.log(position.step, self.stage.name, values)
                    bar.update(values, self.processes.count * batch.steps)
                best = best and self.config.early_stopping.patience is not None
                if last and not best and self.returns_to_best:
                    load_checkpoint(output / BEST, {"model": self.model, "ema": self.ema}, restore_random=False)
                    measures = self.validate()
                due = time.monotonic() - saved > self.config.checkpoint_seconds
                if self.processes.any(last or best or due):
                    parts = self.parts | {"sampler": _Snapshot(sampler_state)}
                    resolved, interface = self.config.model_dump(mode="json"), self.data.datasets[0].interface.to_dict()
                    left = 0 if last else self.steps - position.stage_step
                    save_checkpoint(output, parts, position, resolved, best=best, left=left, interface=interface)
                    saved = time.monotonic()
        return position, measures

    @property
    def returns_to_best(self) -> bool:
        """Whether ``best.pt`` holds weights of this stage that validated better than those of now."""
        return self.config.early_stopping.patience is not None and isfinite(self.stopping.best)

    def batches(self, first: int) -> Iterator[tuple[Batch | Rows, dict[str, Any]]]:
        """Batches from step ``first`` on, this process's share of each, with the sampler's state after it."""
        rows = self.share.rows(self.stage.trajectories)
        return prefetch(self.data, self.sampler, self.stage, self.seed, first, rows)

    def step(self, batch: Batch | Rows, position: Position, output: Path) -> dict[str, float]:
        """One optimizer step; returns what to log, the mean over processes and parts.

        Raises:
            TrainingError: a loss or gradient is not finite; the batch is saved and named, the weights are as before.
        """
        parts, rate = self.config.accumulation, self.optimizer.param_groups[0]["lr"]
        losses = []
        try:
            for index in range(parts):
                part = batch.rows(Share(index, parts).rows(len(batch)))
                with self._averaging(index == parts - 1):
                    losses.append(self.losses(part, position.stage_step - 1, self.share.part(index, parts)))
                    (losses[-1].total / parts).backward()
            norm = self.update()
        except NonFiniteGradientError as error:
            saved = save_batch(output, position.step, batch, self.processes.rank)
            raise TrainingError(
                f"step {position.step}, stage {self.stage.name}: {error}; the batch is in {saved}"
            ) from None
        return self._logged(losses, norm) | {"learning_rate": rate}

    def losses(self, batch: Batch | Rows, step: int, share: Share) -> Losses:
        """The losses of a share of the batch of ``step``. NonFiniteGradientError: they are not finite."""
        losses = self.objective(batch, self.stage, self.seed + step, share)
        if self.processes.any(not losses.total.isfinite()):  # all stop: the others would wait for this one's gradients
            bad = [name for name, value in losses.raw.items() if not value.isfinite()]
            raise NonFiniteGradientError(f"loss {', '.join(bad) or 'of another process'} is not finite")
        return losses

    def update(self) -> torch.Tensor:
        """Step, schedule and average; returns the gradient's norm. NonFiniteGradientError: nothing has changed."""
        norm = clip_and_step(self.optimizer, self.config.optimizer.clip_norm)
        self.scheduler.step()
        self.ema.update_parameters(self.model)
        return norm

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measures of the averaged weights on held-out windows, and ``loss``, the stage's L_total there."""
        measures: dict[str, float] = {}
        if self.processes.first:
            objective = Objective(self.ema.module, self.config.objective, self.config.weights, self.config.bf16)
            scored = self.scored()
            totals = [objective(batch, self.stage, index).total for index, batch in enumerate(scored)]
            measures = self.measures() | {"loss": torch.stack(totals).mean().item()}
        return self.processes.from_first(measures)

    def scored(self) -> Sequence[Batch | Rows]:
        """Held-out batches that the loss is taken on."""
        return self.held_out

    def measures(self) -> dict[str, float]:
        """What is measured of the averaged weights beside their loss."""
        return validate(self.ema.module, self.held_out) | collapse(self.ema.module, self.frames)

    def _averaging(self, now: bool) -> contextlib.AbstractContextManager:
        """Gradients are averaged over the processes with a batch's last part only."""
        several = isinstance(self.objective, DistributedDataParallel)
        return self.objective.no_sync() if several and not now else contextlib.nullcontext()

    def _logged(self, losses: list[Losses], norm: torch.Tensor) -> dict[str, float]:
        """Everything crosses from the device at once."""
        columns = [
            {"loss": part.total.detach()}
            | {f"raw/{name}": value for name, value in part.raw.items()}
            | {f"weighted/{name}": value for name, value in part.weighted.items()}
            | ({} if part.alpha is None else {f"alpha/{n}": a for n, a in zip(MODALITIES, part.alpha, strict=True)})
            for part in losses
        ]
        table = torch.stack([torch.stack([value.float() for value in column.values()]) for column in columns]).mean(0)
        values = torch.cat([self.processes.mean(table), norm.float()[None]]).tolist()
        return dict(zip([*columns[0], "gradient_norm"], values, strict=True))


class _Snapshot:
    """The sampler's state after the batch that was just trained on: the sampler itself is batches ahead."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state
