"""Runs that begin alike: what they share is trained once, and each goes on from there as if it had done it itself.

A run is a function of config and data, and a stage reads only some of the config: two runs that differ in λ_rollout
alone have the same weights until the stage that computes L_rollout.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tc_mmwm_core.losses.total_loss import LossWeights
from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint, write_checkpoint
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.run import CONFIG, ENVIRONMENT, METRICS

JUDGEMENT = ("constraint", "violation", "margin", "progress")  # terms of what is judged
JUDGED = ("violation_margin", "margin_scale", "margin_limit", "prudence")  # constants that the judgement's terms read
MAPPED = ("margin_scale", "margin_limit", "prudence", "cost_limit")  # that the field's terms read
# Terms that a stage does not compute, and constants of the objective that only they read.
UNCOMPUTED: dict[str, tuple[str, ...]] = {
    "grounding": tuple(n for n in LossWeights.model_fields if n not in ("referring", "visibility", "keypoints")),
    "reconstruction": ("state", "rollout", "action"),
    "world_model": ("rollout", "action"),
    "full": (),
    "memory": tuple(name for name in LossWeights.model_fields if name != "visibility"),
    "keypoints": tuple(name for name in LossWeights.model_fields if name != "keypoints"),
    "dynamics": tuple(name for name in LossWeights.model_fields if name not in ("state", "rollout")),
    "field": tuple(name for name in LossWeights.model_fields if name not in ("referring", "field")),
    "judge": tuple(n for n in LossWeights.model_fields if n not in JUDGEMENT),
    "foresight": tuple(n for n in LossWeights.model_fields if n not in ("state", "rollout", "place", *JUDGEMENT)),
    "policy": tuple(name for name in LossWeights.model_fields if name != "proposal"),
}
UNREAD: dict[str, tuple[str, ...]] = {
    "grounding": tuple(name for name in ObjectiveConfig.model_fields if name not in ("min_rollout", "max_rollout")),
    "reconstruction": ("counterfactuals", "action_eps", "scale_by_action_distance", "stop_gradient"),
    "world_model": ("counterfactuals", "action_eps", "scale_by_action_distance"),
    "full": (),
    "memory": tuple(ObjectiveConfig.model_fields),
    "keypoints": tuple(ObjectiveConfig.model_fields),
    "dynamics": tuple(ObjectiveConfig.model_fields),
    "field": tuple(n for n in ObjectiveConfig.model_fields if n not in MAPPED),
    "judge": tuple(n for n in ObjectiveConfig.model_fields if n not in JUDGED),
    "foresight": tuple(n for n in ObjectiveConfig.model_fields if n not in JUDGED),
    "policy": tuple(ObjectiveConfig.model_fields),
}


def beginning(config: TrainConfig, stages: int) -> TrainConfig:
    """The run of the first ``stages`` stages of ``config``, the same for all configurations that train them alike.

    What these stages do not read has its default; each holds all the weights that it reads as its own.
    """
    first = config.stages[:stages]
    unread = set.intersection(*(set(UNREAD[stage.name]) for stage in first))
    constants = {name: value for name, value in config.objective if name not in unread}
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
    weights = stage.loss_weights(config.weights).model_dump()
    return stage.model_copy(update={"weights": weights | dict.fromkeys(UNCOMPUTED[stage.name], 0.0)})
