"""Weights to start from or to export: of a run's checkpoint (EMA) or of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

# safetensors: weights without pickle, which a bundle must not hold.
from safetensors.torch import load_file

from tc_mmwm_core.config import parse
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.world_model import ModelConfig, WorldModel
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.training.checkpoint import BEST, LAST, CheckpointError, read_checkpoint, shape_differences
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.trainer import build_model

WEIGHTS = "weights.safetensors"
TRAINED_ON = "trained_on.txt"  # an identity a line; older bundles do not have it


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of a model, what they were fitted to, and for which robot (None: a run of an older version)."""

    model: ModelConfig
    tensors: dict[str, torch.Tensor]
    trained_on: frozenset[str]  # identities of the trajectories that they were fitted to or chosen by
    interface: RobotInterface | None


def load_run(folder: Path, interface: RobotInterface) -> tuple[TrainConfig, WorldModel]:
    """Configuration and averaged model of the run in ``folder``. Raises CheckpointError: there is none."""
    checkpoint = _checkpoint(folder)
    config = parse(read_checkpoint(checkpoint)["config"], TrainConfig, str(checkpoint))
    model = build_model(config, interface)
    model.load_state_dict(read_weights(folder).tensors)
    return config, model


def load_bundle(path: Path) -> tuple[TrainConfig, WorldModel]:
    """Training configuration and model of the bundle at ``path``.

    Raises:
        BundleError: see :meth:`Bundle.load`.
        CheckpointError: its weights are of a model that this version builds otherwise; names what differs.
    """
    bundle = Bundle.load(path)
    config = parse(yaml.safe_load(bundle.manifest.training.config), TrainConfig, f"{path}: training.config")
    model = build_model(config, RobotInterface.load(path / "robot.yaml"))
    weights = load_file(path / WEIGHTS)
    if differing := shape_differences(weights, model.state_dict()):
        raise CheckpointError(f"{path / WEIGHTS}: of a model that this version builds otherwise: {differing[0]}")
    model.load_state_dict(weights)
    return config, model


def read_weights(path: Path) -> Weights:
    """Averaged weights of the bundle or run folder at ``path``.

    Raises:
        CheckpointError: it is neither.
    """
    if (path / WEIGHTS).exists():
        bundle = Bundle.load(path)
        config = yaml.safe_load(bundle.manifest.training.config)
        trained_on = (path / TRAINED_ON).read_text().split() if (path / TRAINED_ON).exists() else ()
        model = parse(config, TrainConfig, f"{path}: training.config").model
        return Weights(model, load_file(path / WEIGHTS), frozenset(trained_on), bundle.interface)
    checkpoint = _checkpoint(path)
    content = read_checkpoint(checkpoint)
    averaged = {
        name.removeprefix("module."): value
        for name, value in content["parts"]["ema"].items()
        if name.startswith("module.")
    }
    trained_on = frozenset(content["parts"]["trained_on"]["identities"])
    model = parse(content["config"], TrainConfig, str(checkpoint)).model
    interface = content.get("interface")
    if interface is not None:
        interface = RobotInterface.from_dict(interface, f"{checkpoint}: interface")
    return Weights(model, averaged, trained_on, interface)


def _checkpoint(path: Path) -> Path:
    found = next((path / name for name in (BEST, LAST) if (path / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{path}: neither a bundle ({WEIGHTS}) nor a run ({LAST})")
    return found
