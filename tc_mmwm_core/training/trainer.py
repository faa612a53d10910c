"""Train a world model through the curriculum. A run killed at any moment resumes to the same weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.losses.total_loss import total_loss
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.checkpoint import LAST, Position, load_checkpoint, save_checkpoint
from tc_mmwm_core.training.config import StageConfig, TrainConfig
from tc_mmwm_core.training.curriculum import stage_steps
from tc_mmwm_core.training.data import LabelledData, prefetch, split
from tc_mmwm_core.training.objective import terms
from tc_mmwm_core.training.optimizer import NonFiniteGradientError, build_optimizer, clip_and_step
from tc_mmwm_core.training.run import Run
from tc_mmwm_core.training.schedulers import ScheduleConfig, build_scheduler
from tc_mmwm_core.training.validation import validate
from tc_mmwm_core.utils.reproducibility import seed_everything, use_deterministic_algorithms


class TrainingError(RuntimeError):
    """Training cannot go on."""


def build_model(config: TrainConfig, interface: RobotInterface) -> WorldModel:
    """An untrained model of the interface's shapes."""
    sizes = {(image.height, image.width) for image in interface.images}
    if len(sizes) != 1:
        raise TrainingError(f"robot interface {interface.name}: cameras of sizes {sorted(sizes)}; one size is needed")
    return WorldModel(config.model, len(interface.images), sizes.pop(), interface.sensor_size, interface.action_size)


def train(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    output: Path,
    init: dict[str, torch.Tensor] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, float]:
    """Train through ``config.stages`` into the run folder ``output``; continues a run that is there.

    Args:
        config: everything but the data.
        datasets: trajectories of one robot interface; a share of each is held out.
        output: run folder: checkpoints, resolved config, metrics, figure.
        init: weights to start from in place of random ones, e.g. a bundle's; a started run's own checkpoint wins.
        device: where to train.
        progress: show progress bars.

    Returns:
        The last validation's measures.

    Raises:
        TrainingError: a loss or gradient is not finite; the batch is saved and named, no checkpoint is overwritten.
    """
    seed_everything(config.seed)
    use_deterministic_algorithms()
    domain = load_domain(config.data.domain) if config.data.domain else None
    parts = [split(dataset, config.data.holdout, config.seed) for dataset in datasets]
    data = LabelledData([part[0] for part in parts], config, domain, progress)
    held_out = LabelledData([part[1] for part in parts], config, domain, progress)

    model = build_model(config, datasets[0].interface).to(device)
    if init is None:
        fit_sensor_normalisation(model, [part[0] for part in parts])
    else:
        model.load_state_dict(init)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False)
    # Buffers are fitted once, not averaged: an average would lag behind their first value.
    ema.module.load_state_dict(model.state_dict())

    start = Position()
    resuming = (output / LAST).exists()
    if resuming:
        start = load_checkpoint(output / LAST, {"model": model, "ema": ema}, restore_random=False)
    measures: dict[str, float] = {}
    with Run(output, config.model_dump(mode="json"), progress=progress, resume_step=start.step) as run:
        done = start.step
        for index in range(start.stage, len(config.stages)):
            first = start.stage_step if index == start.stage else 0
            stage = _Stage(config, index, model, ema, data, held_out, device)
            if first:
                load_checkpoint(output / LAST, stage.parts)
            measures = stage.run(run, first, done) or measures
            done += stage.steps - first
    return measures


class _Stage:
    """One stage of the curriculum: its own optimizer, schedule and windows."""

    def __init__(
        self,
        config: TrainConfig,
        index: int,
        model: WorldModel,
        ema: AveragedModel,
        data: LabelledData,
        held_out: LabelledData,
        device: str,
    ) -> None:
        self.config, self.index, self.model, self.ema, self.data, self.device = config, index, model, ema, data, device
        self.stage: StageConfig = config.stages[index]
        self.steps = stage_steps(self.stage, data.trajectories)
        rate = self.stage.learning_rate or config.optimizer.learning_rate
        self.optimizer = build_optimizer(
            model.parameters(), config.optimizer.model_copy(update={"learning_rate": rate})
        )
        warmup = min(config.warmup_steps, self.steps // 4)
        self.scheduler = build_scheduler(self.optimizer, self.steps, ScheduleConfig(warmup_steps=warmup))
        self.seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
        self.sampler = data.sampler(self.stage, self.seed)
        self.parts = {
            "model": model,
            "ema": ema,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "sampler": self.sampler,
        }
        sampler = held_out.sampler(self.stage, config.seed)
        self.held_out = [
            held_out.batch(sampler, self.stage, np.random.default_rng([config.seed, i])).to(device) for i in range(8)
        ]

    def run(self, run: Run, first: int, done: int) -> dict[str, float]:
        """Steps ``first`` to the end; ``done`` steps of the whole run came before. Returns the last validation."""
        measures: dict[str, float] = {}
        saved = time.monotonic()
        batches = prefetch(self.data, self.sampler, self.stage, self.seed, first)
        with contextlib.closing(batches), run.stage(self.stage.name, self.steps, first) as bar:
            for step in range(first, self.steps):
                waited = time.perf_counter()
                batch, sampler_state = next(batches)
                waited = time.perf_counter() - waited
                position = Position(done + step - first + 1, self.index, step + 1)
                values = self.step(batch.to(self.device), step, run, position.step)
                values["wait"] = waited
                last = step + 1 == self.steps
                validated = last or (step + 1) % self.config.validate_every == 0
                if validated:
                    measures = validate(self.ema.module, self.held_out)
                run.log(
                    position.step, self.stage.name, values | {f"valid/{k}": v for k, v in measures.items() if validated}
                )
                bar.update(values, len(batch.sensor) * batch.valid.shape[1])
                if last or time.monotonic() - saved > self.config.checkpoint_seconds:
                    parts = self.parts | {"sampler": _Snapshot(sampler_state)}
                    save_checkpoint(run.folder, parts, position, self.config.model_dump(mode="json"))
                    saved = time.monotonic()
        return measures

    def step(self, batch: Batch, step: int, run: Run, overall: int) -> dict[str, float]:
        """One optimizer step; returns what to log."""
        generator = torch.Generator().manual_seed(self.seed + step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bf16):
            raw, latents = terms(self.model, batch, self.stage, self.config.objective, generator, self.seed + step)
        total, raw, weighted = total_loss(raw, self.config.weights)
        try:
            if not total.isfinite():
                bad = [name for name, value in raw.items() if not value.isfinite()]
                raise NonFiniteGradientError(f"loss {', '.join(bad)} is not finite")
            total.backward()
            norm = clip_and_step(self.optimizer, self.config.optimizer.clip_norm)
        except NonFiniteGradientError as error:
            saved = run.save_batch(overall, batch)
            raise TrainingError(f"step {overall}, stage {self.stage.name}: {error}; the batch is in {saved}") from None
        self.scheduler.step()
        self.ema.update_parameters(self.model)
        alpha = latents.alpha.detach().flatten(0, -2).mean(0)
        return {
            "loss": total.item(),
            **{f"raw/{name}": value.item() for name, value in raw.items()},
            **{f"weighted/{name}": value.item() for name, value in weighted.items()},
            "gradient_norm": norm.item(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "alpha/vision": alpha[0].item(),
            "alpha/language": alpha[1].item(),
            "alpha/sensor": alpha[2].item(),
        }


class _Snapshot:
    """The sampler's state after the batch that was just trained on: the sampler itself is batches ahead."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


@torch.no_grad()
def fit_sensor_normalisation(model: nn.Module, datasets: Sequence[Dataset]) -> None:
    """Mean and standard deviation of each sensor field over all valid training steps."""
    rows = [t.sensor[t.valid] for dataset in datasets for t in (dataset[i] for i in range(len(dataset)))]
    sensor = np.concatenate(rows).astype(np.float64)
    model.sensor.mean.copy_(torch.from_numpy(sensor.mean(0)))
    # A field that hardly varies (a bumper that is seldom pressed) must not be blown up to unit variance.
    model.sensor.scale.copy_(torch.from_numpy(np.maximum(sensor.std(0), 0.05)))
