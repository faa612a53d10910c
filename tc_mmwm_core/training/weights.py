"""Weights to start from or to export: of a run's checkpoint (EMA) or of a bundle."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

# safetensors: weights without pickle, which a bundle must not hold.
from safetensors.torch import load_file

from tc_mmwm_core.config import parse
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.training.checkpoint import BEST, LAST, CheckpointError, read_checkpoint
from tc_mmwm_core.training.config import TrainConfig

WEIGHTS = "weights.safetensors"


def read_weights(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Model configuration and averaged weights of the bundle or run folder at ``path``.

    Raises:
        CheckpointError: it is neither.
    """
    if (path / WEIGHTS).exists():
        from tc_mmwm_core.runtime.bundle import Bundle

        config = yaml.safe_load(Bundle.load(path).manifest.training.config)
        return parse(config, TrainConfig, f"{path}: training.config").model, load_file(path / WEIGHTS)
    checkpoint = next((path / name for name in (BEST, LAST) if (path / name).exists()), None)
    if checkpoint is None:
        raise CheckpointError(f"{path}: neither a bundle ({WEIGHTS}) nor a run ({LAST})")
    content = read_checkpoint(checkpoint)
    averaged = {
        name.removeprefix("module."): value
        for name, value in content["parts"]["ema"].items()
        if name.startswith("module.")
    }
    return parse(content["config"], TrainConfig, str(checkpoint)).model, averaged
