"""Export a trained model to a bundle: three ONNX graphs, tokenizer, weights, interface and bundle.json.

Each graph is a wrapper module with its input names and example inputs beside it, as rsl_rl's ``as_onnx`` does.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import Domain, DomainError, load_domain
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.composition import MODALITIES
from tc_mmwm_core.models.vocabulary import tokenizer_file
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.runtime import bundle as bundles
from tc_mmwm_core.training.calibration import CalibrationError, Threshold, calibrate, trajectories_needed
from tc_mmwm_core.training.checkpoint import CheckpointError
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.data import LabelledData, unseen
from tc_mmwm_core.training.held_out import SequenceScores, sequence_scores
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.run_progress import RunProgress
from tc_mmwm_core.training.weights import TRAINED_ON, WEIGHTS, Weights, load_bundle, read_weights
from tc_mmwm_core.utils.reproducibility import environment

OPSET = 20
BY_HAND = "threshold set by hand"
ENCODE = "encode.onnx"
GROUPS = 10  # of instructions, whose violating sequences are told of
OVERLOOKED = 0.005  # of a trajectory's sequences whose goal is there, the planner may miss it in at most this share


class LanguageGraph(nn.Module):
    """language.onnx: once an instruction."""

    inputs = ("tokens", "mask")
    outputs = ("words", "z_l")

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`WorldModel.instruct`."""
        return self.model.instruct(tokens, mask)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the exported shapes."""
        length = self.model.config.max_tokens
        mask = torch.ones(1, length, dtype=torch.bool)
        mask[:, length // 2 :] = False
        return torch.arange(1000, 1000 + length)[None], mask


class EncodeGraph(nn.Module):
    """encode.onnx: once a decision."""

    outputs = ("latent", "context", "weights", "proposal", "memory", "goal")

    def __init__(self, model: WorldModel, images: list[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = (*(f"image.{name}" for name in images), "sensor", "words", "mask", "z_l", "remembered")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Images [1, H, W, 3]..., sensor [1, Ds], words [1, L, 2 E], mask [1, L], z_l [1, D], memory [1, P, E + 1]."""
        *images, sensor, words, mask, z_l, memory = inputs
        seen = self.model.encode([image[:, None] for image in images], sensor[:, None], memory)
        context = self.model.ground(seen.features[:, 0], words, mask, z_l, seen.told[:, 0])
        latent, weights = self.model.compose(seen.z_v[:, 0], z_l, seen.z_s[:, 0])
        proposal = self.model.propose(latent, context, sensor)
        return latent, context, weights, proposal, seen.memory, self.model.goal(context)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the exported shapes."""
        config, shapes = self.model.config, self.model.shapes
        generator = torch.Generator().manual_seed(0)
        height, width = shapes["image"]
        images = [
            torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)
            for _ in range(shapes["cameras"])
        ]
        mask = torch.ones(1, config.max_tokens, dtype=torch.bool)
        mask[:, config.max_tokens // 2 :] = False
        draws = [(1, shapes["sensors"]), (1, config.max_tokens, 2 * config.width), (1, config.latent)]
        sensor, words, z_l = (torch.randn(shape, generator=generator) for shape in draws)
        return *images, sensor, words, mask, z_l, torch.rand((1, *self.model.memory_shape), generator=generator)


class ScreenGraph(nn.Module):
    """screen.onnx: all candidates; k is unrolled, and what does not change over candidates is computed once."""

    inputs = ("latent", "context", "actions")
    outputs = ("violation", "progress")

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, context: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """latent [1, D], context [1, C], actions [N, K, A] normalised to violation [N, K] and progress [N, K]."""
        imagined = self.model.rollout(latent[:, None], actions[None])  # [1, N, K, D]
        violation, progress = self.model.judge(imagined, context, actions[None])
        return violation[0], progress[0]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the exported shapes; the first axis of actions may be any."""
        config = self.model.config
        generator = torch.Generator().manual_seed(0)
        shapes = [(1, config.latent), (1, self.model.context_size), (7, config.horizon, self.model.shapes["actions"])]
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def graphs(model: WorldModel, interface: RobotInterface) -> dict[str, nn.Module]:
    """The graphs of a bundle by file name."""
    return {
        "language.onnx": LanguageGraph(model),
        ENCODE: EncodeGraph(model, [image.name for image in interface.images]),
        "screen.onnx": ScreenGraph(model),
    }


@dataclass(frozen=True)
class Thresholds:
    """What a bundle's verdicts are drawn at: that on violations, and where known, that on goals."""

    violation: float
    calibration: bundles.Calibration | None = None  # None: set by hand
    goal: float | None = None
    goal_calibration: bundles.Calibration | None = None
    words: str = BY_HAND  # what they rest on

    def manifest(self) -> dict[str, Any]:
        """As fields of the bundle's manifest."""
        return {
            "threshold": float(np.float32(self.violation)),
            "calibration": self.calibration,
            "goal_threshold": self.goal,
            "goal_calibration": self.goal_calibration,
        }


@dataclass(frozen=True)
class _Held:
    """What a model was not trained on.

    Attributes:
        repeated: how many trajectories of it were given twice.
        digest: of all datasets, trained on in part perhaps.
    """

    parts: list[Dataset]
    repeated: int
    digest: str

    def calibration(self, found: Threshold, rejected: float | None) -> bundles.Calibration:
        """What a threshold ``found`` on it rests on, as a bundle keeps it."""
        return bundles.Calibration(
            alpha=found.alpha,
            delta=found.delta,
            n_trajectories=found.n,
            dataset=self.digest,
            method=found.method,
            sequences=found.sequences,
            empirical_miss=found.empirical_miss,
            empirical_false_alarm=rejected,
        )


def export_graph(graph: nn.Module, path: Path) -> None:
    """Write one graph; only screen.onnx's number of candidates is dynamic."""
    dynamic = {"actions": {0: "candidates"}, "violation": {0: "candidates"}, "progress": {0: "candidates"}}
    names = {*graph.inputs, *graph.outputs}
    with warnings.catch_warnings():
        # Shapes become constants in the trace: all but the number of candidates are, and that one is no Python number.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # the tracing exporter is fixed-shape and quick
        warnings.filterwarnings("ignore", "Constant folding")  # what is not folded is computed: the graph is the same
        torch.onnx.export(
            graph,
            graph.example(),
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: axes for name, axes in dynamic.items() if name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    _state_shapes(graph, path)
    onnx.checker.check_model(str(path))


@torch.no_grad()
def _state_shapes(graph: nn.Module, path: Path) -> None:
    """Write into the graph at ``path`` what sizes come out: the tracing exporter infers some wrong; runtimes warn."""
    model = onnx.load(path)
    for output, value in zip(model.graph.output, graph(*graph.example()), strict=True):
        for dimension, size in zip(output.type.tensor_type.shape.dim, value.shape, strict=True):
            if not dimension.dim_param:  # what has a name may be of any size
                dimension.dim_value = size
    onnx.save(model, path)


def export_bundle(
    model: WorldModel,
    interface: RobotInterface,
    config: TrainConfig,
    output: Path,
    name: str,
    thresholds: Thresholds,
    trained_on: Collection[str] = (),
    *,
    progress_taught: bool = True,
    unfinished: str | None = None,
) -> bundles.Bundle:
    """Write the bundle to ``output``, whole or not at all.

    Args:
        trained_on: identities of trajectories.
        progress_taught: whether an oracle judged any of them.
        unfinished: where the training stood, if it had not ended.
    """
    model = model.eval()
    record = environment()
    revision = record["git"]["commit"] if record["git"] else "unknown"
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path | bytes] = {"tokenizer.json": tokenizer_file()}
        for file, graph in graphs(model, interface).items():
            export_graph(graph, Path(folder) / file)
            files[file] = Path(folder) / file
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, Path(folder) / WEIGHTS)
        files[WEIGHTS] = Path(folder) / WEIGHTS
        files[TRAINED_ON] = "".join(f"{identity}\n" for identity in sorted(trained_on)).encode()
        files["robot.yaml"] = yaml.safe_dump(interface.to_dict(), sort_keys=False).encode()
        manifest = bundles.BundleManifest(
            name=name,
            created=_now(),
            interface=interface.to_dict(),
            latent=config.model.latent,
            context=model.context_size,
            horizon=config.model.horizon,
            frame_skip=config.model.frame_skip,
            max_tokens=config.model.max_tokens,
            modalities=list(MODALITIES),
            **thresholds.manifest(),
            progress_taught=progress_taught,
            normalisation=bundles.SensorNormalisation(mean=model.sensor.mean.tolist(), std=model.sensor.scale.tolist()),
            training=bundles.Training(
                config=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
                seed=config.seed,
                revision=revision or "unknown",
                unfinished=unfinished,
            ),
            versions=record["packages"],
        )
        return bundles.write_bundle(output, manifest, files)


def export_run(
    run: Path,
    datasets: Sequence[Dataset],
    output: Path,
    name: str | None = None,
    *,
    alpha: float = 0.05,
    delta: float = 0.05,
    threshold: float | None = None,
    robot: RobotInterface | None = None,
    progress: bool = True,
) -> tuple[bundles.Bundle, str]:
    """Write the averaged weights of a run folder as a bundle, by default under the name of the ``output`` folder.

    Prints a warning where the run has not ended, or its best weights are not of its last stage; the bundle keeps it.

    Args:
        datasets: every trajectory of them that was not trained on (the held-out share of the training data, and all of
            any others) calibrates the threshold for the bound of ``alpha`` and ``delta`` (see
            :mod:`tc_mmwm_core.training.calibration`). None are needed where ``threshold`` is given.
        robot: the bundle's robot interface in place of the one that the run was trained for, of the same meaning (with
            other topics, say).

    Returns:
        The bundle, and what its threshold rests on, in words.

    Raises:
        CalibrationError: what was not trained on is too little for the bound.
        CheckpointError: ``run`` holds no run, or is of another robot than ``datasets`` or ``robot``; names each field.
    """
    if unfinished := RunProgress.of(run).unfinished:
        print(f"warning: {run}: {unfinished}", flush=True)
    weights = read_weights(run)
    config = weights.config
    interface = _interface(run, weights, datasets, robot)
    model = build_model(config, interface)
    model.load_state_dict(weights.tensors)
    if threshold is not None:
        thresholds = Thresholds(threshold)
    else:
        held = _held(run, datasets, weights.trained_on)
        thresholds = _calibrated(model, config, held, alpha, delta, progress)
    name = name or output.resolve().name
    standing = {"progress_taught": weights.judged, "unfinished": unfinished}
    made = export_bundle(model, interface, config, output, name, thresholds, weights.trained_on, **standing)
    return made, thresholds.words


def recalibrate(
    path: Path,
    datasets: Sequence[Dataset],
    output: Path,
    name: str | None = None,
    *,
    alpha: float = 0.05,
    delta: float = 0.05,
    threshold: float | None = None,
    progress: bool = True,
) -> tuple[bundles.Bundle, str]:
    """Write the bundle at ``path`` again with other thresholds; its model stays the same, to the bit.

    What it knows of goals stays where the data are too few to know better. A graph of an earlier version that does not
    tell of the goal is made anew, of the same weights. Arguments and results are those of :func:`export_run`.

    Raises:
        CalibrationError: what was not trained on is too little for the bound.
        CheckpointError: the bundle does not tell what it was trained on.
        BundleError: a dataset is of another robot.
    """
    bundle = bundles.Bundle.load(path)
    for dataset in datasets:
        bundle.check(dataset.interface)
    config, model = load_bundle(path)
    before = bundle.manifest
    thresholds = Thresholds(before.threshold, None, before.goal_threshold, before.goal_calibration)
    if threshold is not None:
        thresholds = replace(thresholds, violation=threshold)
    else:
        held = _held(path, datasets, read_weights(path).trained_on)
        thresholds = _calibrated(model, config, held, alpha, delta, progress, thresholds)
    changed = {"name": name or output.resolve().name, "created": _now(), **thresholds.manifest()}
    changed["progress_taught"] = before.progress_taught and config.data.domain is not None
    files = {file: path / file for file in bundle.manifest.files}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {node.name for node in onnx.load(path / ENCODE).graph.output}
        if not outputs.issuperset(EncodeGraph.outputs):
            files[ENCODE] = Path(folder) / ENCODE
            export_graph(graphs(model.eval(), bundle.interface)[ENCODE], files[ENCODE])
        return bundles.write_bundle(output, bundle.manifest.model_copy(update=changed), files), thresholds.words


def _interface(
    run: Path, weights: Weights, datasets: Sequence[Dataset], robot: RobotInterface | None
) -> RobotInterface:
    """``robot``, or what the run was trained for: both, and what the data are of, must mean the same."""
    interface = robot or weights.interface
    for other in (weights.interface, *(dataset.interface for dataset in datasets)):
        if differing := interface.differences(other):
            lines = "".join(f"\n  {line}" for line in differing)
            raise CheckpointError(f"{run}: the run, --data and --robot are not of one robot interface:{lines}")
    return interface


def _held(path: Path, datasets: Sequence[Dataset], trained_on: Collection[str]) -> _Held:
    """What of ``datasets`` the model at ``path`` was not trained on."""
    parts, repeated = unseen(datasets, trained_on)
    held = [part for part in parts if len(part)]
    if not held:
        raise CalibrationError(
            f"{path}: no trajectory is left to calibrate a threshold on: each was trained on or chose the weights "
            "(early stopping), or shares its episode or layout with one that was; give more --data"
        )
    return _Held(held, repeated, ",".join(dataset.digest for dataset in datasets))


def _calibrated(
    model: WorldModel,
    config: TrainConfig,
    held: _Held,
    alpha: float,
    delta: float,
    progress: bool,
    before: Thresholds | None = None,
) -> Thresholds:
    """The thresholds that ``held`` gives; where it is too little for one on goals, that of ``before``, if any."""
    domain = load_domain(config.data.domain) if config.data.domain else None
    scores = sequence_scores(model, LabelledData(held.parts, config, domain, progress), progress=progress)
    try:
        found = calibrate(*scores.violations, alpha, delta)
    except CalibrationError as error:
        given = len({info.group for part in held.parts for info in part.trajectories})
        raise CalibrationError(f"{error}{_short_of(scores, given, domain, delta)}") from None
    complying = scores.score[~scores.violating]
    rejected = float((complying > found.tau).mean()) if len(complying) else None
    words = (
        f"threshold {found.tau:.4f}: of a trajectory's violating sequences, on average over trajectories, at most "
        f"{alpha:.0%} are accepted, with confidence {1 - delta:.0%}; {found.n} held-out trajectories, "
        f"{found.sequences} violating sequences, {found.empirical_miss:.2%} of a trajectory's accepted"
        + ("" if rejected is None else f", {rejected:.1%} of complying ones rejected")
        + "".join(f"\n  {line}" for line in _by_rule(scores, domain))
    )
    repeated = f"; {held.repeated} given twice were left out" if held.repeated else ""
    kept = held.calibration(found, rejected)
    there = np.isfinite(scores.goal)
    known, needed = len(np.unique(scores.trajectory[there])), trajectories_needed(OVERLOOKED, delta, single=False)
    if known < needed:
        words += (
            f"\ngoal: to tell whether it is in view takes {needed} held-out trajectories in which an oracle knows it "
            f"to be there; here are {known}. "
        )
        if before is None or before.goal is None:
            words += "The planner will not ask, and drives to what resembles the goal most"
            return Thresholds(found.tau, kept, words=words + repeated)
        words += f"The bundle's own threshold for it, {before.goal:.4f}, stays{repeated}"
        return replace(before, violation=found.tau, calibration=kept, words=words)
    goal = calibrate(scores.goal[there], scores.trajectory[there], OVERLOOKED, delta)
    words += (
        f"\ngoal {goal.tau:.4f}: of a trajectory's sequences whose goal is there, on average over trajectories, at "
        f"most {OVERLOOKED:.1%} begin where it is not seen, with confidence {1 - delta:.0%}; {goal.n} held-out "
        f"trajectories, {goal.empirical_miss:.2%} of a trajectory's there"
    )
    return Thresholds(found.tau, kept, goal.tau, held.calibration(goal, None), words + repeated)


def _by_rule(scores: SequenceScores, domain: Domain | None) -> list[str]:
    """How many violating sequences there are under each kind of rule, or, without a domain, under each instruction."""
    groups: dict[str, list[str]] = {}
    for text in np.unique(scores.instruction).tolist():
        kinds = [f"'{text}'"]
        if domain is not None:
            try:
                kinds = [f"a rule of {kind}" for kind in domain.rules(text)]
            except DomainError:  # recorded, and nothing that the domain understands
                kinds = ["an instruction that the domain cannot read"]
        for kind in kinds:
            groups.setdefault(kind, []).append(text)
    found = []
    for kind, texts in sorted(groups.items()):
        those = scores.where(np.isin(scores.instruction, texts) & scores.violating)
        found.append((len(np.unique(those.trajectory)), len(those.score), kind))
    found.sort(key=lambda each: -each[0])
    lines = [f"under {kind}: {count} violating sequences, in {of} trajectories" for of, count, kind in found]
    more = len(lines) - GROUPS
    return lines[:GROUPS] + ([f"and under {more} others"] if more > 0 else [])


def _short_of(scores: SequenceScores, given: int, domain: Domain | None, delta: float) -> str:
    """What there is, where it is too little for the bound asked for, and what to do: the end of the error message.

    Args:
        given: held-out trajectories, those without any sequence to score too.
    """
    count, all_of = len(np.unique(scores.violations[1])), len(np.unique(scores.trajectory))
    lines = [f"there are {len(scores.violations[0])} violating sequences, in {count} of {all_of} held-out trajectories"]
    if all_of < given:
        lines.append(f"{given - all_of} more have no sequence to score: too short, unjudged, or violating throughout")
    lines += _by_rule(scores, domain)
    possible = [
        percent for percent in range(1, 100) if trajectories_needed(percent / 100, delta, single=False) <= count
    ]
    less = f"ask for less (--alpha {possible[0] / 100:g} can be bounded if none is missed)" if possible else ""
    ways = ["record or collect more episodes with violations for --data", less, "set --threshold by hand"]
    lines.append(", or ".join(filter(None, ways)))
    return "".join(f"\n  {line}" for line in lines)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
