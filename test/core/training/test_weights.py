"""Weights are found in a run and in a bundle, and are the averaged ones."""

import pytest
import torch

from tc_mmwm_core.training.checkpoint import CheckpointError
from tc_mmwm_core.training.data import split
from tc_mmwm_core.training.export import Thresholds, export_bundle
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.weights import read_weights


def test_a_run_and_the_bundle_made_of_it_hold_the_same_averaged_weights(unbroken, config, dataset, tmp_path):
    trained = read_weights(unbroken.folder)
    assert trained.config == config and trained.interface == dataset.interface
    fitted = {info.identity for info in split(dataset, config.data.holdout)[0].trajectories}
    assert trained.trained_on == fitted and 0 < len(fitted) < len(dataset)
    weights = trained.tensors
    for name, value in weights.items():
        assert torch.equal(value, unbroken.weights[f"ema.module.{name}"])
    assert not torch.equal(weights["dynamics.from_state.weight"], unbroken.weights["model.dynamics.from_state.weight"])

    model = build_model(config, dataset.interface)
    model.load_state_dict(weights)
    bundle = export_bundle(model, dataset.interface, config, tmp_path / "bundle", "tiny", Thresholds(0.0), fitted)
    again = read_weights(bundle.path)
    assert again.config == config and again.trained_on == fitted and again.tensors.keys() == weights.keys()
    assert all(torch.equal(again.tensors[name], weights[name]) for name in weights)


def test_a_folder_that_is_neither_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a bundle \(weights.safetensors\) nor a run \(last.pt\)"):
        read_weights(tmp_path)
