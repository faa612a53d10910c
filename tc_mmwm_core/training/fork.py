"""Runs that begin alike: what they share is trained once, and each goes on from there as if it had done it itself.

A run is a function of config and data, and a stage reads only some of the config: two runs that differ in λ_rollout
alone have the same weights until the stage that computes L_rollout.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint, write_checkpoint
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.run import CONFIG, ENVIRONMENT, METRICS


def beginning(config: TrainConfig, stages: int) -> TrainConfig:
    """The run of the first ``stages`` stages of ``config``, the same for all configurations that train them alike.

    What these stages do not read has its default; each holds all the weights that it reads as its own.
    """
    first = config.stages[:stages]
    read = {name for stage in first for name in stage.kind.constants}
    constants = {name: value for name, value in config.objective if name in read}
    changes: dict[str, Any] = {
        "stages": tuple(_with_own_weights(stage, config) for stage in first),
        "weights": type(config.weights)(),
        "objective": ObjectiveConfig(**constants),
    }
    return config.model_copy(update=changes)


def fork(source: Path, config: TrainConfig, output: Path) -> None:
    """Make of the ended run in ``source``, a :func:`beginning` of ``config``, the run of ``config`` in ``output``.

    Training goes on in ``output`` bit for bit as if it had been one run. Raises CheckpointError: see
    :func:`write_checkpoint`.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, ENVIRONMENT, METRICS):
        shutil.copyfile(source / name, output / name)
    content = read_checkpoint(source / LAST)
    write_checkpoint(output / LAST, content | {"config": config.model_dump(mode="json")})  # last: it makes it a run


def shared_stages(config: TrainConfig, others: Mapping[str, TrainConfig]) -> list[int]:
    """Numbers of first stages, smallest first and not all, that ``config`` trains as another of ``others`` does."""
    found = []
    for stages in range(1, len(config.stages)):
        mine = beginning(config, stages)
        alike = [other for other in others.values() if len(other.stages) >= stages and beginning(other, stages) == mine]
        if len(alike) > 1:
            found.append(stages)
    return found


def _with_own_weights(stage: StageConfig, config: TrainConfig) -> StageConfig:
    weights = stage.loss_weights(config.weights)
    own = {name: value if name in stage.kind.terms else 0.0 for name, value in weights}
    return stage.model_copy(update={"weights": own})
