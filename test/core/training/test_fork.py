"""Runs that begin alike share what they begin with, and end as if they had not."""

from __future__ import annotations

import json

import pytest
import torch
from batches import noise_batch, tiny_model

from tc_mmwm_core.losses.total_loss import LossWeights
from tc_mmwm_core.training.ablation import ablated, run_ablations, run_folder
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig
from tc_mmwm_core.training.fork import beginning, fork, shared_stages
from tc_mmwm_core.training.kinds import KINDS
from tc_mmwm_core.training.latent_stage import ENCODED
from tc_mmwm_core.training.objective import Objective
from tc_mmwm_core.training.trainer import train


@pytest.mark.parametrize("stages", [1, 2])
def test_a_forked_run_ends_with_the_weights_of_an_unbroken_one(
    stages, unbroken, config, dataset, tmp_path, weights_of, assert_same_weights
):
    begun = beginning(config, stages)
    assert begun != config and len(begun.stages) == stages
    train(begun, [dataset], tmp_path / "begun", progress=False)
    fork(tmp_path / "begun", config, tmp_path / "run")
    measures = train(config, [dataset], tmp_path / "run", progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path / "run"))
    assert measures == pytest.approx(unbroken.measures, nan_ok=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_what_a_stage_does_not_read_does_not_divide_runs(config):
    def shared(change) -> list[int]:
        other = ablated(config, change, "test")
        return shared_stages(other, {"full": config, "other": other})

    assert shared({"weights": {"action": 0, "rollout": 0}}) == [1, 2]
    assert shared({"objective": {"counterfactuals": 8}}) == [1, 2]
    assert shared({"weights": {"state": 0}}) == [1]
    assert shared({"objective": {"stop_gradient": True}}) == [1]
    assert shared({"stages": {"reconstruction": {}, "world_model": {}, "full": {"learning_rate": 1e-5}}}) == [1, 2]
    assert shared({"weights": {"sigreg_visual": 0}}) == []
    assert shared({"seed": 5}) == []
    assert shared({"model": {"horizon": 2}}) == []
    assert shared({"stages": {"reconstruction": {}, "full": {}}}) == [1]
    assert shared({"stages": {"reconstruction": {"weights": {"place": 0}}, "world_model": {}, "full": {}}}) == []


@pytest.mark.parametrize("name", KINDS)
def test_the_terms_that_a_stage_does_not_compute_are_those_listed(name):
    batch = noise_batch(cameras=2, bodies=2)
    stage = StageConfig(name=name, epochs=1, trajectories=2, min_length=2, max_length=8, instructions=2, starts=1)
    model = tiny_model(cameras=2, bodies=2, keypoints=True)
    objective = Objective(model, ObjectiveConfig(), LossWeights())
    if stage.kind.encoders_rest:
        batch = ENCODED[name][1](model, batch, stage, torch.Generator().manual_seed(0))
    assert set(objective(batch, stage, 0).raw) == set(stage.kind.terms)
    assert set(stage.kind.constants) <= set(ObjectiveConfig.model_fields)
    assert set(stage.kind.needs) <= set(stage.kind.terms)


def test_a_set_trains_what_is_shared_once(config, dataset, tmp_path, weights_of, assert_same_weights):
    changes = {"no_action": {"weights": {"action": 0}}, "no_rollout": {"weights": {"rollout": 0}}}
    configs = {"full": config} | {name: ablated(config, change, name) for name, change in changes.items()}
    rows = run_ablations(configs, [0], [dataset], tmp_path / "set", progress=False)
    assert [row.ablation for row in rows] == list(configs)
    assert len(list((tmp_path / "set" / "beginnings").iterdir())) == 2  # of one stage and of two
    train(configs["no_action"], [dataset], tmp_path / "alone", progress=False)
    assert_same_weights(weights_of(tmp_path / "alone"), weights_of(run_folder(tmp_path / "set", "no_action", 0)))
