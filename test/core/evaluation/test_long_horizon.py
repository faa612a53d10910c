"""Open-loop prediction of a bundle (an untrained model's) on long episodes, and the command that reports it."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tc_mmwm_core.cli import main
from tc_mmwm_core.config import parse
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.evaluation.long_horizon import FEWEST, collect_long, curve, long_horizon
from tc_mmwm_core.runtime import bundle as bundles
from tc_mmwm_core.training.checkpoint import CheckpointError
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.export import Thresholds, export_bundle
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.weights import WEIGHTS, load_bundle

SIZES = {"latent": 16, "width": 16, "hidden": 32, "slots": 3, "slot_width": 4, "word_dimensions": 16, "horizon": 3}
CONFIG = {"data": {"domain": "navigation"}, "model": SIZES, "stages": [{"name": "full", "epochs": 1}]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, navigation):
    config = parse(CONFIG, TrainConfig, "test")
    model = build_model(config, navigation)
    return export_bundle(model, navigation, config, tmp_path_factory.mktemp("b") / "tiny", "tiny", Thresholds(1e9)).path


@pytest.fixture(scope="module")
def long(bundle, tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("long")
    collect_long("navigation", bundle, folder, 2, 900_004, 1, progress=False)
    return collect_long("navigation", bundle, folder, 6, 900_000, 1, progress=False)  # what is there is used


def test_episodes_are_those_of_the_layouts_asked_for_in_their_order(long):
    assert [info.provenance["seed"] for info in long.trajectories] == list(range(900_000, 900_006))
    assert max(info.length for info in long.trajectories) == 51 * 2 + 1


def test_it_is_measured_as_far_ahead_as_the_episodes_reach(bundle, long):
    errors = curve(long_horizon(bundle, "navigation", long, progress=False))
    assert errors["latent"].keys() == {"model", "copy", "linear"}
    assert all(np.isfinite(row).all() and row[0] > 0 for row in errors["latent"].values())
    assert len(long) // 2 < FEWEST
    reach = min(info.length for info in list(long.trajectories)[1::2]) // 2 - 1
    assert len(errors["latent"]["model"]) == len(errors["state_rmse"]["linear"]) == min(50, reach)
    assert long_horizon(bundle, "navigation", long.subset([0]), progress=False) is None


def test_the_command_reports_it_and_collects_once(bundle, tmp_path, capsys):
    command = ["evaluate", "--bundle", str(bundle), "--episodes", "1", "--probes", "0", "--candidates", "16"]
    command += ["--open-loop", "4", "--output", str(tmp_path), "--quiet"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "open-loop error" in table and "k = 5 " in table
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["curves"]["open_loop"]["state"][:2] == ["x [m]", "y [m]"]
    shards = sorted((tmp_path / "long" / "shards").iterdir())
    assert main(command) == 0
    assert capsys.readouterr().out == table and sorted((tmp_path / "long" / "shards").iterdir()) == shards


def test_weights_of_another_version_are_named(bundle, tmp_path):
    manifest = bundles.Bundle.load(bundle).manifest
    files = {file.name: file for file in bundle.iterdir() if file.name != "bundle.json"}
    weights = load_file(bundle / WEIGHTS)
    key = "field.out.bias"
    save_file(weights | {key: weights[key][:-1].contiguous()}, tmp_path / WEIGHTS)
    other = bundles.write_bundle(tmp_path / "other", manifest, files | {WEIGHTS: tmp_path / WEIGHTS})
    with pytest.raises(CheckpointError, match=r"weights.safetensors: of a model .* otherwise: field\.out\.bias"):
        load_bundle(other.path)
