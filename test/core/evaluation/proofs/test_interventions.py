"""Alternatives differ in nothing but the action; what was foretold of them is judged as the definitions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.evaluation.proofs import interventions
from tc_mmwm_core.evaluation.proofs.interventions import collect_alternatives, foretold
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.training.config import DataConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.model import build_model

HORIZON, SKIP, COUNT = 3, 2, 5
CONFIG = TrainConfig(
    data=DataConfig(domain="navigation", instructions=1),
    model=ModelConfig(
        latent=16, width=16, hidden=32, slots=3, slot_width=4, field_channels=2, word_dimensions=16, horizon=HORIZON
    ),
    stages=(StageConfig(name="full", epochs=1, min_length=2, max_length=2),),
)


@pytest.fixture(scope="module")
def alternatives(tmp_path_factory):
    path = tmp_path_factory.mktemp("alternatives") / "data"
    domain, robot = load_domain("navigation"), robot_file("navigation.yaml")
    for states in (1, 3):  # the second call adds what is not there
        collect_alternatives(domain, robot, path, states, COUNT, HORIZON, SKIP, seed=350_000, progress=False)
    return Dataset.open(path)


@pytest.fixture(scope="module")
def model(alternatives):
    torch.manual_seed(0)
    return build_model(CONFIG, alternatives.interface)


@pytest.fixture(scope="module")
def data(alternatives):
    return LabelledData([alternatives], CONFIG, load_domain("navigation"), progress=False)


def test_alternatives_of_a_state_share_everything_before_the_action(alternatives):
    assert len(alternatives) == 3 * COUNT and len(alternatives.paths) == 1
    seeds = [info.provenance["seed"] for info in alternatives.trajectories]
    assert sorted(set(seeds)) == [350_000, 350_001, 350_002] and all(seeds.count(seed) == COUNT for seed in seeds)
    for seed in set(seeds):
        same = [alternatives[i] for i, other in enumerate(seeds) if other == seed]
        for other in same[1:]:
            assert np.array_equal(same[0].state[0], other.state[0])
            assert np.array_equal(same[0].sensor[0], other.sensor[0])
            assert np.array_equal(same[0].images["overhead"][0], other.images["overhead"][0])
            assert not np.array_equal(same[0].action[0], other.action[0])
            assert not np.array_equal(same[0].state[-1], other.state[-1])
        assert all(len(each.state) == (HORIZON + 1) * SKIP for each in same)


def test_a_model_that_imagines_what_comes_is_right_about_all_of_it(model, data, monkeypatch):
    true = interventions.encode_batch
    kept = {}

    def encode(*arguments):
        kept["latents"] = true(*arguments)
        return kept["latents"]

    monkeypatch.setattr(interventions, "encode_batch", encode)
    monkeypatch.setattr(model, "rollout", lambda z, actions: kept["latents"].z[:, 1 : actions.shape[1] + 1])
    found = foretold(model, data)
    assert found["latent_match"] == 1.0 and found["latent_match_chance"] == pytest.approx(1 / COUNT)
    assert found["latent_error"] == 0.0
    assert found["latent_spread"] == pytest.approx(1.0) and found["latent_distance_rank"] == pytest.approx(1.0)


def test_a_model_deaf_to_actions_knows_no_alternative_from_another(model, data, monkeypatch):
    monkeypatch.setattr(model, "rollout", lambda z, actions: z[:, None].expand(-1, actions.shape[1], -1))
    found = foretold(model, data)
    assert found["latent_match"] == pytest.approx(1 / COUNT)
    assert found["latent_spread"] == pytest.approx(0.0, abs=1e-5) and found["latent_error"] == pytest.approx(1.0)
    assert "latent_distance_rank" not in found or np.isnan(found["latent_distance_rank"])


def test_the_outcome_is_the_oracles_cost_to_go(model, data, monkeypatch):
    """Progress that is minus the oracle's cost after K steps correlates fully with the outcome."""
    costs = np.array([data.labels[0].cost[t][0, HORIZON * SKIP] for t in range(len(data.datasets[0]))])
    state = iter(range(3))

    def judge(z, context, action):
        rows = slice((first := next(state) * COUNT), first + COUNT)
        progress = torch.from_numpy(-costs[rows])[:, None].expand(z.shape[:2])
        return torch.zeros(z.shape[:2]), progress

    monkeypatch.setattr(model, "judge", judge)
    assert foretold(model, data)["outcome_rank"] == pytest.approx(1.0)
