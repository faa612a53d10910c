"""Ablations: the same training with one thing switched off, several seeds each, and what held-out data say of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field

from tc_mmwm_core.config import Config, ConfigError, parse
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.training.checkpoint import LAST
from tc_mmwm_core.training.config import StageConfig, TrainConfig
from tc_mmwm_core.training.curriculum import select_stages
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.fork import beginning, fork, shared_stages
from tc_mmwm_core.training.trainer import TrainingError, label_data, train
from tc_mmwm_core.utils.results import write_results

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


def variants(base: TrainConfig, file: Switches, origin: str) -> dict[str, TrainConfig]:
    """The full configuration first, then one for each switch of ``file``, by their names.

    Raises:
        ConfigError: a switch that gives no valid configuration.
    """
    return {FULL: base} | {name: ablated(base, change, f"{origin}: {name}") for name, change in file.switches.items()}


def ablated(base: TrainConfig, change: Mapping[str, Any], origin: str) -> TrainConfig:
    """``base`` with ``change`` merged into it.

    ``stages`` of it names the stages of the world model that are left, as a list or with what changes in each; a stage
    of heads alone stays, unless the change switches off all terms that it learns by. A weight in ``change`` holds in
    every stage, also in those with a weight of their own for that term, except where ``stages`` sets it for one stage.
    """
    change = dict(change)
    stages = change.get("stages")
    # Anything but a mapping is refused below, by its name.
    weights, switched = (x if isinstance(x := change.get(key), Mapping) else {} for key in ("weights", "model"))
    model = base.model.model_copy(update=dict(switched))
    left = [s for s in base.stages if not s.kind.encoders_rest or _learns(s, base, weights, model)]
    own: dict[str, Any] = {}
    if stages:
        own = dict(stages) if isinstance(stages, Mapping) else {name: {} for name in stages}
        own |= {stage.name: own.get(stage.name, {}) for stage in left if stage.kind.encoders_rest}
        left = select_stages(base.stages, list(own))
    change["stages"] = [_stage(stage.model_dump(mode="json"), own.get(stage.name, {}), weights) for stage in left]
    return parse(_merged(base.model_dump(mode="json"), change), TrainConfig, origin)


def run_ablations(
    configs: Mapping[str, TrainConfig],
    seeds: Sequence[int],
    datasets: Sequence[Dataset],
    output: Path,
    device: str = "cpu",
    progress: bool = True,
) -> list[Row]:
    """Train each configuration under each seed into :func:`run_folder`.

    What is done is not done again, and what was killed goes on: the same command finishes the set. First stages that
    several configurations train alike are trained once, in ``output/beginnings``; the weights are the same.

    Raises:
        TrainingError: a folder holds an ablation of another configuration or of other data.
    """
    trained = _Trained(datasets, device, progress)
    rows = []
    for seed in seeds:
        for name, config in configs.items():
            seeded = config.model_copy(update={"seed": seed})
            folder = run_folder(output, name, seed)
            begun = None
            for stages in [] if (folder / DONE).exists() else shared_stages(config, configs):
                part = beginning(seeded, stages)
                target = output / "beginnings" / hashlib.sha256(part.model_dump_json().encode()).hexdigest()[:12]
                trained(part, target, begun, f"stages 1 to {stages}, seed {seed}")
                begun = target
            rows.append(Row(name, seed, trained(seeded, folder, begun, f"{name}, seed {seed}")))
    return sorted(rows, key=lambda row: list(configs).index(row.ablation))


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Where :func:`run_ablations` keeps a run."""
    return output / name / f"seed-{seed}"


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


class _Trained:
    """The last measures of runs, trained now if they were not; labels are kept from one run to the next."""

    def __init__(self, datasets: Sequence[Dataset], device: str, progress: bool) -> None:
        self.datasets, self.device, self.progress = datasets, device, progress
        self.digests = [dataset.digest for dataset in datasets]
        self.labels: tuple[Any, tuple[LabelledData, LabelledData]] | None = None

    def __call__(self, config: TrainConfig, folder: Path, begun: Path | None, title: str) -> dict[str, float]:
        """Measures of the run of ``config`` in ``folder``, which goes on from the one in ``begun``."""
        identity = {"config": config.model_dump(mode="json"), "data": self.digests}
        if (folder / DONE).exists():
            content = json.loads((folder / DONE).read_text(encoding="utf-8"))
            made_with = parse(content["config"], TrainConfig, str(folder / DONE))
            if made_with != config or content["data"] != self.digests:
                raise TrainingError(f"{folder}: holds an ablation of another config or of other data")
            return {key: np.nan if value is None else value for key, value in content["measures"].items()}
        if self.progress:
            print(title, flush=True)
        if begun is not None and not (folder / LAST).exists():
            fork(begun, config, folder)
        labelled = self._labelled(config)
        measures = train(config, self.datasets, folder, None, self.device, self.progress, labelled)
        write_results(folder / DONE, identity | {"measures": measures})
        return measures

    def _labelled(self, config: TrainConfig) -> tuple[LabelledData, LabelledData]:
        key = (config.seed, config.data, config.model.max_tokens, config.model.bodies)
        if self.labels is None or self.labels[0] != key:
            self.labels = key, label_data(config, self.datasets, self.progress)
        first, second = self.labels[1]
        return first.under(config), second.under(config)


def _learns(stage: StageConfig, base: TrainConfig, weights: Mapping[str, Any], model: ModelConfig) -> bool:
    """Whether a stage of ``base`` still has a part and a term to train, under the changed ``weights`` and ``model``."""
    held = base.weights.model_dump() | stage.weights | dict(weights)
    return not stage.lacks(model) and any(held[term] for term in stage.needs(model))


def _stage(stage: dict[str, Any], change: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """``stage`` under the run's changed ``weights``, which its own give way to, and with its own ``change``."""
    held = {name: weights.get(name, value) for name, value in stage["weights"].items()}
    return _merged(stage | {"weights": held}, change)


def _merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, Mapping)):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}
