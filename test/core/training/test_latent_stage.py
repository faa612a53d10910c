"""Stages that train one part, on what encoders at rest made of windows once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import weakref
from collections import Counter

import pytest
import torch
from batches import noise_batch, tiny_model
from pydantic import ValidationError

from tc_mmwm_core.losses.place import place
from tc_mmwm_core.losses.proposal import median_proposal
from tc_mmwm_core.losses.total_loss import LossWeights
from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.fork import fork
from tc_mmwm_core.training.latent_stage import LatentStage
from tc_mmwm_core.training.objective import (
    Objective,
    decisions,
    encode_batch,
    followed,
    foreseen,
    fuse_batch,
    glimpsed,
    imagined,
    judgement_losses,
    located,
    mapped,
    terms,
)
from tc_mmwm_core.training.stage import VALIDATION_BATCHES
from tc_mmwm_core.training.trainer import TrainingError, prepare, train

POLICY = StageConfig(
    name="policy", epochs=2, trajectories=4, min_length=2, max_length=6, instructions=2, starts=3, passes=40
)


JUDGE = StageConfig(
    name="judge", epochs=2, trajectories=4, min_length=4, max_length=6, instructions=2, starts=1, passes=40
)
MEMORY = StageConfig(
    name="memory", epochs=2, trajectories=4, min_length=2, max_length=6, instructions=1, starts=2, passes=40
)
KEYPOINTS = MEMORY.model_copy(update={"name": "keypoints"})
DYNAMICS = StageConfig(
    name="dynamics", epochs=2, trajectories=4, min_length=4, max_length=6, instructions=2, starts=3, passes=40
)
FORESIGHT = JUDGE.model_copy(update={"name": "foresight"})
FIELD = StageConfig(
    name="field", epochs=2, trajectories=4, min_length=1, max_length=4, instructions=2, starts=1, passes=40
)
LEARNT = {  # terms of each stage, and the parts of the model that it trains
    "memory": ({"visibility"}, ("memory.seen.",)),
    "dynamics": ({"state", "rollout"}, ("dynamics.",)),
    "field": ({"referring", "field"}, ("grounding.", "field.")),
    "judge": ({"constraint", "violation", "margin", "progress"}, ("constraint_function.", "progress_head.")),
    "foresight": (
        {"state", "rollout", "place", "constraint", "violation", "margin", "progress"},
        ("dynamics.", "constraint_function.", "progress_head."),
    ),
    "policy": ({"proposal"}, ("policy.",)),
}


@pytest.fixture(
    scope="module", params=[MEMORY, DYNAMICS, FIELD, JUDGE, FORESIGHT, POLICY], ids=lambda stage: stage.name
)
def with_head(config, request):
    data = config.data.model_copy(update={"erase": 0.5})
    return config.model_copy(update={"stages": (*config.stages, request.param), "validate_every": 40, "data": data})


@pytest.fixture(scope="module")
def trained(unbroken, with_head, dataset, tmp_path_factory):
    """Run folder, last measures, and how often held-out windows, and frames of them, were encoded in validations."""
    folder, calls = tmp_path_factory.mktemp("head") / "run", Counter()
    fork(unbroken.folder, with_head, folder)

    def counted(name, function):
        return lambda *args: (calls.update([name]), function(*args))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tc_mmwm_core.training.validation.encode_batch", counted("windows", encode_batch))
        patch.setattr("tc_mmwm_core.training.collapse.fuse_batch", counted("frames", fuse_batch))
        measures = train(with_head, [dataset], folder, progress=False)
    return folder, measures, calls


def records(folder, stage):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def test_the_head_learns_and_all_else_rests_as_it_was_averaged(trained, unbroken, with_head):
    folder, measures, _ = trained
    name = with_head.stages[-1].name
    terms, learning = LEARNT[name]
    found = records(folder, name)
    assert len(found) == 3 * 40
    assert {key.removeprefix("raw/") for key in found[0] if key.startswith("raw/")} == terms
    assert sum(r["loss"] for r in found[-40:]) < 0.9 * sum(r["loss"] for r in found[:40])
    assert measures["loss"] == found[-1]["valid/loss"] and "violation_auroc" in measures
    before, parts = unbroken.weights, read_checkpoint(folder / LAST)["parts"]
    for name, value in parts["model"].items():
        same = torch.equal(value, before[f"ema.module.{name}"])
        assert same != (name.startswith(learning) and value.is_floating_point()), name
        assert same == torch.equal(parts["ema"][f"module.{name}"], before[f"ema.module.{name}"]), name


def test_what_rests_is_encoded_in_the_first_validation_alone_and_measured_the_same(
    trained, with_head, dataset, tmp_path
):
    folder, measures, calls = trained
    name, batches = with_head.stages[-1].name, 2 * VALIDATION_BATCHES  # with the instructions right and shuffled
    assert calls["windows"] == batches * (3 if name in ("memory", "field") else 1)
    assert calls["frames"] == (3 if name == "memory" else 1)
    shutil.copytree(folder, tmp_path / "again")
    assert train(with_head, [dataset], tmp_path / "again", progress=False) == pytest.approx(
        measures, rel=0, abs=0, nan_ok=True
    )


def test_an_interrupted_stage_encodes_the_same_and_resumes_to_the_same_weights(
    trained, unbroken, with_head, dataset, tmp_path, weights_of, assert_same_weights, monkeypatch
):
    def interrupted(stage, *args, step=LatentStage.step):
        if args[1].stage_step == 50:
            raise KeyboardInterrupt
        return step(stage, *args)

    fork(unbroken.folder, with_head, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LatentStage, "step", interrupted)
        train(with_head, [dataset], tmp_path / "run", progress=False)
    train(with_head, [dataset], tmp_path / "run", progress=False)
    assert_same_weights(weights_of(trained[0]), weights_of(tmp_path / "run"))


def test_rows_and_not_windows_divide_into_the_parts_of_a_batch(config, dataset, tmp_path):
    few = {"trajectories": 3, "starts": 1, "instructions": 1, "passes": 2, "epochs": 1}
    parts = config.model_copy(update={"stages": (POLICY.model_copy(update=few),), "accumulation": 2})
    assert train(parts, [dataset], tmp_path / "run", progress=False)["loss"] > 0
    with pytest.raises(
        TrainingError, match="stage policy: a batch of 3 rows does not divide into 1 processes x 4 part"
    ):
        train(parts.model_copy(update={"accumulation": 4}), [dataset], tmp_path / "none", progress=False)


def test_decisions_are_what_the_model_proposes_on_and_what_is_wanted_of_it():
    model, batch = tiny_model(cameras=2, bodies=2, keypoints=True), noise_batch(cameras=2, bodies=2)
    of = decisions(model, batch, POLICY, torch.Generator().manual_seed(5))
    windows, several = batch.tokens.shape[:2]
    assert len(of) == windows * several * POLICY.starts and of.wanted.isfinite().all()
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, POLICY, 5)
    expected = median_proposal(model.policy(of.seen), of.wanted, of.known)
    torch.testing.assert_close(found.raw["proposal"], expected)
    assert found.alpha is None


@torch.no_grad()
def test_followed_is_what_was_encoded_after_what_was_done():
    model, batch = tiny_model(), noise_batch(steps=6)
    stage, horizon = DYNAMICS.model_copy(update={"starts": 9}), tiny_model().config.horizon
    of = followed(model, batch, stage, torch.Generator().manual_seed(5))
    z, _ = fuse_batch(model, batch)
    starts = range(6 - horizon)
    assert of.z.shape == (len(batch) * len(starts), 1 + horizon, z.shape[-1])
    state, rollout, row = 0.0, 0.0, 0
    for window in range(len(batch)):
        for s in starts:
            here, alive = z[window, s], bool(batch.valid[window, s])
            torch.testing.assert_close(of.z[row], z[window, s : s + horizon + 1])
            for k in range(horizon):
                torch.testing.assert_close(of.actions[row, k], batch.actions[window, s + k])
                here = model.next(here, batch.actions[window, s + k])
                alive = alive and bool(batch.valid[window, s + k + 1])
                error = float((here - z[window, s + k + 1]).square().sum()) if alive else 0.0
                state, rollout = state + error * (k == 0), rollout + error * (k > 0)
            row += 1
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, DYNAMICS, 5).raw
    assert found["state"].item() == pytest.approx(state / row, rel=1e-4)
    assert found["rollout"].item() == pytest.approx(rollout / row, rel=1e-4)


@torch.no_grad()
def test_imagined_is_what_the_recorded_actions_lead_to_and_what_the_oracle_said_of_it():
    model, batch = tiny_model(constraint_sees_action=True), noise_batch(steps=6)
    stage, horizon = JUDGE.model_copy(update={"starts": 9}), tiny_model().config.horizon
    of = imagined(model, batch, stage, torch.Generator().manual_seed(5))
    windows, several = batch.tokens.shape[:2]
    starts = torch.arange(6 - horizon)
    assert of.z.shape[:2] == (windows * several * len(starts), 1 + horizon)
    latents = encode_batch(model, batch, starts)
    row = 0
    for n in range(windows * several):
        for s in starts.tolist():
            z, action = latents.z[n, s], torch.zeros(batch.actions.shape[-1])
            for k in range(1 + horizon):
                v, p = model.judge(z[None], latents.context[n, s][None], action[None])
                given = (x[row : row + 1, k] for x in (of.z, of.read, of.summary[:, None].expand(-1, 9, -1), of.action))
                torch.testing.assert_close(model.score(*given), (v, p), atol=1e-4, rtol=1e-4)
                own = (x.flatten(0, 1)[n, s + k] for x in (batch.margin, batch.cost, batch.violation))
                for value, label in zip((of.margin, of.cost, of.violation), own, strict=True):
                    torch.testing.assert_close(value[row, k], label, equal_nan=True)
                assert of.valid[row, k] == batch.valid[n // several, s + k]
                if k < horizon:
                    action = batch.actions[n // several, s + k]
                    z = model.next(z, action)
            row += 1
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, JUDGE, 5).raw
    v, p = model.score(of.z, of.read, of.summary, of.action)
    assert found == judgement_losses(v, p, of.margin, of.cost, of.violation, of.valid, ObjectiveConfig())


def test_foresight_judges_the_same_steps_as_judge_and_moves_what_imagined_them():
    model, batch = tiny_model(constraint_sees_action=True), noise_batch(steps=6)
    stage = FORESIGHT.model_copy(update={"starts": 9})
    of, judged, went = (
        each(model, batch, stage, torch.Generator().manual_seed(5)) for each in (foreseen, imagined, followed)
    )
    several = batch.tokens.shape[1]
    found, alone, came = (
        Objective(model, ObjectiveConfig(), LossWeights())(rows, kind, 5)
        for rows, kind in ((of, stage), (judged, JUDGE), (went, DYNAMICS))
    )
    for name, value in alone.raw.items():
        assert found.raw[name].item() == pytest.approx(value.item(), rel=1e-2), name  # its field has half the digits
    assert of.field.dtype == torch.float16 and len(of) == several * len(went)
    assert (of.z[:, 0] == judged.z[:, 0]).all() and found.raw["state"] > 0 and came.raw["rollout"] > 0
    there, known = of.place.nan_to_num(), of.valid & of.place[..., 0].isfinite()
    assert found.raw["place"].item() == pytest.approx(
        place(model.reader.place(judged.z), there, known).item(), rel=1e-5
    )
    found.total.backward()
    assert all(x.grad.abs().max() > 0 for x in model.dynamics.parameters())
    assert all(x.grad is None for x in model.reader.parameters())


@torch.no_grad()
def test_glimpsed_is_each_frame_beside_what_was_last_seen_of_every_cell():
    model, batch = tiny_model(cameras=2), noise_batch(cameras=2, steps=4)
    generator = torch.Generator().manual_seed(3)
    shape = (*batch.valid.shape, model.memory_shape[0])
    visible = torch.randint(0, 2, shape, generator=generator).float()
    visible[torch.rand(shape, generator=generator) < 0.3] = torch.nan
    stage, batch = MEMORY.model_copy(update={"starts": 9}), dataclasses.replace(batch, visible=visible)
    of = glimpsed(model, batch, stage, generator)
    frames, row = model.frames(batch.images), 0
    for window in range(len(batch)):
        # Until a cell is seen for the first time, what hides it is all there is.
        last = torch.zeros_like(frames[window, 0])
        known = torch.zeros(len(last), dtype=torch.bool)
        for t in range(4):
            torch.testing.assert_close(of.frame[row], frames[window, t])
            torch.testing.assert_close(of.remembered[row][known], last[known], atol=0.02, rtol=0.02)
            torch.testing.assert_close(of.visible[row], visible[window, t], equal_nan=True)
            assert of.valid[row] == batch.valid[window, t]
            shown = visible[window, t].nan_to_num(1.0) > 0.5
            last[shown], known, row = frames[window, t][shown], known | shown, row + 1
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, MEMORY, 5).raw
    chance = model.memory.gate(of.frame, of.remembered).double().sigmoid()
    entropy = -torch.where(of.visible > 0.5, chance, 1 - chance).log()
    entropy = torch.where(of.visible.isfinite() & of.valid[:, None], entropy, 0.0)
    assert found["visibility"].item() == pytest.approx(entropy.mean(1).mean().item(), rel=1e-5)


@torch.no_grad()
def test_mapped_is_each_steps_map_with_the_same_terms_as_in_the_whole_model():
    model, batch = tiny_model(cameras=2, bodies=2, keypoints=True), noise_batch(cameras=2, bodies=2)
    batch = dataclasses.replace(batch, valid=torch.ones_like(batch.valid))
    stage = FIELD.model_copy(update={"starts": 99})
    of = mapped(model, batch, stage, torch.Generator().manual_seed(5))
    assert len(of) == batch.valid.numel() and of.known.shape == (len(of), batch.tokens.shape[1])
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, FIELD, 5).raw
    assert found.keys() == {"referring", "field"}
    reading = stage.model_copy(update={"name": "reconstruction"})  # at every step, too; its terms are summed over them
    whole, _ = terms(model, batch, reading, ObjectiveConfig(), torch.Generator().manual_seed(5), 5)
    for name, value in found.items():
        assert value.item() * batch.valid.shape[1] == pytest.approx(whole[name].item(), rel=1e-4), name


def test_the_stage_of_the_field_goes_through_batches_of_which_no_oracle_judged_any(config, dataset, real, tmp_path):
    data = config.data.model_copy(update={"real_weight": 3.0})
    stage = FIELD.model_copy(update={"trajectories": 1, "epochs": 1, "passes": 1})
    measures = train(
        config.model_copy(update={"stages": (stage,), "data": data}), [dataset, real], tmp_path, progress=False
    )
    assert measures["loss"] > 0


@torch.no_grad()
def test_nothing_is_learnt_of_a_map_that_is_no_step_or_that_nobody_judged():
    model, batch = tiny_model(), noise_batch()
    stage = FIELD.model_copy(update={"starts": 99})
    nobody = dataclasses.replace(batch, cost=torch.full_like(batch.cost, torch.nan))
    for unknown in (nobody, dataclasses.replace(batch, valid=torch.zeros_like(batch.valid))):
        of = mapped(model, unknown, stage, torch.Generator().manual_seed(5))
        found = Objective(model, ObjectiveConfig(), LossWeights())(of, FIELD, 5).raw
        assert not of.known.any() and all(value == 0 for value in found.values())


def test_the_stage_of_the_keypoints_teaches_them_alone(config, dataset, tmp_path):
    stage = KEYPOINTS.model_copy(update={"learning_rate": 0.01})
    changes = {"stages": (stage,), "model": config.model.model_copy(update={"keypoints": True})}
    config = config.model_copy(update=changes)
    _, _, model, _ = prepare(config, [dataset], torch.device("cpu"), progress=False)
    measures = train(config, [dataset], tmp_path / "run", progress=False)
    found = records(tmp_path / "run", "keypoints")
    assert {key for key in found[0] if key.startswith("raw/")} == {"raw/keypoints"}
    assert sum(r["loss"] for r in found[-40:]) < 0.9 * sum(r["loss"] for r in found[:40])
    assert measures["loss"] == found[-1]["valid/loss"]
    for name, value in read_checkpoint(tmp_path / "run" / LAST)["parts"]["model"].items():
        rests = not name.startswith("keypoints.heat.")  # of one body in one camera there is nothing to weigh
        assert torch.equal(value, model.state_dict()[name]) == rests, name
    with pytest.raises(ValidationError, match=r"stage keypoints: .*\(model.keypoints: false\); leave"):
        TrainConfig.model_validate(config.model_dump() | {"model": {}})


@torch.no_grad()
def test_located_is_each_steps_map_with_the_same_term_as_in_the_whole_model():
    model, batch = tiny_model(cameras=2, bodies=2, keypoints=True), noise_batch(cameras=2, bodies=2)
    stage = KEYPOINTS.model_copy(update={"starts": 99})
    of = located(model, batch, stage, torch.Generator().manual_seed(5))
    assert len(of) == batch.valid.numel() and of.features.dtype == torch.float16
    found = Objective(model, ObjectiveConfig(), LossWeights())(of, KEYPOINTS, 5).raw
    whole, _ = terms(
        model, batch, stage.model_copy(update={"name": "grounding"}), ObjectiveConfig(), torch.Generator(), 5
    )  # its terms are summed over a window's steps
    assert found["keypoints"].item() * batch.valid.shape[1] == pytest.approx(whole["keypoints"].item(), rel=1e-3)


@torch.no_grad()
def test_without_memory_the_keypoints_learn_from_the_frames_that_they_are_found_in():
    model, batch = tiny_model(keypoints=True, use_memory=False), noise_batch()
    of = located(model, batch, KEYPOINTS.model_copy(update={"starts": 99}), torch.Generator().manual_seed(5))
    assert torch.equal(of.features, model.encode(batch.images, batch.sensor).features.half().flatten(0, 1))


def test_what_was_encoded_is_held_once(unbroken, config, dataset, tmp_path, monkeypatch):
    config = config.model_copy(update={"stages": (*config.stages, POLICY.model_copy(update={"passes": 1}))})
    fork(unbroken.folder, config, tmp_path)
    made, held = [], []

    def encode(*args, function=LatentStage._encode):
        made.append(weakref.ref(encoded := function(*args)))
        return encoded

    def step(stage, *args, function=LatentStage.step):
        held.append(sum(each() is not None for each in made))
        return function(stage, *args)

    monkeypatch.setattr(LatentStage, "_encode", encode)
    monkeypatch.setattr(LatentStage, "step", step)
    train(config, [dataset], tmp_path, progress=False)
    assert len(made) > 3 and held[0] == 0


def test_only_these_stages_have_passes():
    stages = "memory, keypoints, dynamics, field, judge, foresight, policy"
    with pytest.raises(ValidationError, match=f"stage full has passes 2: only stages {stages}"):
        StageConfig(name="full", epochs=1, passes=2)


@pytest.mark.parametrize("stage", [DYNAMICS, JUDGE, FORESIGHT], ids=lambda stage: stage.name)
def test_a_window_must_hold_more_than_what_is_imagined(config, stage):
    stages = (*config.stages, stage.model_copy(update={"min_length": config.model.horizon}))
    with pytest.raises(ValidationError, match=rf"stage {stage.name}: min_length 3 must be above model\.horizon 3"):
        TrainConfig.model_validate(config.model_copy(update={"stages": stages}).model_dump())
