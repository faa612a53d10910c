"""The policy's own stage: on encoders at rest, each decision encoded once."""

from __future__ import annotations

import json

import pytest
import torch
from batches import noise_batch, tiny_model
from pydantic import ValidationError

from tc_mmwm_core.losses.proposal import median_proposal
from tc_mmwm_core.losses.total_loss import LossWeights
from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig
from tc_mmwm_core.training.fork import fork
from tc_mmwm_core.training.objective import Objective, decisions
from tc_mmwm_core.training.policy_stage import PolicyStage
from tc_mmwm_core.training.trainer import train

POLICY = StageConfig(
    name="policy", epochs=2, trajectories=4, min_length=2, max_length=6, instructions=2, starts=3, passes=40
)


@pytest.fixture(scope="module")
def with_policy(config):
    return config.model_copy(update={"stages": (*config.stages, POLICY), "validate_every": 40})


@pytest.fixture(scope="module")
def trained(unbroken, with_policy, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "run"
    fork(unbroken.folder, with_policy, folder)
    return folder, train(with_policy, [dataset], folder, progress=False)


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == "policy"]


def test_the_policy_learns_and_all_else_rests_as_it_was_averaged(trained, unbroken):
    folder, measures = trained
    found = records(folder)
    assert len(found) == 3 * 40 and {name for name in found[0] if name.startswith("raw/")} == {"raw/proposal"}
    assert sum(r["loss"] for r in found[-40:]) < 0.9 * sum(r["loss"] for r in found[:40])
    assert measures["loss"] == found[-1]["valid/loss"] and "violation_auroc" in measures
    before, parts = unbroken.weights, read_checkpoint(folder / LAST)["parts"]
    for name, value in parts["model"].items():
        same = torch.equal(value, before[f"ema.module.{name}"])
        assert same != (name.startswith("policy.") and value.is_floating_point()), name
        assert same == torch.equal(parts["ema"][f"module.{name}"], before[f"ema.module.{name}"]), name


def test_an_interrupted_stage_encodes_the_same_and_resumes_to_the_same_weights(
    trained, unbroken, with_policy, dataset, tmp_path, weights_of, assert_same_weights, monkeypatch
):
    def interrupted(stage, *args, step=PolicyStage.step):
        if args[1].stage_step == 50:
            raise KeyboardInterrupt
        return step(stage, *args)

    fork(unbroken.folder, with_policy, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PolicyStage, "step", interrupted)
        train(with_policy, [dataset], tmp_path / "run", progress=False)
    train(with_policy, [dataset], tmp_path / "run", progress=False)
    assert_same_weights(weights_of(trained[0]), weights_of(tmp_path / "run"))


def test_decisions_are_what_the_model_proposes_on_and_what_is_wanted_of_it():
    model, batch = tiny_model(cameras=2, bodies=2, keypoints=True), noise_batch(cameras=2, bodies=2)
    of = decisions(model, batch, POLICY, torch.Generator().manual_seed(5))
    windows, several = batch.tokens.shape[:2]
    assert len(of) == windows * several * POLICY.starts and of.wanted.isfinite().all()
    objective = Objective(model, ObjectiveConfig(), LossWeights())
    expected = median_proposal(model.policy(of.seen), of.wanted, of.known)
    torch.testing.assert_close(objective(of, POLICY, 5).raw["proposal"], expected)
    torch.testing.assert_close(objective(batch, POLICY, 5).raw["proposal"], expected)  # the whole batch, encoded then
    assert objective(of, POLICY, 5).alpha is None


def test_only_this_stage_has_passes():
    with pytest.raises(ValidationError, match="stage full has passes 2: only stage policy"):
        StageConfig(name="full", epochs=1, passes=2)
