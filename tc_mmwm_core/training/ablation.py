"""Ablations: the same training with one thing switched off, several seeds each, and what held-out data say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import Field

from tc_mmwm_core.config import Config, ConfigError, parse
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.data.windows import WindowSampler
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.evaluation.latents import linear_probe_r2
from tc_mmwm_core.evaluation.results import write_results
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.curriculum import select_stages
from tc_mmwm_core.training.data import LabelledData, split
from tc_mmwm_core.training.objective import encode_batch
from tc_mmwm_core.training.run import METRICS, read_metrics
from tc_mmwm_core.training.trainer import TrainingError, build_model, train
from tc_mmwm_core.training.weights import read_weights

FULL = "full"
DONE = "measures.json"


class Switches(Config):
    """``config/ablate/*.yaml``: what the training configuration has instead, by the name of what is switched off."""

    switches: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Row:
    """What held-out data say of one ablation under one seed."""

    ablation: str
    seed: int
    measures: dict[str, float]


def ablations(base: TrainConfig, file: Switches, asked: Sequence[str] | None, origin: str) -> dict[str, TrainConfig]:
    """The full configuration first, then one for each switch.

    Args:
        asked: ``name=off`` for a switch of ``file``, ``dotted.key=value`` for any other change; None: all of ``file``
            that change something.
        origin: names ``file`` in errors.

    Raises:
        ConfigError: an unknown switch, one that changes nothing, or one that gives no valid configuration.
    """
    found = {FULL: base}
    for text in [f"{name}=off" for name in file.switches] if asked is None else asked:
        key, separator, value = text.partition("=")
        if key in file.switches and value == "off":
            found[text] = ablated(base, file.switches[key], f"{origin}: {key}")
        elif separator and "." in key:
            change: Any = yaml.safe_load(value)
            for part in reversed(key.split(".")):
                change = {part: change}
            found[text] = ablated(base, change, f"--switch {text}")
        else:
            known = ", ".join(f"{name}=off" for name in file.switches)
            raise ConfigError(f"--switch {text}: known are {known}, and any dotted.key=value of the configuration")
        if found[text] == base:
            del found[text]
            if asked is not None:
                raise ConfigError(f"--switch {text}: the configuration is so already")
    return found


def ablated(base: TrainConfig, change: Mapping[str, Any], origin: str) -> TrainConfig:
    """``base`` with ``change`` merged into it; ``stages`` of it may be names of those that are left."""
    change = dict(change)
    names = change.get("stages")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        base = base.model_copy(update={"stages": select_stages(base.stages, change.pop("stages"))})
    return parse(_merged(base.model_dump(mode="json"), change), TrainConfig, origin)


def run_ablations(
    configs: Mapping[str, TrainConfig],
    seeds: Sequence[int],
    datasets: Sequence[Dataset],
    output: Path,
    device: str = "cpu",
    progress: bool = True,
) -> list[Row]:
    """Train each configuration under each seed into ``output/<ablation>/seed-<seed>``.

    What is done is not done again, and what was killed goes on: the same command finishes the set.

    Raises:
        TrainingError: a folder holds an ablation of another configuration or of other data.
    """
    rows = []
    for name, config in configs.items():
        for seed in seeds:
            seeded = config.model_copy(update={"seed": seed})
            folder = output / name / f"seed-{seed}"
            identity = {"config": seeded.model_dump(mode="json"), "data": [dataset.digest for dataset in datasets]}
            if (folder / DONE).exists():
                content = json.loads((folder / DONE).read_text(encoding="utf-8"))
                if any(content[key] != value for key, value in identity.items()):
                    raise TrainingError(f"{folder}: holds an ablation of another config or of other data")
                measures = {key: np.nan if value is None else value for key, value in content["measures"].items()}
            else:
                if progress:
                    print(f"{name}, seed {seed}", flush=True)
                measures = train(seeded, datasets, folder, device=device, progress=progress)
                measures |= _collapse(seeded, datasets, folder)
                write_results(folder / DONE, identity | {"measures": measures})
            rows.append(Row(name, seed, measures))
    return rows


def table(rows: Sequence[Row], measures: Sequence[str]) -> str:
    """Mean ± standard deviation over the seeds, a line for each ablation."""
    names = list(dict.fromkeys(row.ablation for row in rows))
    width = max(map(len, names)) + 2
    lines = [" " * width + "".join(f"{name:>22}" for name in measures)]
    for name in names:
        cells = []
        for measure in measures:
            values = np.array([row.measures.get(measure, np.nan) for row in rows if row.ablation == name])
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{f'{values.mean():.3f}{spread}':>22}")
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def _collapse(config: TrainConfig, datasets: Sequence[Dataset], run: Path) -> dict[str, float]:
    """What tells of a collapse.

    ``probe_r2``, ``probe_r2_vision``: R² of the simulator's true state, read linearly from z and from z_v on held-out
    trajectories, mean over its variables; ``sigreg_fused``, ``sigreg_visual``: of the last step (a Gaussian's is 1.05).
    """
    model = build_model(config, datasets[0].interface)
    model.load_state_dict(read_weights(run)[1])
    last = list(read_metrics(run / METRICS))[-1]
    found = {"sigreg_fused": last["raw/sigreg_fused"], "sigreg_visual": last["raw/sigreg_visual"]}
    domain = load_domain(config.data.domain) if config.data.domain else None
    held = [split(dataset, config.data.holdout, config.seed)[1] for dataset in datasets]
    held = [part.subset([i for i, info in enumerate(part.trajectories) if info.has_state]) for part in held]
    held = [part for part in held if len(part)]
    if sum(map(len, held)) < 2:
        return found
    z, z_v, states, owners = _latents(model, LabelledData(held, config, domain, progress=False))
    found["probe_r2"] = float(np.nanmean(linear_probe_r2(z, states, owners)))
    found["probe_r2_vision"] = float(np.nanmean(linear_probe_r2(z_v, states, owners)))
    return found


@torch.no_grad()
def _latents(model: WorldModel, data: LabelledData) -> tuple[np.ndarray, ...]:
    """z and z_v [N, D] under the recorded instructions, true states [N, P], trajectory [N]."""
    model.eval()
    skip = model.config.frame_skip
    sampler = WindowSampler(data.datasets, batch=1, length=(1, 1))
    columns = []
    places = [(d, t) for d, dataset in enumerate(data.datasets) for t in range(len(dataset))]
    for owner, (d, t) in enumerate(places):
        batch = data.whole(sampler, d, t)
        latents = encode_batch(model, batch, torch.arange(1))
        steps = batch.valid.shape[1]
        states = data.datasets[d][t].state[: steps * skip : skip]
        columns.append((latents.z[0].numpy(), latents.z_v[0].numpy(), states, np.full(steps, owner)))
    return tuple(np.concatenate(column) for column in zip(*columns, strict=True))


def _merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, Mapping)):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}
