"""Work off a benchmark: collect once per domain, then train, export and evaluate each job. Killed anywhere, it goes on.

Everything lies in one folder, and what lies there is not done again; an evaluation.json of an earlier schema is written
anew from the episodes beside it::

    <domain>/dataset/                           collected once, for all trainings
    <domain>/calibration/                       and for all thresholds, where the plan says so
    <domain>/explored/                          what a driver tried out for second rounds, where the plan says so
    <domain>/long/                              long episodes, for the error of prediction
    <domain>/long-<steps>/                      and those of a variant whose latent steps last otherwise than full's
    <domain>/<variant>/seed-<n>/                a run folder of tc-mmwm train, and in it
        first/, on_policy/, again/              where there is a second round: the bundle of the first, its own motions,
                                                and the run folder of the second
        bundle/                                 (variants that differ only in how they drive share the first one's)
        data.json                               what of the plan the bundle was made from, beside how it was trained
        episodes.jsonl                          every episode and probe, as it ended
        evaluation.json, evaluation.png
    times.jsonl                                 what each part took
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from tc_mmwm_core.config import ConfigError, parse
from tc_mmwm_core.data.dataset import Dataset, DatasetError
from tc_mmwm_core.domains.base import DomainError, load_domain
from tc_mmwm_core.domains.collect import OnPolicy, collect
from tc_mmwm_core.evaluation.benchmark.clock import Clock, Part
from tc_mmwm_core.evaluation.benchmark.plan import CALIBRATING, Job, Plan
from tc_mmwm_core.evaluation.long_horizon import episode_steps, predicted
from tc_mmwm_core.evaluation.report import SCHEMA, report, write_report
from tc_mmwm_core.evaluation.suite import Contestant, evaluate, remaining
from tc_mmwm_core.evaluation.suite import jobs as episodes_of
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.training.ablation import DONE, FULL, run_ablations
from tc_mmwm_core.training.calibration import CalibrationError
from tc_mmwm_core.training.checkpoint import CheckpointError
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.export import export_run
from tc_mmwm_core.training.run import METRICS, read_metrics
from tc_mmwm_core.training.stage import TrainingError
from tc_mmwm_core.training.trainer import train
from tc_mmwm_core.training.weights import read_weights
from tc_mmwm_core.utils.claim import claim
from tc_mmwm_core.utils.files import write_atomically

EVALUATION, EPISODES = "evaluation.json", "episodes.jsonl"
FIRST, ON_POLICY, AGAIN = "first", "on_policy", "again"
DATA = "data.json"
UNCALIBRATED = 0.0  # the threshold where there is nothing to calibrate it on: the sign of v
PATIENCE = 10.0  # s until work that other processes have in hand is looked at again


class Benchmark:
    """The folder of one benchmark, and what works on it; several processes may, each with one of these."""

    def __init__(
        self, plan: Plan, folder: Path, *, workers: int = 1, device: str = "cpu", progress: bool = True
    ) -> None:
        """``workers``: processes that collect and evaluate; ``progress``: show progress bars."""
        self.plan, self.folder = plan, folder
        self.workers, self.device, self.progress = workers, device, progress
        self.clock = Clock(folder)
        self._datasets: dict[Path, Dataset] = {}

    def done(self, job: Job) -> bool:
        """Whether ``job`` has been evaluated, and measured as it is now."""
        file = self.folder / job.folder / EVALUATION
        return file.exists() and json.loads(file.read_text(encoding="utf-8")).get("schema") == SCHEMA

    def parts(self, jobs: Sequence[Job]) -> dict[Job, list[Part]]:
        """What is left to do for each of ``jobs``; what several of them need is listed with the first."""
        seen: set[Path] = set()
        return {job: [] if self.done(job) else list(self._parts(job, seen)) for job in jobs}

    def work_off(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, TrainingError | None]]:
        """Carry out ``jobs``, leaving alone what other processes have in hand until they are done with it.

        Yields each that was done here, with the error where its training failed: the others go on.
        """
        left = list(jobs)
        while left := [job for job in left if not self.done(job)]:
            busy = []
            for job in left:
                with claim(self._run(job)) as ours:
                    if not ours:
                        busy.append(job)
                    elif not self.done(job):  # another process may have been quicker
                        yield job, self._tried(job)
            if len(busy) == len(left):
                time.sleep(PATIENCE)
            left = busy

    def carry_out(self, job: Job) -> None:
        """Whatever of ``job`` is not done: collect, train, export, evaluate.

        Raises:
            TrainingError, DatasetError, JournalError: the folder holds the work of another configuration; or training
                failed.
        """
        bundle = self._bundle(job) if self.plan.config.variants[job.variant].trained else None
        contestant = self._contestant(job, bundle)
        suite = self.plan.config.suites[job.suite]
        folder = self.folder / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / EPISODES
        part = Part(job.domain, _evaluating(contestant), len(remaining(contestant, suite, log)))
        with self.clock.time(part, str(job.folder)):
            records = evaluate(contestant, suite, log, self.workers, self.progress)
        prediction = predicted(contestant, suite, self._long_folder(job), self.workers, self.progress)
        found = report(contestant, suite, records, prediction)
        found = replace(found, driver=found.driver | {"settings": self.plan.settings(job)})
        write_report(found, folder / EVALUATION, folder / "evaluation.png")

    def training_seconds(self, job: Job) -> float | None:
        """What the whole training of ``job`` takes, by the steps of it that were timed; None: none was."""
        part = Part(job.domain, "train", sum(self.plan.training_steps(job)))
        return self.clock.seconds(part, str(self._run(job).relative_to(self.folder)))

    def _tried(self, job: Job) -> TrainingError | None:
        try:
            self.carry_out(job)
        except TrainingError as error:
            return error
        return None

    def _parts(self, job: Job, seen: set[Path]) -> Iterator[Part]:
        plan, run = self.plan.config.domains[job.domain], self._run(job)
        made = (run / "bundle" / "bundle.json").exists()
        contestant = self._contestant(job, run / "bundle")
        if contestant.learned and run not in seen and not made:
            needed = {self._dataset_folder(job): plan.episodes}
            if fresh := self._fresh_episodes(job):
                needed[self._calibration_folder(job)] = fresh
            again = plan.again if self.plan.again_of(job) else None
            if again and again.explored:
                needed[self._explored_folder(job)] = again.explored.episodes
            if missing := {folder: n for folder, n in needed.items() if not (folder.exists() or folder in seen)}:
                yield Part(job.domain, "collect", sum(missing.values()))
            if again and not (run / ON_POLICY).exists():
                yield Part(job.domain, "collect planner", again.episodes)
            if left := sum(self._steps_left(job)):
                yield Part(job.domain, "train", left)
            seen |= {run, *needed}
        suite, log = self.plan.config.suites[job.suite], self.folder / job.folder / EPISODES
        left = remaining(contestant, suite, log) if made or not contestant.learned else episodes_of(contestant, suite)
        yield Part(job.domain, _evaluating(contestant), len(left))

    def _contestant(self, job: Job, bundle: Path | None) -> Contestant:
        plan, variant = self.plan.config.domains[job.domain], self.plan.config.variants[job.variant]
        planner = plan.planner
        if variant.threshold is not None:
            planner = planner.model_copy(update={"threshold": variant.threshold})
        return Contestant(plan.domain, variant.driver, bundle, planner, variant.screens)

    def _run(self, job: Job) -> Path:
        trained = self.plan.config.variants[job.variant].trained
        return self.folder / job.domain / (self.plan.trained_as(job) if trained else job.name) / f"seed-{job.seed}"

    def _bundle(self, job: Job) -> Path:
        """Train and export, where that is not done; variants of the same training share the bundle."""
        run = self._run(job)
        bundle = run / "bundle"
        again = self.plan.again_of(job)
        if (bundle / "bundle.json").exists():
            _check_training(bundle, again or self.plan.training_of(job))
            if again is not None:
                _check_training(run / FIRST, self.plan.training_of(job))
            self._check_data(job, run, bundle)
            return bundle
        dataset = self._dataset(job)
        with self._training(job, 0):
            config = {run.parent.name: self.plan.training_of(job)}
            run_ablations(config, [job.seed], [dataset], run.parents[1], self.device, self.progress)
        trained, datasets = run, [dataset]
        if again is not None:
            trained, own = run / AGAIN, self._on_policy(job, run, dataset)
            data = [dataset, *self._explored(job), *[own] * self.plan.config.domains[job.domain].again.times]
            with self._training(job, 1):
                train(again, data, trained, read_weights(run / FIRST), self.device, self.progress)
            datasets.append(own)
        write_atomically(run / DATA, (json.dumps(self.plan.data_of(job), indent=2) + "\n").encode())
        return self._export(job, trained, bundle, datasets)

    def _check_data(self, job: Job, run: Path, bundle: Path) -> None:
        """Refuse a bundle that was made from, or calibrated for, other than the plan says, as far as ``job`` shows it.

        A bundle of before :data:`DATA` was kept tells only what its threshold promises.
        """
        file, calibration = run / DATA, Bundle.load(bundle).manifest.calibration
        made = {} if calibration is None else {"alpha": calibration.alpha, "delta": calibration.delta}
        if file.exists():
            made = json.loads(file.read_text(encoding="utf-8"))
        idle = set() if self.plan.config.variants[job.variant].calibrated else CALIBRATING
        asked = {name: value for name, value in self.plan.data_of(job).items() if name not in idle}
        if other := [name for name in asked if name in made and made[name] != asked[name]]:
            told = "; ".join(f"{name} was {made[name]!r}, is {asked[name]!r}" for name in other)
            origin = file if file.exists() else bundle / "bundle.json"
            raise TrainingError(f"{origin}: made under another plan of {job.domain}: {told}; choose another folder")

    def _steps_left(self, job: Job) -> list[int]:
        """Optimizer steps left of each round of training; what is held out is only about its share."""
        run = self._run(job)
        asked = self.plan.training_steps(job)
        left = [max(0, steps - _steps_done(folder)) for steps, folder in zip(asked, (run, run / AGAIN), strict=False)]
        return [0, *left[1:]] if (run / DONE).exists() else left

    @contextlib.contextmanager
    def _training(self, job: Job, which: int) -> Iterator[None]:
        """Time what is left of a round of training, and have its job alone fail if it cannot be trained as planned."""
        part = Part(job.domain, "train", self._steps_left(job)[which])
        with self.clock.time(part, str(self._run(job).relative_to(self.folder))):
            try:
                yield
            except (CheckpointError, ConfigError, DatasetError, DomainError) as error:
                raise TrainingError(str(error)) from error

    def _on_policy(self, job: Job, run: Path, dataset: Dataset) -> Dataset:
        """What the bundle of the first round does by itself; it is exported here where that is not done."""
        plan, first, folder = self.plan.config.domains[job.domain], run / FIRST, run / ON_POLICY
        if not (first / "bundle.json").exists():
            self._export(job, run, first, [dataset])
        _check_training(first, self.plan.training_of(job))
        second = plan.again
        _check_layouts(folder, second.seed, second.episodes)
        # Others have the bundle too.
        contestant = self._contestant(replace(job, variant=self.plan.trained_as(job)), first)
        who = OnPolicy(first, contestant.planner, second.disturb, contestant.kind)
        amounts = second.episodes, second.steps, second.seed, self.workers, self.progress
        with self.clock.time(Part(job.domain, "collect planner", 0 if folder.exists() else second.episodes), job.name):
            collect(plan.domain, self._robot(job.domain), folder, *amounts, on_policy=who)
        return Dataset.open(folder).tell_skipped()

    def _explored(self, job: Job) -> list[Dataset]:
        """What one scripted driver tried out, where the plan has a second round train on it."""
        explored = self.plan.config.domains[job.domain].again.explored
        if explored is None:
            return []
        amounts = explored.seed, explored.episodes, explored.steps
        return [self._collected(job.domain, self._explored_folder(job), *amounts, explored.driver)]

    def _export(self, job: Job, run: Path, bundle: Path, datasets: Sequence[Dataset]) -> Path:
        """Export ``run``, calibrated on what it held out of ``datasets``, and on fresh episodes if there are any."""
        plan = self.plan.config.domains[job.domain]
        calibrated_on = [*datasets, *self._fresh(job)]
        settings = {"alpha": plan.alpha, "delta": plan.delta, "progress": self.progress}
        name = f"{job.domain}-{self._run(job).parent.name}-{job.seed}"
        try:
            _, rests_on = export_run(run, calibrated_on, bundle, name, **settings)
        except CalibrationError as error:
            _, rests_on = export_run(run, calibrated_on, bundle, name, threshold=UNCALIBRATED, **settings)
            rests_on = f"threshold {UNCALIBRATED}, not calibrated: {error}"
        print(f"{name}: {rests_on}")
        return bundle

    def _dataset(self, job: Job) -> Dataset:
        """What ``job`` is trained on: the dataset, or its first ``job.size`` episodes by layout."""
        plan = self.plan.config.domains[job.domain]
        dataset = self._collected(job.domain, self._dataset_folder(job), plan.seed, plan.episodes, plan.steps)
        if job.size is None:
            return dataset
        return dataset.subset(sorted(range(len(dataset)), key=lambda i: _layout(dataset, i))[: job.size])

    def _fresh(self, job: Job) -> list[Dataset]:
        """What the threshold of ``job`` rests on beside the trajectories of its dataset that were held out."""
        plan, episodes = self.plan.config.domains[job.domain], self._fresh_episodes(job)
        if not episodes:
            return []
        amounts = plan.seed + plan.episodes, episodes, plan.steps
        return [self._collected(job.domain, self._calibration_folder(job), *amounts)]

    def _collected(
        self, name: str, folder: Path, seed: int, episodes: int, steps: int, driver: str | None = None
    ) -> Dataset:
        """``episodes`` of domain ``name`` in the layouts from ``seed`` on; those that are there are not made again."""
        if folder not in self._datasets:
            plan = self.plan.config.domains[name]
            _check_layouts(folder, seed, episodes)
            robot = self._robot(name)
            with (
                claim(folder.parent, wait=True),
                self.clock.time(Part(name, "collect", 0 if folder.exists() else episodes), folder.name),
            ):
                amounts = episodes, steps, seed, self.workers, self.progress
                collect(plan.domain, robot, folder, *amounts, driver=driver)
            self._datasets[folder] = Dataset.open(folder).tell_skipped()
        return self._datasets[folder]

    def _robot(self, name: str) -> Path:
        """The robot interface of domain ``name``, which is about to be collected in."""
        plan = self.plan.config.domains[name]
        return self.plan.origin / plan.robot if plan.robot else robot_file(load_domain(plan.domain).robot)

    def _dataset_folder(self, job: Job) -> Path:
        return self.folder / job.domain / "dataset"

    def _explored_folder(self, job: Job) -> Path:
        return self.folder / job.domain / "explored"

    def _calibration_folder(self, job: Job) -> Path:
        return self.folder / job.domain / "calibration"

    def _long_folder(self, job: Job) -> Path:
        """Long episodes, for all that predict as far in time as the full model; others have their own."""
        full = self.plan.training[job.domain, FULL]
        skip = self.plan.training.get((job.domain, job.variant), full).model.frame_skip  # what is not trained has none
        name = "long" if skip == full.model.frame_skip else f"long-{episode_steps(skip)}"
        return self.folder / job.domain / name

    def _fresh_episodes(self, job: Job) -> int:
        return self.plan.config.domains[job.domain].calibration if job.size is None else 0


def _evaluating(contestant: Contestant) -> str:
    return f"evaluate {contestant.kind}"


def _steps_done(run: Path) -> int:
    """Optimizer steps that a run folder has behind it."""
    last = 0
    for record in read_metrics(run / METRICS) if (run / METRICS).exists() else ():
        last = record["step"]
    return last


def _check_training(bundle: Path, asked: TrainConfig) -> None:
    """Refuse a bundle that was trained otherwise."""
    file = bundle / "bundle.json"
    made = parse(yaml.safe_load(Bundle.load(bundle).manifest.training.config), TrainConfig, str(file))
    if other := [name for name in TrainConfig.model_fields if getattr(made, name) != getattr(asked, name)]:
        told = "; ".join(f"{name} was {getattr(made, name)!r}, is {getattr(asked, name)!r}" for name in other)
        raise TrainingError(f"{file}: trained with another configuration: {told}; choose another folder")


def _check_layouts(folder: Path, seed: int, episodes: int) -> None:
    """Refuse a dataset with layouts that the plan does not have there: all that are there would be used."""
    if not (folder / "dataset.json").exists():
        return
    dataset = Dataset.open(folder)
    last = seed + episodes - 1
    if other := sorted({_layout(dataset, i) for i in range(len(dataset))} - set(range(seed, last + 1))):
        raise DatasetError(
            f"{folder}: holds {len(other)} episodes of other layouts, {other[0]} to {other[-1]}; the plan has "
            f"{seed} to {last}; choose another folder"
        )


def _layout(dataset: Dataset, index: int) -> int:
    return dataset.trajectories[index].provenance["seed"]
