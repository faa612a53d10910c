"""A few real navigation episodes, and a configuration that trains a tiny model on them in a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint
from tc_mmwm_core.training.config import DataConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.trainer import train


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """What subprocesses are compared with bit for bit must sum in the same order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def collected(tmp_path_factory) -> Path:
    """A dataset of eight short episodes from the real simulator."""
    path = tmp_path_factory.mktemp("collected") / "navigation"
    assert collect("navigation", robot_file("navigation.yaml"), path, 8, 20, seed=0, workers=1, progress=False) == 8
    return path


@pytest.fixture(scope="session")
def dataset(collected) -> Dataset:
    return Dataset.open(collected)


@pytest.fixture(scope="session")
def real(dataset, tmp_path_factory) -> Dataset:
    """The same motions as a robot's recordings would hold them: nobody knows scene or state."""
    path = tmp_path_factory.mktemp("recorded") / "real"
    trajectories = [replace(dataset[i], source="real", scene=None, state=None) for i in range(4)]
    DatasetWriter(path, dataset.interface).append(trajectories)
    return Dataset.open(path)


@pytest.fixture(scope="session")
def two_cameras(dataset, real, navigation, tmp_path_factory) -> list[Dataset]:
    """``dataset`` and ``real`` with a second camera, whose name is the first in the alphabet but not of the robot."""
    content = json.loads(json.dumps(navigation.to_dict()))
    content["images"].append(dict(content["images"][0], name="front", topic="front/image_raw"))
    interface = type(navigation).from_dict(content, "two cameras")
    folders = []
    for source in (dataset, real):
        folders.append(tmp_path_factory.mktemp("two_cameras") / source.trajectories[0].source)
        trajectories = [source[i] for i in range(len(source))]
        mirrored = [t.images | {"front": t.images["overhead"][:, ::-1].copy()} for t in trajectories]
        DatasetWriter(folders[-1], interface).append(
            [replace(t, images=i) for t, i in zip(trajectories, mirrored, strict=True)]
        )
    return [Dataset.open(folder) for folder in folders]


@pytest.fixture(scope="session")
def domain():
    return load_domain("navigation")


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """Three stages of two, three and three steps."""
    sizes = {"trajectories": 4, "instructions": 2, "starts": 2}
    return TrainConfig(
        data=DataConfig(domain="navigation", instructions=3, holdout=0.4),
        model=ModelConfig(
            latent=16, width=16, hidden=32, slots=3, slot_width=4, field_channels=2, word_dimensions=16, horizon=3
        ),
        stages=(
            StageConfig(name="reconstruction", epochs=4 / 3, min_length=1, max_length=1, **sizes),
            StageConfig(name="world_model", epochs=2, min_length=4, max_length=5, **sizes),
            StageConfig(name="full", epochs=2, min_length=4, max_length=5, **sizes),
        ),
        validate_every=3,
        checkpoint_seconds=1e-9,  # one after every step
    )


@pytest.fixture(scope="session")
def data(dataset, config, domain) -> LabelledData:
    return LabelledData([dataset], config, domain, progress=False)


@pytest.fixture(scope="session")
def unbroken(config, dataset, tmp_path_factory) -> SimpleNamespace:
    """A run from beginning to end: its folder, measures and final weights."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    measures = train(config, [dataset], folder, progress=False)
    return SimpleNamespace(folder=folder, measures=measures, weights=final_weights(folder))


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the model and of its average."""
    parts = read_checkpoint(folder / LAST)["parts"]
    return {f"{part}.{name}": value for part in ("model", "ema") for name, value in parts[part].items()}


@pytest.fixture(scope="session")
def assert_same_weights():
    def check(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
        differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
        assert first.keys() == second.keys() and not differing, f"{len(differing)} differ: {differing[:5]}"

    return check


@pytest.fixture(scope="session")
def weights_of():
    return final_weights
