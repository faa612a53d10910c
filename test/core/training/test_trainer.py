"""A run is a function of config and data, whatever interrupts it; what cannot go on says so and breaks nothing."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
import torch
import yaml

from tc_mmwm_core.cli import main
from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.training import trainer
from tc_mmwm_core.training.calibration import CalibrationError
from tc_mmwm_core.training.checkpoint import BEST, LAST, CheckpointError, read_checkpoint, write_checkpoint
from tc_mmwm_core.training.config import StageConfig, TrainConfig
from tc_mmwm_core.training.curriculum import stage_steps
from tc_mmwm_core.training.data import split, unseen
from tc_mmwm_core.training.distributed import processes
from tc_mmwm_core.training.early_stopping import EarlyStoppingConfig
from tc_mmwm_core.training.export import export_run
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.run import read_metrics
from tc_mmwm_core.training.stage import Stage, check_stages
from tc_mmwm_core.training.trainer import TrainingError, fit_sensor_normalisation, train
from tc_mmwm_core.training.weights import read_weights
from tc_mmwm_core.utils.claim import claim
from tc_mmwm_core.utils.files import shown

STEPS = 8


def changed(config: TrainConfig, **update: object) -> TrainConfig:
    return config.model_copy(update=update)


def write_yaml(path, config: TrainConfig):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def metrics(folder):
    return list(read_metrics(folder / "metrics.jsonl"))


def losses(folder):
    return [record["loss"] for record in metrics(folder)]


def at_step(monkeypatch, step, action):
    """Do ``action(batch)`` before optimizer step ``step`` of the run."""
    original = Stage.step

    def wrapped(self, batch, position, output):
        if position.step == step:
            action(batch)
        return original(self, batch, position, output)

    monkeypatch.setattr(Stage, "step", wrapped)


def interrupt(_):
    raise KeyboardInterrupt


def test_a_run_goes_through_the_stages_and_leaves_what_it_promises(unbroken, config):
    records = metrics(unbroken.folder)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["stage"] for record in records] == ["reconstruction"] * 2 + ["world_model"] * 3 + ["full"] * 3
    assert ["raw/state" in record for record in records] == [False] * 2 + [True] * 6
    assert ["raw/action" in record for record in records] == [False] * 5 + [True] * 3
    assert all(record["loss"] == pytest.approx(sum_of_weighted(record), rel=1e-5) for record in records)
    assert all(sum(record[f"alpha/{m}"] for m in ("vision", "language", "sensor")) > 0.999 for record in records)
    assert [record["step"] for record in records if "valid/loss" in record] == [2, 5, 8]
    rates = [record["learning_rate"] / config.optimizer.learning_rate for record in records]  # half a cosine a stage
    assert rates == pytest.approx([1, 0.5, 1, 0.75, 0.25, 1, 0.75, 0.25])
    assert unbroken.measures.keys() >= {"loss", "violation_auroc", "progress_correlation", "effective_rank_fused"}
    assert TrainConfig(**yaml.safe_load((unbroken.folder / "config.yaml").read_text())) == config
    assert {path.name for path in unbroken.folder.iterdir()} >= {LAST, "environment.json", "training.png"}
    assert not (unbroken.folder / BEST).exists()  # kept with early stopping only


def sum_of_weighted(record):
    return sum(value for name, value in record.items() if name.startswith("weighted/"))


def test_the_average_lags_behind_the_model_but_its_buffers_do_not(unbroken):
    lagging = 0
    for name, average in unbroken.weights.items():
        if name.startswith("ema.module."):
            same = torch.equal(unbroken.weights[name.replace("ema.module.", "model.")], average)
            assert same or name not in ("ema.module.sensor.mean", "ema.module.sensor.scale")
            lagging += not same
    assert lagging > 100


def test_two_runs_with_one_seed_are_the_same_to_the_last_bit_and_another_seed_is_another(
    unbroken, config, dataset, tmp_path, weights_of, assert_same_weights
):
    train(config, [dataset], tmp_path / "again", progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path / "again"))
    train(changed(config, seed=1), [dataset], tmp_path / "other", progress=False)
    other = weights_of(tmp_path / "other")
    assert not torch.equal(
        unbroken.weights["model.dynamics.from_state.weight"], other["model.dynamics.from_state.weight"]
    )


@pytest.mark.parametrize("step", [1, 3, 8])
def test_an_interrupted_run_resumes_to_the_same_weights(
    step, unbroken, config, dataset, tmp_path, monkeypatch, weights_of, assert_same_weights
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, step, interrupt)
        train(config, [dataset], tmp_path, progress=False)
    assert (tmp_path / LAST).exists() == (step > 1)
    measures = train(config, [dataset], tmp_path, progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path))
    assert measures == pytest.approx(unbroken.measures, nan_ok=True)
    assert losses(tmp_path) == losses(unbroken.folder)


def test_between_checkpoints_a_resumed_run_does_its_last_steps_again(
    unbroken, config, dataset, tmp_path, monkeypatch, weights_of, assert_same_weights
):
    seldom = changed(config, checkpoint_seconds=1e6)  # at the end of each stage only
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 5, interrupt)
        train(seldom, [dataset], tmp_path, progress=False)
    assert read_checkpoint(tmp_path / LAST)["position"] == {"step": 2, "stage": 0, "stage_step": 2}
    train(seldom, [dataset], tmp_path, progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path))
    assert losses(tmp_path) == losses(unbroken.folder)


def test_a_run_that_has_ended_is_not_trained_further(
    unbroken, config, dataset, tmp_path, assert_same_weights, weights_of
):
    shutil.copytree(unbroken.folder, tmp_path / "run")
    measures = train(config, [dataset], tmp_path / "run", progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path / "run"))
    assert measures == pytest.approx(unbroken.measures, nan_ok=True)


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved_and_no_checkpoint_overwritten(
    config, dataset, tmp_path, monkeypatch
):
    kept = {}

    def poison(batch):
        kept["checkpoint"] = (tmp_path / LAST).read_bytes()
        batch.sensor[0, 0, 0] = torch.nan

    with monkeypatch.context() as patch, pytest.raises(TrainingError) as error:
        at_step(patch, 4, poison)
        train(config, [dataset], tmp_path, progress=False)
    saved = tmp_path / "batch-4.pt"
    assert "step 4, stage world_model: loss " in str(error.value) and str(saved) in str(error.value)
    assert torch.load(saved, weights_only=True)["sensor"].isnan().sum() == 1
    assert (tmp_path / LAST).read_bytes() == kept["checkpoint"]
    assert len(metrics(tmp_path)) == 3
    train(config, [dataset], tmp_path, progress=False)  # and can go on, once the cause is gone
    assert len(metrics(tmp_path)) == STEPS


def test_a_full_disk_leaves_the_old_checkpoint_and_the_run_goes_on_when_there_is_room(
    unbroken, config, dataset, tmp_path, monkeypatch, weights_of, assert_same_weights
):
    """A limit on the size of a file stands for the full disk: write() fails in the middle of the file likewise."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="the checkpoint before it is untouched"):
        at_step(patch, 4, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1])))
        try:
            train(config, [dataset], tmp_path, progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_checkpoint(tmp_path / LAST)["position"]["step"] == 3
    train(config, [dataset], tmp_path, progress=False)
    assert_same_weights(unbroken.weights, weights_of(tmp_path))


def test_a_run_that_another_process_is_training_is_refused_and_left_alone(config, dataset, tmp_path, monkeypatch):
    """Both were started in a folder that was not there, or the other one had begun."""
    label, entered = trainer.label_data, []

    def another(*arguments):
        other = stack.enter_context(claim(tmp_path / "run", lock=trainer.LOCK))
        entered.append(other)
        return label(*arguments)

    told = rf"{tmp_path / 'run'}: another process is training in it; wait until it has ended, or choose another"
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        patch.setattr(trainer, "label_data", another)
        for _ in range(2):
            with pytest.raises(TrainingError, match=told):
                train(config, [dataset], tmp_path / "run", progress=False)
        assert entered == [True]  # the second time it was told at once
        assert [path.name for path in (tmp_path / "run").iterdir()] == [trainer.LOCK]
    with claim(tmp_path / "run"):  # as a benchmark does that trains in it
        train(config, [dataset], tmp_path / "run", progress=False)
    assert (tmp_path / "run" / LAST).exists()


def test_a_run_of_another_config_is_refused_with_what_differs(unbroken, config, dataset, tmp_path):
    shutil.copytree(unbroken.folder, tmp_path / "run")
    before = (tmp_path / "run" / LAST).read_bytes()
    wider = changed(config, model=config.model.model_copy(update={"latent": 24}), seed=3)
    with pytest.raises(TrainingError) as error:
        train(wider, [dataset], tmp_path / "run", progress=False)
    assert "holds a run of another config" in str(error.value)
    assert "\n  model.latent: 16 there, 24 now\n  seed: 0 there, 3 now" in str(error.value)
    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_a_run_of_other_data_is_refused(unbroken, config, dataset, tmp_path):
    shutil.copytree(unbroken.folder, tmp_path / "run")
    lost = dataset.subset(
        [
            i
            for i, info in enumerate(dataset.trajectories)
            if info.identity != max(info.identity for info in dataset.trajectories)
        ]
    )
    [name] = dataset.paths
    with pytest.raises(
        TrainingError, match=rf"other data: --data was \[\w+…\] and is {name} now; continue with the same"
    ):
        train(config, [lost], tmp_path / "run", progress=False)
    _without_datasets(tmp_path / "run")  # as of a run that began before they were kept
    trained = len(split(dataset, config.data.holdout)[0])
    with pytest.raises(TrainingError, match=rf"of other data: trained on {trained} trajectories, 1 of which are not"):
        train(config, [lost], tmp_path / "run", progress=False)
    train(config, [dataset], tmp_path / "run", progress=False)


def _without_datasets(folder):
    content = read_checkpoint(folder / LAST)
    del content["parts"]["trained_on"]["datasets"]
    write_checkpoint(folder / LAST, content)


def test_a_run_goes_on_with_the_same_datasets_as_often_and_in_the_same_order(
    unbroken, config, dataset, real, tmp_path, monkeypatch
):
    short = changed(config, stages=config.stages[2:])
    weights = read_weights(unbroken.folder)
    init = replace(weights, trained_on=weights.trained_on | {"another"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, interrupt)
        train(short, [dataset, real, real], tmp_path / "run", init, progress=False)
    first, second = dataset.paths[0], real.paths[0]
    for others in ([dataset, real], [real, dataset, real]):
        now = " ".join(str(each.paths[0]) for each in others)
        with pytest.raises(TrainingError, match=f"--data was {first} {second} {second} and is {now} now; .* order"):
            train(short, others, tmp_path / "run", init, progress=False)
    for other in (None, weights):
        with pytest.raises(TrainingError, match=r"started from other weights \(continue with the same --init\)"):
            train(short, [dataset, real, real], tmp_path / "run", other, progress=False)
    train(short, [dataset, real, real], tmp_path / "run", init, progress=False)


def test_a_field_is_scaled_by_its_own_range_and_one_that_never_varied_is_left_in_its_unit(config, dataset, tmp_path):
    trajectories = [dataset[i] for i in range(2)]
    sensors = [t.sensor.copy() for t in trajectories]
    for sensor in sensors:
        sensor[:, 0] = np.where(np.arange(len(sensor)) % 2, 0.001, 0.002)  # a gripper's opening in metres
        sensor[:, 1] = 0.7
        sensor[:, 2] = np.arange(len(sensor)) == 5  # a bumper
    changed = [replace(t, sensor=sensor) for t, sensor in zip(trajectories, sensors, strict=True)]
    DatasetWriter(tmp_path, dataset.interface).append(changed)
    model = build_model(config, dataset.interface)
    fit_sensor_normalisation(model, [Dataset.open(tmp_path)])
    scale = model.sensor.scale
    assert scale[0].item() == pytest.approx(0.0005, rel=0.01) and scale[1] == 1
    assert scale[2].item() == pytest.approx(max(np.concatenate(sensors)[:, 2].std(), 0.05), rel=0.01)


def test_what_a_run_starts_from_otherwise_than_it_is_told_is_warned_of(
    unbroken, config, dataset, collected, tmp_path, capsys
):
    objective = config.objective.model_copy(update={"margin_scale": 0.02})
    short = changed(
        config, stages=config.stages[:1], objective=objective, early_stopping=EarlyStoppingConfig(patience=1)
    )
    far = [replace(dataset[i], sensor=dataset[i].sensor + np.eye(31, dtype=np.float32)[3] * 1000) for i in range(8)]
    DatasetWriter(tmp_path / "far", dataset.interface).append(far)
    file = write_yaml(tmp_path / "train.yaml", short)
    arguments = ["--config", str(file), "--init", str(unbroken.folder), "--quiet"]
    data = ["--data", str(collected), str(tmp_path / "far"), str(tmp_path / "far")]
    assert main(["train", *arguments, *data, "--output", str(tmp_path / "run"), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"warning: {unbroken.folder} was trained with objective.margin_scale 0.1, which is 0.02 now\n" in printed
    assert printed.count("objective.") == 1
    name = dataset.interface.sensor_names[3]
    assert re.search(rf"warning: sensor {name}: \d\d% of the steps are beyond 5 standard deviations", printed)
    assert printed.count("warning: sensor") == 1
    run = shown(tmp_path / "run")
    assert f"export {run} --data OTHERS --output BUNDLE (OTHERS: data that were not trained on" in printed


def test_a_stage_that_the_model_of_init_has_no_part_for_is_refused(unbroken, config, collected, tmp_path, capsys):
    keypoints = StageConfig(name="keypoints", epochs=1)
    with_keypoints = config.model.model_copy(update={"keypoints": True})
    file = write_yaml(tmp_path / "train.yaml", changed(config, stages=(keypoints,), model=with_keypoints))
    arguments = ["--config", str(file), "--init", str(unbroken.folder), "--data", str(collected)]
    assert main(["train", *arguments, "--output", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert f"{file} with the model of {unbroken.folder}: " in told and "(model.keypoints: false)" in told
    assert not (tmp_path / "run").exists()


def test_a_run_that_starts_from_anothers_weights_remembers_what_these_were_trained_on(config, dataset, tmp_path):
    """Trained on one half first and the other after it: none of both is left to calibrate on."""
    short = changed(config, stages=config.stages[:1])
    halves = [dataset.subset(range(first, len(dataset), 2)) for first in (0, 1)]
    init = None
    for index, half in enumerate(halves):
        train(short, [half], tmp_path / str(index), init, progress=False)
        init = read_weights(tmp_path / str(index))
    fitted = {info.identity for half in halves for info in split(half, config.data.holdout)[0].trajectories}
    assert init.trained_on == fitted
    [part], _ = unseen([dataset], init.trained_on)
    left = {info.identity for info in part.trajectories}
    assert left == {info.identity for info in dataset.trajectories} - fitted and left


def test_weights_of_another_shape_are_refused_with_both_shapes(unbroken, config, dataset, tmp_path):
    wider = changed(config, model=config.model.model_copy(update={"latent": 24}))
    weights = read_weights(unbroken.folder)
    with pytest.raises(
        TrainingError, match=r"vision.out.weight: \[16, 64\] in the checkpoint, \[24, 64\] in the model"
    ):
        train(wider, [dataset], tmp_path / "run", weights, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_robot_that_means_something_else_is_warned_of_and_one_of_other_shape_refused_by_field(
    unbroken, config, dataset, tmp_path, capsys
):
    yaml_file = write_yaml(tmp_path / "train.yaml", changed(config, stages=config.stages[:1]))

    def from_unbroken(name, content, trajectories):
        DatasetWriter(tmp_path / name, RobotInterface.from_dict(content, name)).append(trajectories)
        arguments = ["--config", str(yaml_file), "--data", str(tmp_path / name), "--init", str(unbroken.folder)]
        return main(["train", *arguments, "--output", str(tmp_path / f"run_{name}"), "--quiet", "--threads", "1"])

    content = json.loads(json.dumps(dataset.interface.to_dict()))
    content["action"]["fields"][0]["limits"] = [-9.0, 9.0]
    trajectories = [dataset[i] for i in range(len(dataset))]
    name = dataset.interface.action_names[0]
    assert from_unbroken("faster", content, trajectories) == 0
    printed = capsys.readouterr().out
    assert f"{unbroken.folder} was trained for another robot interface: action.{name}.limits" in printed

    content["action"]["fields"] = content["action"]["fields"][:1]
    fewer = [replace(t, action=t.action[:, :1]) for t in trajectories]
    config_without_oracle = changed(config, data=config.data.model_copy(update={"domain": None}))
    write_yaml(yaml_file, config_without_oracle)
    assert from_unbroken("fewer", content, fewer) == 2
    assert f"\n  action: {dataset.interface.action_names} in 'navigation', ['{name}'] in" in capsys.readouterr().err


def test_a_run_can_start_from_anothers_weights(unbroken, config, dataset, tmp_path, weights_of):
    weights = read_weights(unbroken.folder)
    still = config.optimizer.model_copy(update={"learning_rate": 1e-30})
    short = changed(config, optimizer=still, stages=config.stages[2:])
    train(short, [dataset], tmp_path / "run", weights, progress=False)
    trained = weights_of(tmp_path / "run")
    for name, value in weights.tensors.items():
        torch.testing.assert_close(trained[f"model.{name}"], value, msg=name)


def test_a_typo_in_the_config_is_refused_with_the_nearest_key(config, collected, tmp_path, capsys):
    content = config.model_dump(mode="json")
    content["optimizer"]["learning_rat"] = 1e-3
    content["stages"][1]["epoch"] = 2
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--config", str(tmp_path / "train.yaml"), "--data", str(collected), "--output", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 2
    message = capsys.readouterr().err
    assert "unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?" in message
    assert "unknown key 'stages.1.epoch'; did you mean 'epochs'?" in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_stage_is_refused_by_name(config, collected, tmp_path, capsys):
    arguments = ["--config", str(write_yaml(tmp_path / "train.yaml", config)), "--data", str(collected)]
    assert main(["train", *arguments, "--output", str(tmp_path / "run"), "--stages", "fulll"]) == 2
    assert "stage fulll: the config has reconstruction, world_model, full" in capsys.readouterr().err


def test_a_corrupt_trajectory_is_skipped_counted_and_named(config, collected, dataset, tmp_path, capsys):
    shutil.copytree(collected, tmp_path / "data")
    info = dataset.trajectories[2]
    shard, action = tmp_path / "data" / "shards" / info.shard, dataset.arrays(2)["action"]
    with (shard / "action.npy").open("r+b") as file:
        header = len(file.read()) - action.nbytes
        file.seek(header + info.start * action.strides[0])
        file.write(b"\x12\x34")
    short = changed(config, stages=config.stages[:1])
    arguments = ["--config", str(write_yaml(tmp_path / "train.yaml", short)), "--data", str(tmp_path / "data")]
    assert main(["train", *arguments, "--output", str(tmp_path / "run"), "--quiet", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    where = f"{tmp_path / 'data'}, shard {info.shard}, trajectory {info.index}"
    assert f"skipped: {where}: checksum of action differs" in printed
    assert printed.count("skipped") == 1
    assert "violation_auroc" in printed and (tmp_path / "run" / LAST).exists()


def test_early_stopping_ends_a_stage_keeps_the_best_and_survives_an_interruption(
    config, dataset, tmp_path, monkeypatch, weights_of, assert_same_weights
):
    impatient = changed(
        config,
        validate_every=1,
        early_stopping=EarlyStoppingConfig(patience=1, least_improvement=1e9),
    )
    train(impatient, [dataset], tmp_path / "whole", progress=False)
    stages = [record["stage"] for record in metrics(tmp_path / "whole")]
    assert (
        stages == ["reconstruction"] * 2 + ["world_model"] * 2 + ["full"] * 2
    )  # the first is best, the next one too many
    assert read_checkpoint(tmp_path / "whole" / BEST)["position"] == {"step": 5, "stage": 2, "stage_step": 1}
    best = read_checkpoint(tmp_path / "whole" / BEST)["parts"]["ema"]["module.dynamics.from_state.weight"]
    assert torch.equal(read_weights(tmp_path / "whole").tensors["dynamics.from_state.weight"], best)
    last = read_checkpoint(tmp_path / "whole" / LAST)
    assert last["position"]["stage_step"] == 2 and torch.equal(
        last["parts"]["ema"]["module.dynamics.from_state.weight"], best
    )
    # What is held out has chosen the weights.
    assert read_weights(tmp_path / "whole").trained_on == {info.identity for info in dataset.trajectories}
    with pytest.raises(CalibrationError, match=r"each was trained on or chose the weights \(early stopping\)"):
        export_run(tmp_path / "whole", [dataset], tmp_path / "bundle", progress=False)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, interrupt)  # between two stages: the second goes on from the best of the first
        train(impatient, [dataset], tmp_path / "between", progress=False)
    states = [read_checkpoint(tmp_path / "between" / name) for name in (BEST, LAST)]
    assert [state["position"]["step"] for state in states] == [1, 2]
    assert_same_weights(*(state["parts"]["model"] for state in states))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 4, interrupt)
        train(impatient, [dataset], tmp_path / "resumed", progress=False)
    train(impatient, [dataset], tmp_path / "resumed", progress=False)
    assert_same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "resumed"))


def test_a_batch_in_parts_trains_as_the_whole_batch(config, dataset, tmp_path, weights_of):
    """All but SIGReg, a statistic of the batch, which is switched off here."""
    off = config.weights.model_copy(update={"sigreg_visual": 0.0, "sigreg_fused": 0.0})
    for parts in (1, 2):
        train(changed(config, weights=off, accumulation=parts), [dataset], tmp_path / str(parts), progress=False)
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=1e-3)
    with pytest.raises(TrainingError, match="4 trajectories a batch do not divide into 1 processes x 3 parts"):
        train(changed(config, accumulation=3), [dataset], tmp_path / "3", progress=False)


def test_bf16_and_compile_switches_reach_the_model(unbroken, config, dataset, tmp_path, monkeypatch):
    """Compiled here by tracing alone: the code generator takes minutes, and is torch's own."""
    train(changed(config, bf16=True), [dataset], tmp_path / "bf16", progress=False)
    np.testing.assert_allclose(losses(tmp_path / "bf16"), losses(unbroken.folder), rtol=0.1)
    assert losses(tmp_path / "bf16") != losses(unbroken.folder)

    compiled, called = [], set()
    original = torch.nn.Module.compile

    def backend(graph, _):
        called.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def traced(module, **options):
        compiled.append(type(module).__name__)
        original(module, backend=backend, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(traced))
    short = (config.stages[2].model_copy(update={"epochs": 1}),)
    train(changed(config, compile=True, stages=short), [dataset], tmp_path / "compiled", progress=False)
    train(changed(config, stages=short), [dataset], tmp_path / "plain", progress=False)
    assert {"VisionEncoder", "Dynamics", "Grounding", "InstructionField"} <= set(compiled)
    assert any("conv2d" in name for name in called)
    assert not any("minimum" in name for name in called)  # the eikonal solver, which would be unrolled
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=1e-3)
    assert read_weights(tmp_path / "compiled").tensors.keys() == read_weights(tmp_path / "plain").tensors.keys()


def test_an_image_that_the_decoder_cannot_make_is_refused_by_name_and_size(config, dataset):
    content = json.loads(json.dumps(dataset.interface.to_dict()))
    content["images"][0] |= {"height": 60}
    with pytest.raises(TrainingError, match="camera overhead is 60x64; height and width must be multiples of 8"):
        build_model(config, RobotInterface.from_dict(content, "test"))
    with pytest.raises(TrainingError, match="'images' is empty; the model needs a camera"):
        build_model(config, RobotInterface.from_dict(content | {"images": []}, "test"))


def test_several_cameras_and_mixed_sources_train(config, two_cameras, tmp_path):
    measures = train(config, two_cameras, tmp_path / "run", progress=False)
    assert np.isfinite(measures["loss"])
    assert any(name.startswith("vision.trunks.1.") for name in read_weights(tmp_path / "run").tensors)


def test_one_trajectory_beside_others_is_trained_on_and_alone_refused(config, dataset, real, tmp_path):
    short = changed(config, stages=config.stages[2:])
    train(short, [real.subset([0]), dataset], tmp_path / "beside", progress=False)
    assert real.trajectories[0].identity in read_weights(tmp_path / "beside").trained_on
    with pytest.raises(TrainingError, match=r"trajectories: 1 in .*real: none can be held out, .*at least two of one"):
        train(short, [real.subset([0])], tmp_path / "alone", progress=False)
    assert not (tmp_path / "alone").exists()


def test_what_is_wrong_with_a_later_stage_is_told_before_the_first(config, dataset, tmp_path):
    *first, last = config.stages
    long = last.model_copy(update={"min_length": 200, "max_length": 200})
    told = r"stage full, trajectories trained on: .*navigation: longest run of valid steps is \d+, windows need 399"
    with pytest.raises(DatasetError, match=told):
        train(changed(config, stages=(*first, long)), [dataset], tmp_path / "run", progress=False)
    odd = last.model_copy(update={"trajectories": 3})
    with pytest.raises(TrainingError, match="stage full: 3 trajectories a batch do not divide into 1 processes x 2 p"):
        train(changed(config, stages=(*first, odd), accumulation=2), [dataset], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_stage_of_fewer_steps_than_its_warm_up_is_warned_of_once(config, data, capsys):
    """It would end before it has learned anything, and nothing else would say so."""
    _, middle, last = config.stages
    enough = last.model_copy(update={"epochs": 10})
    stages = (middle, enough, last)
    steps = [stage_steps(stage, data.trajectories) for stage in stages]
    assert steps[1] > 15 and max(steps[0], steps[2]) < 15
    with processes("cpu") as those:
        check_stages(changed(config, stages=stages, warmup_steps=15), 0, data, data.under(config), those)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": an epoch")[0] for line in lines] == [
        f"warning: stage world_model: {steps[0]} optimizer steps, fewer than warmup_steps 15 (it warms up for 1)",
        f"warning: stage full: {steps[2]} optimizer steps, fewer than warmup_steps 15 (it warms up for 1)",
    ]
    told = f"an epoch is one window of each of the {data.trajectories} trajectories, 4 a step; raise its epochs"
    assert told in lines[0]
    with processes("cpu") as those:
        check_stages(changed(config, stages=stages, warmup_steps=15), 2, data, data.under(config), those)
    assert capsys.readouterr().out.splitlines() == lines[1:]  # a run that goes on from there


def test_a_stage_whose_windows_are_longer_than_any_trajectory_says_how_long_they_will_be(config, data, capsys):
    *_, last = config.stages
    long = last.model_copy(update={"max_length": 200})
    with processes("cpu") as those:
        check_stages(changed(config, stages=(last, long), warmup_steps=0), 0, data, data.under(config), those)
    longest = max(info.length for info in data.datasets[0].trajectories)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"stage full: windows of at most {longest} control steps, since no trajectory")
    assert line.endswith("max_length 200 (latent steps) asks for 399")
