"""Train a world model through the curriculum. A run killed at any moment resumes to the same weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tc_mmwm_core.config import parse
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.encoders import CLIP
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.checkpoint import LAST, Position, load_checkpoint, read_checkpoint, shape_differences
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.data import LabelledData, TrainedOn, split
from tc_mmwm_core.training.distributed import is_first, processes
from tc_mmwm_core.training.latent_stage import LatentStage
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.objective import Objective
from tc_mmwm_core.training.run import Run
from tc_mmwm_core.training.stage import Stage, TrainingError, check_stages
from tc_mmwm_core.training.supply import Supply
from tc_mmwm_core.training.weights import Weights
from tc_mmwm_core.utils.claim import claim
from tc_mmwm_core.utils.reproducibility import seed_everything, use_deterministic_algorithms

LOCK = ".training.lock"  # not the one by which a benchmark claims a run folder, in which it trains then

__all__ = ["TrainingError", "label_data", "train"]


def train(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    output: Path,
    init: Weights | None = None,
    device: str = "cpu",
    progress: bool = True,
    labelled: tuple[LabelledData, LabelledData] | None = None,
) -> dict[str, float]:
    """Train through ``config.stages`` into the run folder ``output``; continues a run that is there.

    Under ``torchrun`` every process calls it; see :mod:`tc_mmwm_core.training.distributed`.

    Args:
        config: everything but the data.
        datasets: trajectories of one robot interface; a share of each is held out.
        output: run folder: checkpoints, resolved config, metrics, figure.
        init: what to start from in place of random weights, e.g. a bundle's; a started run's own checkpoint wins.
        device: where to train.
        progress: show progress bars, and what each stage can learn from.
        labelled: what :func:`label_data` gives, where it is there already.

    Returns:
        The last validation's measures.

    Raises:
        TrainingError: a loss or gradient is not finite (the batch is saved and named, no checkpoint is overwritten);
            ``output`` holds a run of another config or of other data, or is being trained in; ``init`` is of another
            model; nothing can be held out; a batch of any stage does not divide into the processes and parts; no stage
            has anything to learn from.
        DatasetError: the windows of any stage are longer than a dataset can give.
        CheckpointError: the checkpoint in ``output`` is damaged, or cannot be written.
    """
    with processes(device) as those, contextlib.ExitStack() as stack:
        there = output.exists()  # else what is refused leaves no folder
        if those.first and there:
            stack.enter_context(_alone_in(output))  # before its checkpoint is read
        seen = [split(dataset, config.data.holdout, datasets)[0] for dataset in datasets]
        if config.early_stopping.patience is not None:
            seen = datasets  # what is held out chooses the weights
        trained_on = TrainedOn(datasets, seen, init.trained_on if init else ())
        position = _position_of(output, config, trained_on)
        progress = progress and those.first
        data, held_out, model, ema = prepare(config, datasets, those.device, init, progress, labelled)
        check_stages(config, position.stage, data, held_out, those)
        supply = Supply.of(data)
        _tell_supply(supply, position.stage, those.first, progress)
        trained_on.judged = bool(supply.known["progress"]) or (init is not None and init.judged)
        if position.step:
            load_checkpoint(output / LAST, {"model": model, "ema": ema}, restore_random=False)
        objective = those.wrap(Objective(model, config.objective, config.weights, config.bf16, those.group))

        measures: dict[str, float] = {}
        run = None
        if those.first:
            if not there:
                stack.enter_context(_alone_in(output))
                if (output / LAST).exists():  # since data were labelled
                    raise TrainingError(f"{output}: another process has begun to train in it; run again to go on")
            resolved = config.model_dump(mode="json")
            run = stack.enter_context(Run(output, resolved, progress=progress, resume_step=position.step))
        for index in range(position.stage, len(config.stages)):
            kind = LatentStage if config.stages[index].kind.encoders_rest else Stage
            stage = kind(config, index, objective, ema, data, held_out, those)
            stage.parts["trained_on"] = trained_on
            if index == position.stage and position.step:
                load_checkpoint(output / LAST, stage.parts)
            else:
                position = Position(position.step, index, 0)
            position, found = stage.run(output, run, position)
            measures = found or measures
        return measures or stage.validate()  # a run that had ended already


def prepare(
    config: TrainConfig,
    datasets: Sequence[Dataset],
    device: torch.device,
    init: Weights | None = None,
    progress: bool = True,
    labelled: tuple[LabelledData, LabelledData] | None = None,
) -> tuple[LabelledData, LabelledData, WorldModel, AveragedModel]:
    """What training begins with: training and held-out data, the model, and its average; everything is seeded.

    Arguments and errors are those of :func:`train`.
    """
    seed_everything(config.seed)
    use_deterministic_algorithms()
    model = build_model(config, datasets[0].interface)
    if init is not None:
        _load(model, init, datasets[0].interface)
    data, held_out = labelled or label_data(config, datasets, progress)
    if init is None:
        fit_sensor_normalisation(model, data.datasets)
    elif is_first():
        for line in beyond_scale(model, data.datasets):
            print(f"warning: {line}", flush=True)
    model = model.to(device)
    # Buffers are fitted once, not averaged: an average would lag behind their first value.
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False)
    if config.compile:
        # Unrolled, its loops are thousands of operations. Not at its definition: this imports a compiler for 2 s.
        model.field.solve = torch.compiler.disable(model.field.solve)
        for part in model.children():
            part.compile(dynamic=True)  # windows differ in length; in place, so the names in state_dict stay
    return data, held_out, model, ema


def label_data(
    config: TrainConfig, datasets: Sequence[Dataset], progress: bool = True
) -> tuple[LabelledData, LabelledData]:
    """Training and held-out trajectories with their labels.

    Raises:
        TrainingError: nothing is held out: no dataset has more than one trajectory.
    """
    domain = load_domain(config.data.domain) if config.data.domain else None
    parts = [split(dataset, config.data.holdout, datasets) for dataset in datasets]
    if not any(len(held_out) for _, held_out in parts):
        found = ", ".join(f"{len(dataset)} in {dataset.paths[0]}" for dataset in datasets)
        raise TrainingError(
            f"trajectories: {found}: none can be held out, which training is measured on; at least two of one dataset "
            "are needed: record more, or train on another dataset too"
        )
    first, second = (
        LabelledData([part[i] for part in parts if len(part[i])], config, domain, progress) for i in range(2)
    )
    return first, second


def _tell_supply(supply: Supply, first: int, told: bool, table: bool) -> None:
    """Print what the stages from ``first`` on have to learn from, where it is to be ``told``: a table, and warnings.

    Raises:
        TrainingError: none of them has anything.
    """
    warnings = supply.warnings(first)
    if not any(supply.taught(stage)[0] for stage in supply.config.stages[first:]):
        raise TrainingError("\n  ".join(["no stage has anything to learn from in these data:", *warnings]))
    if told and table:
        print(supply.table(first), flush=True)
    for line in warnings if told else ():
        print(f"warning: {line}", flush=True)


@torch.no_grad()
def fit_sensor_normalisation(model: WorldModel, datasets: Sequence[Dataset]) -> None:
    """Mean and standard deviation of each sensor field over all valid training steps."""
    sensor = _sensors(datasets)
    model.sensor.mean.copy_(torch.from_numpy(sensor.mean(0)))
    # A field that hardly varies (a bumper that is seldom pressed) must not be blown up to unit variance, and one whose
    # range is small in its unit (a gripper's opening in metres) must be seen.
    scale = np.maximum(sensor.std(0), 0.05 * np.ptp(sensor, 0))
    model.sensor.scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))


def beyond_scale(model: WorldModel, datasets: Sequence[Dataset]) -> list[str]:
    """A line for each sensor field of which the model's normalisation clips more than 1 % of the valid steps."""
    sensor = _sensors(datasets)
    scaled = (sensor - model.sensor.mean.numpy()) / model.sensor.scale.numpy()
    share = (np.abs(scaled) > CLIP).mean(0)
    names = datasets[0].interface.sensor_names
    return [
        f"sensor {name}: {part:.0%} of the steps are beyond {CLIP} standard deviations of what it was trained on, and "
        f"are clipped there ({low:.4g} to {high:.4g} here)"
        for name, part, low, high in zip(names, share, sensor.min(0), sensor.max(0), strict=True)
        if part > 0.01
    ]


def _sensors(datasets: Sequence[Dataset]) -> np.ndarray:
    """The sensor vectors of all valid steps, float64 [S, Ds]."""
    rows = [t.sensor[t.valid] for dataset in datasets for t in (dataset[i] for i in range(len(dataset)))]
    return np.concatenate(rows).astype(np.float64)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others from training in ``folder`` until the block ends. TrainingError: another process is."""
    with claim(folder, lock=LOCK) as ours:
        if not ours:
            raise TrainingError(
                f"{folder}: another process is training in it; wait until it has ended, or choose another folder"
            )
        yield


def _position_of(output: Path, config: TrainConfig, trained_on: TrainedOn) -> Position:
    """Where the run in ``output`` stands; the beginning, where there is none.

    Raises:
        TrainingError: its config is another, or its data are.
    """
    if not (output / LAST).exists():
        return Position()
    content = read_checkpoint(output / LAST)
    theirs = parse(content["config"], TrainConfig, f"{output / LAST}: config")  # keys that are new get their defaults
    if theirs != config:
        was, now = _flat(theirs.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
        names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        lines = "".join(f"\n  {name}: {was.get(name)} there, {now.get(name)} now" for name in names)
        mend = (
            f"continue with {output / 'config.yaml'}, or choose another folder (with --init to start from its weights)"
        )
        raise TrainingError(f"{output}: holds a run of another config; {mend}{lines}")
    try:
        trained_on.load_state_dict(content["parts"]["trained_on"])
    except ValueError as error:
        mend = "or choose another folder (with --init to start from its weights)"
        raise TrainingError(f"{output}: holds a run of other data: {error}, {mend}") from None
    return Position(**content["position"])


def _flat(values: object, name: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} as {"a.b.0": 1}."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        return {name: values}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found


def _load(model: WorldModel, init: Weights, interface: RobotInterface) -> None:
    """Start from ``init``; what its robot has otherwise than ``interface`` is named where shapes differ for it."""
    if differences := shape_differences(init.tensors, model.state_dict()):
        of_robot = init.interface.differences(interface)
        lines = "".join(f"\n  {line}" for line in (of_robot + differences)[:8])
        more = len(of_robot) + len(differences) - 8
        more = f"\n  and {more} more" if more > 0 else ""
        raise TrainingError(f"the weights to start from are of another model, or for another robot:{lines}{more}")
    model.load_state_dict(init.tensors)
