"""How fast training is, where its time goes, and what batching time and candidates gains over a plain loop."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.evaluation.speed.eager_loop import eager_terms
from tc_mmwm_core.losses.total_loss import total_loss
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.data import prefetch
from tc_mmwm_core.training.distributed import Processes
from tc_mmwm_core.training.objective import WHOLE, Objective, encode_batch
from tc_mmwm_core.training.optimizer import clip_and_step
from tc_mmwm_core.training.stage import Stage
from tc_mmwm_core.training.trainer import prepare

PHASES = ("wait", "forward", "backward", "step")


def measure(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    *,
    device: str = "cpu",
    steps: int = 40,
    pairs: int = 8,
    warmup: int = 5,
    progress: bool = True,
) -> dict[str, Any]:
    """Time the last stage of ``config`` that trains the whole model on real batches.

    Args:
        steps: optimizer steps timed as training does them, batches read beside them.
        pairs: batches on which the step is timed against a plain loop over time steps, in turns.
        warmup: steps before anything is timed.

    Returns:
        ``samples_per_s`` (observations of windows), ``windows_per_s``, ``phases`` (mean ms of each of :data:`PHASES`),
        ``wait_share``; ``flops`` of forward and backward a step, and ``encoding_share``, of them spent on encoding
        frames and grounding, which a loop over time does as well; ``matrix_flops_per_s``, measured in the same run, and
        ``matrix_share``, of it reached by the step; ``eager`` (``ms``, ``batched_ms``, ``ratio`` of the medians and
        ``loss_difference``, the largest relative one between the two).
    """
    stage = _stage(config, datasets, torch.device(device), progress)
    here = stage.processes.device
    batches = prefetch(stage.data, stage.sampler, stage.stage, stage.seed, 0)
    clock = {phase: [] for phase in PHASES}
    kept: list[Batch] = []
    observations = 0
    with contextlib.closing(batches):
        for step in range(warmup + steps):
            marks = [_now(here)]
            batch = next(batches)[0].to(here)
            marks.append(_now(here))
            losses = stage.losses(batch, step, WHOLE)
            marks.append(_now(here))
            losses.total.backward()
            marks.append(_now(here))
            stage.update()
            marks.append(_now(here))
            if step >= warmup:
                for phase, begun, ended in zip(PHASES, marks[:-1], marks[1:], strict=True):
                    clock[phase].append(ended - begun)
                observations += batch.valid.numel()
                kept = [*kept, batch][-pairs:]
    total = sum(map(sum, clock.values()))
    flops = float(np.mean([_flops(stage, lambda b=batch: stage.losses(b, 0, WHOLE).total) for batch in kept]))
    encoding = float(np.mean([_flops(stage, lambda b=batch: _encoded(stage, b)) for batch in kept]))
    rate = matrix_rate(here, torch.bfloat16 if config.bf16 else torch.float32)
    computing = (total - sum(clock["wait"])) / steps
    return {
        "stage": stage.stage.name,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in stage.model.parameters()),
        "samples_per_s": observations / total,
        "windows_per_s": stage.stage.trajectories * steps / total,
        "phases": {phase: 1e3 * sum(times) / steps for phase, times in clock.items()},
        "wait_share": sum(clock["wait"]) / total,
        "flops": flops,
        "encoding_share": encoding / flops,
        "matrix_flops_per_s": rate,
        "matrix_share": flops / computing / rate,
        "eager": _against_a_plain_loop(stage, kept),
    }


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of the best of a few square matrix products: what this machine can do, measured now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [_time(lambda: a @ b, device) for _ in range(repeats + 1)]
    return 2 * size**3 / min(times[1:])


def _stage(config: TrainConfig, datasets: Sequence[Dataset], device: torch.device, progress: bool) -> Stage:
    data, held_out, model, ema = prepare(config, datasets, device, progress=progress)
    objective = Objective(model, config.objective, config.weights, config.bf16)
    last = max(index for index, stage in enumerate(config.stages) if not stage.kind.encoders_rest)
    return Stage(config, last, objective, ema, data, held_out, Processes(device=device))


def _flops(stage: Stage, forward: Callable[[], torch.Tensor]) -> int:
    """Operations of matrix products, convolutions and attention in ``forward`` and its backward."""
    with FlopCounterMode(display=False) as counter:
        forward().backward()
    stage.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def _encoded(stage: Stage, batch: Batch) -> torch.Tensor:
    """Something that has all gradients of encoding every frame and grounding at the fewest decision steps drawn."""
    latest = max(1, batch.valid.shape[1] - stage.config.objective.max_rollout)
    starts = torch.arange(min(stage.stage.starts, latest), device=batch.valid.device)
    latents = encode_batch(stage.model, batch, starts)
    return latents.z.sum() + latents.context.sum()


def _against_a_plain_loop(stage: Stage, batches: Sequence[Batch]) -> dict[str, float]:
    """Both do whole optimizer steps (forward, backward, clip, Adam) on the same batches, in turns."""
    config, here = stage.config, stage.processes.device
    plain = copy.deepcopy(stage.model)
    optimizers = {model: torch.optim.Adam(model.parameters(), lr=1e-12) for model in (stage.model, plain)}

    def batched(batch: Batch, seed: int) -> torch.Tensor:
        return stage.objective(batch, stage.stage, seed).total

    def eager(batch: Batch, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast(here.type, torch.bfloat16, enabled=config.bf16):
            raw = eager_terms(plain, batch, stage.stage, config.objective, generator, seed)
        return total_loss(raw, stage.stage.loss_weights(config.weights))[0]

    times: dict[str, list[float]] = {"batched": [], "eager": []}
    differences = []
    for seed, batch in enumerate(batches):
        found = []
        for name, model, loss in (("batched", stage.model, batched), ("eager", plain, eager)):

            def whole(model=model, loss=loss, batch=batch, seed=seed, found=found) -> None:
                value = loss(batch, seed)
                value.backward()
                clip_and_step(optimizers[model], config.optimizer.clip_norm)
                found.append(value.detach())

            times[name].append(_time(whole, here))
        differences.append(float((found[0] - found[1]).abs() / found[1].abs()))
    batched_ms, eager_ms = (1e3 * float(np.median(times[name])) for name in ("batched", "eager"))
    return {
        "ms": eager_ms,
        "batched_ms": batched_ms,
        "ratio": eager_ms / batched_ms,
        "loss_difference": max(differences),
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _time(work: Callable[[], object], device: torch.device) -> float:
    begun = _now(device)
    work()
    return _now(device) - begun
