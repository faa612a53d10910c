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
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.training.checkpoint import BEST, LAST, CheckpointError, read_checkpoint, shape_differences
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.model import build_model

WEIGHTS = "weights.safetensors"
TRAINED_ON = "trained_on.txt"  # an identity a line, of trajectories and of their episodes


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of a model, how they were trained, on what, and for which robot."""

    config: TrainConfig
    tensors: dict[str, torch.Tensor]
    trained_on: frozenset[str]  # identities of the trajectories that they were fitted to or chosen by
    interface: RobotInterface
    judged: bool  # whether an oracle judged any of these: nothing else teaches progress


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
        CheckpointError: it is neither, or does not tell what it was trained on or for which robot.
    """
    if (path / WEIGHTS).exists():
        bundle = Bundle.load(path)
        if TRAINED_ON not in bundle.manifest.files:
            raise CheckpointError(f"{path} has no {TRAINED_ON}: what it was trained on is not known; export its run")
        config = parse(yaml.safe_load(bundle.manifest.training.config), TrainConfig, f"{path}: training.config")
        trained_on = frozenset((path / TRAINED_ON).read_text().split())
        return Weights(config, load_file(path / WEIGHTS), trained_on, bundle.interface, bundle.manifest.progress_taught)
    checkpoint = _checkpoint(path)
    content = read_checkpoint(checkpoint)
    averaged = {
        name.removeprefix("module."): value
        for name, value in content["parts"]["ema"].items()
        if name.startswith("module.")
    }
    missing = [key for key, of in (("interface", content), ("trained_on", content["parts"])) if not of.get(key)]
    if missing:
        raise CheckpointError(f"{checkpoint}: has no '{missing[0]}': it is of an unreleased version; train it again")
    trained_on = content["parts"]["trained_on"]
    config = parse(content["config"], TrainConfig, str(checkpoint))
    interface = RobotInterface.from_dict(content["interface"], f"{checkpoint}: interface")
    judged = trained_on.get("judged", config.data.domain is not None)  # not kept by earlier versions
    return Weights(config, averaged, frozenset(trained_on["identities"]), interface, judged)


def _checkpoint(path: Path) -> Path:
    found = next((path / name for name in (BEST, LAST) if (path / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{path}: neither a bundle ({WEIGHTS}) nor a run ({LAST})")
    return found
