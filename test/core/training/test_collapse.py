"""Measures of collapse, on models whose latents are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tc_mmwm_core.training.collapse import HeldOutFrames, collapse
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.model import build_model


@pytest.fixture(scope="module")
def frames(data) -> HeldOutFrames:
    return HeldOutFrames.of(data, trajectories=6, frames=4)


@pytest.fixture
def model(config, dataset):
    torch.manual_seed(0)
    return build_model(config, dataset.interface)


def test_frames_are_spread_over_whole_trajectories_with_their_true_state(frames, dataset):
    assert frames.count == 6 and frames.state.shape == (24, 6)  # yaw as cosine and sine
    np.testing.assert_allclose(np.square(frames.state[:, 2:4]).sum(1), 1.0, rtol=1e-5)
    truth = dataset[2].state
    np.testing.assert_allclose(frames.state[8:12, :2], truth[np.linspace(0, len(truth) - 2, 4).astype(int), :2])
    assert np.array_equal(frames.batch.images[0][8, 0].numpy(), dataset[2].images["overhead"][0])


def test_a_constant_encoder_is_seen_for_what_it_is(model, frames):
    with torch.no_grad():
        for parameter in (*model.vision.out.parameters(), *model.sensor.parameters(), *model.language.parameters()):
            parameter.zero_()
    found = collapse(model, frames)
    for name in ("fused", "visual"):
        assert found[f"effective_rank_{name}"] == 0 and found[f"latent_variance_{name}"] == 0
        assert found[f"sigreg_{name}"] == pytest.approx(0.40 * frames.count, rel=0.02)
        assert found[f"probe_r2_{name}"] <= 0


def test_a_latent_that_holds_the_state_is_read(model, frames, monkeypatch):
    z = torch.from_numpy(np.pad(frames.state, ((0, 0), (0, 10)))).float()[:, None]
    monkeypatch.setattr("tc_mmwm_core.training.collapse.fuse_batch", lambda *_: (z, torch.zeros_like(z)))
    found = collapse(model, frames)
    assert found["probe_r2_fused"] > 0.99 and found["probe_r2_visual"] <= 0
    assert 1 < found["effective_rank_fused"] <= 6


@pytest.mark.parametrize("with_domain", [False, True])
def test_recordings_without_a_true_state_have_no_probe(config, real, model, domain, with_domain):
    data = LabelledData([real], config, domain if with_domain else None, progress=False)
    found = collapse(model, HeldOutFrames.of(data, frames=3))
    assert {"effective_rank_fused", "sigreg_visual"} <= found.keys()
    assert not any(name.startswith("probe") for name in found)


def test_it_leaves_the_model_as_it_was(model, frames):
    model.train()
    collapse(model, frames)
    assert model.training
