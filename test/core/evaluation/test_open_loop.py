"""Open-loop errors, where what each predictor must get is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.evaluation import open_loop as module
from tc_mmwm_core.evaluation.open_loop import OpenLoopError, open_loop
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.training.config import DataConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.model import build_model

STEPS = 6
CONFIG = TrainConfig(
    data=DataConfig(domain="navigation", instructions=1),
    model=ModelConfig(latent=16, width=16, hidden=32, slots=3, slot_width=4, field_channels=2, word_dimensions=16),
    stages=(StageConfig(name="full", epochs=1, min_length=2, max_length=2),),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> LabelledData:
    path = tmp_path_factory.mktemp("long") / "data"
    collect("navigation", robot_file("navigation.yaml"), path, 5, 30, seed=360_000, workers=1, progress=False)
    return LabelledData([Dataset.open(path)], CONFIG, load_domain("navigation"), progress=False)


@pytest.fixture
def model(data):
    torch.manual_seed(0)
    return build_model(CONFIG, data.datasets[0].interface)


def test_a_model_that_changes_nothing_errs_as_copying_does(model, data):
    with torch.no_grad():
        for parameter in model.dynamics.change[-1].parameters():
            parameter.zero_()
    found = open_loop(model, data, data, STEPS)
    np.testing.assert_allclose(found.latent["model"], found.latent["copy"], rtol=1e-4)
    np.testing.assert_allclose(found.state["model"], found.state["copy"], rtol=1e-4)
    assert found.latent["encoder"].max() == 0 and found.windows[-1] >= 5
    assert found.latent["copy"][-1] > found.latent["copy"][0] > 0  # further ahead is further away
    assert found.names == ("x", "y", "cos yaw", "sin yaw", "forward_speed", "turn_rate")
    assert found.units == ("m", "m", "", "", "m/s", "rad/s")
    assert all(errors.shape == (STEPS, 6) for errors in found.state.values())


def test_every_k_is_measured_on_every_window_that_reaches_it(model, data, tmp_path):
    whole, skip = data.datasets[0], CONFIG.model.frame_skip
    steps = [10, 30, 8, 16, 20]  # valid ones: the sooner at the goal, the fewer
    cut = (replace(whole[t], valid=np.arange(len(whole[t])) < steps[t]) for t in range(5))
    DatasetWriter(tmp_path / "cut", whole.interface).append(cut)
    short = LabelledData([Dataset.open(tmp_path / "cut")], CONFIG, load_domain("navigation"), progress=False)
    longest = LabelledData([whole.subset([1])], CONFIG, load_domain("navigation"), progress=False)
    reach = [n // skip - 1 for n in steps]
    found, alone = (open_loop(model, data, held_out, max(reach)) for held_out in (short, longest))
    assert found.windows.tolist() == [sum(far >= k for far in reach) for k in range(1, max(reach) + 1)]
    assert alone.windows.tolist() == [1] * max(reach)
    beyond = sorted(reach)[-2]  # where only the longest is left
    for name in ("model", "copy", "linear"):
        np.testing.assert_allclose(found.latent[name][beyond:], alone.latent[name][beyond:], rtol=1e-3)
        np.testing.assert_allclose(found.state[name][beyond:], alone.state[name][beyond:], rtol=1e-3)
    assert np.isfinite(found.latent["model"]).all() and abs(found.latent["copy"] - alone.latent["copy"])[0] > 1e-6


def test_a_linear_world_is_foretold_by_the_linear_map_and_read_by_the_probe(model, data, monkeypatch):
    """Latents that are a linear map of position, moved by what the position moves: only the linear map can tell."""
    true = module._encoded

    def linear(model, data, ahead):
        found = true(model, data, ahead)
        z = np.zeros((*found.z.shape[:2], 16), np.float32)
        z[:, 0, :2] = found.state[:, 0, :2]
        for k in range(ahead):
            z[:, k + 1] = 0.9 * z[:, k]
            z[:, k + 1, :2] += 0.1 * found.actions[:, k]
        return module._Latents(z, found.actions, np.concatenate([z[..., :2], found.state[..., 2:]], -1))

    monkeypatch.setattr(module, "_encoded", linear)
    found = open_loop(model, data, data, STEPS)
    assert found.latent["linear"].max() < 1e-3 < found.latent["copy"].min()
    assert found.state["encoder"][:, :2].max() < 0.01


def test_trajectories_too_short_are_refused_with_what_is_needed(model, data):
    with pytest.raises(OpenLoopError, match="has 42 valid control steps, which k = 20 needs"):
        open_loop(model, data, data, 20)
