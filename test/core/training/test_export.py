"""What the bundle computes is what the model computes, to 1e-5, on every output of every graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from tc_mmwm_core.cli import main
from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.models.vocabulary import TextTokens
from tc_mmwm_core.resources import resource, robot_file
from tc_mmwm_core.runtime.bundle import Bundle, BundleError, Calibration, write_bundle
from tc_mmwm_core.runtime.screener import Screener
from tc_mmwm_core.training import export
from tc_mmwm_core.training.calibration import CalibrationError, betting_p_value, calibrate, trajectories_needed
from tc_mmwm_core.training.checkpoint import BEST, LAST, CheckpointError, read_checkpoint, write_checkpoint
from tc_mmwm_core.training.data import LabelledData, split
from tc_mmwm_core.training.early_stopping import EarlyStoppingConfig
from tc_mmwm_core.training.export import OVERLOOKED, Thresholds, export_bundle, export_run, graphs, recalibrate
from tc_mmwm_core.training.held_out import sequence_scores
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.run_progress import RunProgress
from tc_mmwm_core.training.stage import Stage
from tc_mmwm_core.training.trainer import train
from tc_mmwm_core.training.weights import TRAINED_ON, load_run, read_weights

TEXTS = ("stop", "drive to the green pad, never enter the blue zone", "go slowly to the red pad")
CALIBRATION = Calibration(alpha=0.1, delta=0.05, n_trajectories=40, dataset="0" * 64, method="by hand")


@pytest.fixture(scope="module", params=[1, 2], ids=["one camera", "two cameras"])
def interface(request, navigation) -> RobotInterface:
    content = yaml.safe_load(yaml.safe_dump(navigation.to_dict()))
    if request.param == 2:
        second = dict(content["images"][0], name="front", topic="front/image_raw")
        content["images"].append(second)
    return RobotInterface.from_dict(content, "test")


@pytest.fixture(scope="module")
def model(config, interface):
    torch.manual_seed(0)
    model = build_model(config, interface)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.sensor.mean.normal_()
        model.sensor.scale.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture(scope="module")
def bundle(model, config, interface, tmp_path_factory) -> Bundle:
    thresholds = Thresholds(0.25, CALIBRATION)
    return export_bundle(model, interface, config, tmp_path_factory.mktemp("bundles") / "tiny", "tiny", thresholds)


def run(bundle: Bundle, graph: str, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(bundle.path / graph), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    values = session.run(names, {name.replace("__", "."): value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


def same(outputs: dict[str, np.ndarray], **expected: torch.Tensor) -> None:
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value.detach().numpy(), atol=1e-5, rtol=1e-5, err_msg=name)


def observation(interface: RobotInterface, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randint(0, 256, (1, image.height, image.width, image.channels), dtype=torch.uint8, generator=generator)
        for image in interface.images
    ]
    return images, 3 * torch.randn(1, interface.sensor_size, generator=generator)


def observe(model, images, sensor, remembered=None):
    seen = model.encode([image[:, None] for image in images], sensor[:, None], remembered)
    return (*(x[:, 0] for x in (seen.features, seen.z_v, seen.z_s, seen.told)), seen.memory)


@torch.no_grad()
@pytest.mark.parametrize("text", TEXTS)
def test_every_output_of_every_graph_is_the_models(bundle, model, interface, config, text):
    tokens, mask = (torch.from_numpy(x) for x in TextTokens(config.model.max_tokens)([text]))
    words, z_l = model.instruct(tokens, mask)
    same(run(bundle, "language.onnx", tokens=tokens, mask=mask), words=words, z_l=z_l)

    images, sensor = observation(interface, seed=len(text))
    remembered = torch.rand((1, *model.memory_shape), generator=torch.Generator().manual_seed(len(text)))
    features, z_v, z_s, told, memory = observe(model, images, sensor, remembered)
    context = model.ground(features, words, mask, z_l, told)
    latent, weights = model.compose(z_v, z_l, z_s)
    named = {f"image__{spec.name}": image for spec, image in zip(interface.images, images, strict=True)}
    found = run(bundle, "encode.onnx", **named, sensor=sensor, words=words, mask=mask, z_l=z_l, remembered=remembered)
    proposal = model.propose(latent, context, sensor)
    goal = context[:, model.summary_size :].unflatten(1, (config.model.field_channels, -1))[:, 0].max(1).values
    same(found, latent=latent, context=context, weights=weights, proposal=proposal, memory=memory, goal=goal)

    for count in (1, 5, 64):
        actions = 2 * torch.rand(count, config.model.horizon, interface.action_size) - 1
        z, scores = latent.expand(count, -1), []
        for k in range(config.model.horizon):
            z = model.next(z, actions[:, k])
            scores.append(model.judge(z[None], context, actions[None, :, k]))
        violation, progress = (torch.cat([score[i] for score in scores]).T for i in range(2))
        found = run(bundle, "screen.onnx", latent=latent, context=context, actions=actions)
        same(found, violation=violation, progress=progress)


@torch.no_grad()
def test_the_robots_runtime_reads_it_from_words_to_verdict(bundle, model, interface, config):
    screener = Screener(Bundle.load(bundle.path))
    instruction = screener.instruct(TEXTS[1])
    images, sensor = observation(interface, seed=0)
    named = {spec.name: image[0].numpy() for spec, image in zip(interface.images, images, strict=True)}
    scene = screener.encode(Step(0, named, sensor[0].numpy(), {}), instruction)
    actions = np.random.default_rng(0).uniform(-1, 1, (9, config.model.horizon, interface.action_size))
    rollouts = screener.screen(scene, actions)

    tokens, mask = (torch.from_numpy(x) for x in TextTokens(config.model.max_tokens)([TEXTS[1]]))
    words, z_l = model.instruct(tokens, mask)
    features, z_v, z_s, told, _ = observe(model, images, sensor)
    latent, _ = model.compose(z_v, z_l, z_s)
    actions = torch.from_numpy(actions).float()[None]
    imagined = model.rollout(latent[:, None], actions)
    violation, progress = model.judge(imagined, model.ground(features, words, mask, z_l, told), actions)
    np.testing.assert_allclose(rollouts.violation, violation[0], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(rollouts.progress, progress[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("keypoints", [False, True])
def test_the_graphs_state_the_shapes_that_come_out(interface, config, tmp_path, keypoints):
    """Without keypoints nothing is told of them, and of no numbers the tracing exporter makes one."""
    config = config.model_copy(update={"model": config.model.model_copy(update={"keypoints": keypoints})})
    model, stated = build_model(config, interface).eval(), {}
    for name, graph in graphs(model, interface).items():
        export.export_graph(graph, tmp_path / name)
        for node in onnx.load(tmp_path / name).graph.output:  # onnxruntime would tell what it infers itself
            stated[node.name] = [size.dim_param or size.dim_value for size in node.type.tensor_type.shape.dim]
    horizon = config.model.horizon
    assert stated["context"] == [1, model.context_size] and stated["latent"] == [1, config.model.latent]
    assert stated["proposal"] == [1, horizon, interface.action_size] and stated["memory"] == [1, *model.memory_shape]
    assert stated["violation"] == stated["progress"] == ["candidates", horizon] and stated["goal"] == [1]


def test_the_manifest_tells_what_was_trained_and_calibrated(bundle, model, config):
    manifest = bundle.manifest
    assert manifest.threshold == 0.25 and manifest.calibration == CALIBRATION
    assert (manifest.latent, manifest.horizon, manifest.frame_skip) == (16, 3, 2)
    assert manifest.context == model.context_size
    np.testing.assert_allclose(manifest.normalisation.mean, model.sensor.mean, rtol=1e-6)
    np.testing.assert_allclose(manifest.normalisation.std, model.sensor.scale, rtol=1e-6)
    assert type(config).model_validate(yaml.safe_load(manifest.training.config)) == config
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.progress_taught


def test_progress_counts_as_taught_where_an_oracle_judged_anything_that_was_trained_on(
    unbroken, config, dataset, real, tmp_path
):
    """The domain of a configuration judges nothing in recordings without scene and state."""
    short = config.model_copy(update={"stages": config.stages[:1]})

    def taught(name, data, init=None) -> bool:
        train(short, data, tmp_path / name, init, progress=False)
        return read_weights(tmp_path / name).judged

    def told(name) -> bool:
        return export_run(tmp_path / name, [], tmp_path / f"{name}_b", threshold=0.0)[0].manifest.progress_taught

    assert taught("both", [real, dataset]) and told("both")
    assert not taught("recorded", [real]) and not told("recorded")
    assert taught("began", [real], read_weights(unbroken.folder))  # from weights that an oracle has taught
    kept = recalibrate(tmp_path / "recorded_b", [], tmp_path / "recalibrated", threshold=1.0)[0]
    assert not kept.manifest.progress_taught
    older = read_checkpoint(tmp_path / "recorded" / LAST)
    del older["parts"]["trained_on"]["judged"]
    write_checkpoint(tmp_path / "recorded" / LAST, older)
    assert read_weights(tmp_path / "recorded").judged  # as it was told before: there is a domain


def test_a_run_that_has_not_ended_is_exported_with_a_warning_that_the_bundle_keeps(
    config, dataset, tmp_path, monkeypatch, capsys
):
    """And so are best weights of a stage before the last, where no later one was validated."""
    patient = config.model_copy(update={"early_stopping": EarlyStoppingConfig(patience=9), "validate_every": 1000})
    run, original = tmp_path / "run", Stage.step

    def interrupted(self, batch, position, output):
        if position.step == 5:
            raise KeyboardInterrupt
        return original(self, batch, position, output)

    def unfinished() -> str | None:
        made = export_run(run, [], tmp_path / "b", threshold=0.0)[0]
        return made.manifest.training.unfinished

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "step", interrupted)
        train(patient, [dataset], run, progress=False)
    capsys.readouterr()
    told = "its training has not ended: stage world_model (2 of 3), step 2 of 3; its best weights are still those of "
    told += "stage reconstruction (1 of 3)"
    assert unfinished() == told
    assert capsys.readouterr().out == f"warning: {run}: {told}\n"
    train(patient, [dataset], run, progress=False)
    capsys.readouterr()
    assert RunProgress.of(run).unfinished is None
    older = read_checkpoint(run / LAST)
    del older["left"]
    write_checkpoint(run / LAST, older)
    assert RunProgress.of(run).unfinished is None  # nobody knows
    del older["parts"]["trained_on"]
    write_checkpoint(run / LAST, older)
    (run / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"last\.pt: has no 'trained_on'"):
        unfinished()


def test_too_few_violations_are_told_by_rule_with_what_to_do(config, domain, tmp_path):
    collect("navigation", robot_file("navigation.yaml"), tmp_path / "data", 12, 24, seed=0, workers=1, progress=False)
    collect("navigation", robot_file("navigation.yaml"), tmp_path / "short", 2, 4, seed=50, workers=1, progress=False)
    dataset, short = Dataset.open(tmp_path / "data"), Dataset.open(tmp_path / "short")
    train(config.model_copy(update={"stages": config.stages[:1]}), [dataset], tmp_path / "run", progress=False)
    with pytest.raises(CalibrationError) as refused:
        export_run(tmp_path / "run", [dataset, short], tmp_path / "b", delta=0.3, progress=False)
    _, model = load_run(tmp_path / "run", dataset.interface)
    scores = sequence_scores(model, LabelledData([split(dataset, 0.4)[1]], config, domain, False), progress=False)
    owners = scores.violations[1]
    count = len(np.unique(owners))
    assert count > 1
    first, there, unscored, *rules, mend = str(refused.value).splitlines()
    assert unscored == "  2 more have no sequence to score: too short, unjudged, or violating throughout"
    assert first.startswith(f"{count} held-out trajectories with violations cannot bound the miss rate by 0.05")
    assert there.split("; ")[0].strip().startswith(f"there are {len(owners)} violating sequences, in {count} of ")
    speed = np.array(["speed" in domain.rules(text) for text in scores.instruction]) & scores.violating
    trajectories = len(np.unique(scores.trajectory[speed]))
    assert f"  under a rule of speed: {speed.sum()} violating sequences, in {trajectories} trajectories" in rules
    alpha = float(mend.split("--alpha ")[1].split()[0])
    assert trajectories_needed(alpha, 0.3, single=False) <= count < trajectories_needed(alpha - 0.01, 0.3, single=False)
    assert "set --threshold by hand" in mend and "record or collect more episodes" in mend


def test_a_run_is_calibrated_on_its_held_out_half_and_says_so(config, domain, tmp_path):
    collect("navigation", robot_file("navigation.yaml"), tmp_path / "data", 30, 24, seed=0, workers=1, progress=False)
    dataset = Dataset.open(tmp_path / "data")
    held_out = config.data.model_copy(update={"holdout": 0.5})
    config = config.model_copy(update={"data": held_out, "stages": config.stages[:1]})
    train(config, [dataset], tmp_path / "run", progress=False)
    alpha, delta = 0.3, 0.3
    made, words = export_run(tmp_path / "run", [dataset], tmp_path / "b", alpha=alpha, delta=delta, progress=False)

    _, model = load_run(tmp_path / "run", dataset.interface)
    [held] = split(dataset, 0.5)[1:]
    assert 8 <= len(held) <= 22  # of 30, each by its content
    data = LabelledData([held], config, domain, progress=False)
    scores, owners = sequence_scores(model, data, progress=False).violations
    tau, bound = np.float32(made.manifest.threshold), made.manifest.calibration
    assert (bound.alpha, bound.delta, bound.method) == (alpha, delta, "betting")
    assert bound.n_trajectories == len(set(owners.tolist())) > 3 and bound.dataset == dataset.digest
    # The largest threshold whose p-value is at most delta: one more sequence accepted is one too many.
    above = np.min(scores[scores > tau])
    for threshold, holds in ((tau, True), (above, False)):
        losses = np.array([(scores[owners == owner] <= threshold).mean() for owner in np.unique(owners)])
        assert (betting_p_value(losses, alpha, delta) <= delta) == holds
    assert tau == np.nextafter(above, np.float32(-np.inf))
    losses = [(scores[owners == owner] <= tau).mean() for owner in np.unique(owners)]
    assert bound.sequences == len(scores) and bound.empirical_miss == pytest.approx(np.mean(losses))
    assert 0 <= bound.empirical_false_alarm <= 1
    told = f"threshold {tau:.4f}: of a trajectory's violating sequences, on average over trajectories, at most 30% are "
    told += f"accepted, with confidence 70%; {bound.n_trajectories} held-out trajectories, {len(scores)} violating "
    assert words.startswith(f"{told}sequences, {bound.empirical_miss:.2%} of a trajectory's accepted")
    assert Bundle.load(tmp_path / "b").manifest.threshold == tau and made.manifest.name == "b"
    with pytest.raises(CalibrationError, match=f"at least {trajectories_needed(0.01, 0.01, False)} are needed"):
        export_run(tmp_path / "run", [dataset], tmp_path / "b", alpha=0.01, delta=0.01, progress=False)


def test_a_bundle_is_calibrated_anew_with_its_model_untouched(config, tmp_path):
    robot = robot_file("navigation.yaml")
    for name, seed in (("data", 0), ("fresh", 1000)):
        collect("navigation", robot, tmp_path / name, 20, 24, seed=seed, workers=1, progress=False)
    dataset, fresh = (Dataset.open(tmp_path / name) for name in ("data", "fresh"))
    train(config.model_copy(update={"stages": config.stages[:1]}), [dataset], tmp_path / "run", progress=False)
    bound = {"alpha": 0.4, "delta": 0.4, "progress": False}
    made, words = export_run(tmp_path / "run", [fresh], tmp_path / "made", **bound)
    needed = trajectories_needed(OVERLOOKED, 0.4, single=False)
    told = (
        f"goal: to tell whether it is in view takes {needed} held-out trajectories in which an oracle knows it to be "
    )
    told += "there; here are 20. The planner will not ask, and drives to what resembles the goal most"
    assert words.endswith(told)
    assert made.manifest.goal_threshold is None is made.manifest.goal_calibration
    by_hand, told = recalibrate(tmp_path / "made", [], tmp_path / "by_hand", threshold=0.5)
    assert told == "threshold set by hand" and by_hand.manifest.calibration is None
    assert (by_hand.manifest.threshold, by_hand.manifest.name) == (0.5, "by_hand")
    assert by_hand.manifest.files == made.manifest.files and by_hand.manifest.training == made.manifest.training
    twice = [fresh, fresh.subset([3, 4])]
    again, same_words = recalibrate(tmp_path / "by_hand", twice, tmp_path / "by_hand", "again", **bound)  # in place
    assert same_words == f"{words}; 2 given twice were left out" and again.manifest.name == "again"
    bounds = [each.manifest.calibration.model_dump(exclude={"dataset"}) for each in (again, made)]
    assert bounds[0] == bounds[1]
    assert again.manifest.threshold == made.manifest.threshold and again.manifest.files == made.manifest.files
    with pytest.raises(
        CalibrationError, match="no trajectory is left to calibrate a threshold on: each was trained on"
    ):
        recalibrate(tmp_path / "made", [split(dataset, config.data.holdout)[0]], tmp_path / "none", **bound)
    with pytest.raises(BundleError, match="trained for another robot interface"):
        recalibrate(resource("bundles", "manipulation"), [fresh], tmp_path / "none", **bound)
    files = {name: made.path / name for name in made.manifest.files if name != TRAINED_ON}
    write_bundle(tmp_path / "older", made.manifest, files)
    with pytest.raises(CheckpointError, match=r"older has no trained_on\.txt"):
        recalibrate(tmp_path / "older", [fresh], tmp_path / "none", **bound)


def test_goals_are_told_where_enough_is_held_out_and_by_a_bundle_from_before_too(config, domain, tmp_path, monkeypatch):
    collect("navigation", robot_file("navigation.yaml"), tmp_path / "data", 30, 24, seed=0, workers=1, progress=False)
    dataset = Dataset.open(tmp_path / "data")
    held_out = config.data.model_copy(update={"holdout": 0.5})
    config = config.model_copy(update={"data": held_out, "stages": config.stages[:1]})
    train(config, [dataset], tmp_path / "run", progress=False)
    monkeypatch.setattr(export, "OVERLOOKED", 0.3)
    bound = {"alpha": 0.3, "delta": 0.3, "progress": False}
    made, words = export_run(tmp_path / "run", [dataset], tmp_path / "b", **bound)

    _, model = load_run(tmp_path / "run", dataset.interface)
    data = LabelledData(split(dataset, 0.5)[1:], config, domain, progress=False)
    scores = sequence_scores(model, data, progress=False)
    manifest = made.manifest
    expected = calibrate(scores.goal, scores.trajectory, 0.3, 0.3)
    assert manifest.goal_threshold == expected.tau and manifest.goal_calibration.n_trajectories == expected.n
    assert manifest.goal_calibration.dataset == dataset.digest == manifest.calibration.dataset
    told = f"goal {expected.tau:.4f}: of a trajectory's sequences whose goal is there, on average over trajectories, "
    told += "at most 30.0% begin where it is not seen, with confidence 70%; "
    assert words.split("\n")[-1].startswith(f"{told}{expected.n} held-out trajectories")
    assert Screener(made).encode(*Screener(made).blank()).goal.shape == (1,)

    monkeypatch.setattr(export, "OVERLOOKED", 0.001)  # too little is held out; what the same model knew stays
    kept, words = recalibrate(made.path, [dataset], tmp_path / "kept", **bound)
    by_hand, _ = recalibrate(made.path, [], tmp_path / "by_hand", threshold=0.5)
    for other in (kept.manifest, by_hand.manifest):
        assert other.goal_threshold == expected.tau and other.goal_calibration == manifest.goal_calibration
    assert (
        words.endswith(f"The bundle's own threshold for it, {expected.tau:.4f}, stays")
        and by_hand.manifest.calibration is None
    )
    monkeypatch.setattr(export, "OVERLOOKED", 0.3)

    older = onnx.load(made.path / "encode.onnx")
    [place] = [index for index, node in enumerate(older.graph.output) if node.name == "goal"]
    del older.graph.output[place]
    files = {name: made.path / name for name in manifest.files} | {"encode.onnx": older.SerializeToString()}
    write_bundle(tmp_path / "older", manifest.model_copy(update={"goal_threshold": None}), files)
    again, _ = recalibrate(tmp_path / "older", [dataset], tmp_path / "again", **bound)
    assert again.manifest.goal_threshold == manifest.goal_threshold and again.manifest.files == manifest.files


def bent(navigation: RobotInterface, **action: object) -> RobotInterface:
    """The robot with something else in its first action field."""
    content = yaml.safe_load(yaml.safe_dump(navigation.to_dict()))
    content["action"]["fields"][0] |= action
    return RobotInterface.from_dict(content | {"name": "mine"}, "test")


def test_a_run_keeps_its_robot_and_is_exported_for_no_other(config, dataset, navigation, tmp_path, capsys):
    mine = bent(navigation, limits=[-0.25, 0.25])
    slow = [replace(dataset[i], action=dataset[i].action.clip(-0.25, 0.25)) for i in range(len(dataset))]
    DatasetWriter(tmp_path / "mine", mine).append(slow)
    short = config.model_copy(update={"stages": config.stages[:1]})
    train(short, [Dataset.open(tmp_path / "mine")], tmp_path / "run", progress=False)
    by_hand = ["export", str(tmp_path / "run"), "--threshold", "0", "--quiet", "--output", str(tmp_path / "b")]
    assert main(by_hand) == 0
    made = Bundle.load(tmp_path / "b")
    assert made.interface.action_limits[0].tolist() == [-0.25, 0.25] and made.interface == mine

    for other in (["--data", str(dataset.paths[0])], ["--robot", str(robot_file("navigation.yaml"))]):
        assert main([*by_hand, *other]) == 2
        assert f"action.{mine.action_names[0]}.limits: " in capsys.readouterr().err
    renamed = mine.to_dict()
    renamed["action"]["topic"] = "mine/cmd_vel"
    (tmp_path / "renamed.yaml").write_text(yaml.safe_dump(renamed))
    assert main([*by_hand, "--robot", str(tmp_path / "renamed.yaml")]) == 0
    assert Bundle.load(tmp_path / "b").interface.action.topic == "mine/cmd_vel"

    older = read_checkpoint(tmp_path / "run" / LAST)
    del older["interface"]
    write_checkpoint(tmp_path / "run" / LAST, older)
    with pytest.raises(CheckpointError, match=r"last\.pt: has no 'interface': .*train it again"):
        export_run(tmp_path / "run", [], tmp_path / "b", threshold=0.0, robot=mine)


def test_a_failed_export_leaves_the_bundle_that_was_there(bundle, model, config, interface, monkeypatch):
    before = (bundle.path / "bundle.json").read_bytes()
    monkeypatch.setattr(model.dynamics, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("no such operator")))
    with pytest.raises(RuntimeError, match="no such operator"):
        export_bundle(model, interface, config, bundle.path, "other", Thresholds(0.0))
    assert (bundle.path / "bundle.json").read_bytes() == before
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == ["tiny"]
