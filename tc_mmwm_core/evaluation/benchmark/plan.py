"""What the benchmark consists of: domains, variants of the model, suites, and the order of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field

from tc_mmwm_core.config import Config, ConfigError, did_you_mean, load
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.perturbations import Kind
from tc_mmwm_core.domains.policies import is_foreign
from tc_mmwm_core.evaluation.suite import PLANNER, POLICY, Suite
from tc_mmwm_core.resources import resource
from tc_mmwm_core.runtime.planner import PlannerConfig
from tc_mmwm_core.training.ablation import FULL, Switches, ablated
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.curriculum import shortened, stage_steps

CALIBRATING = {"calibration", "alpha", "delta"}  # what of a DomainPlan the threshold alone rests on


class Explored(Config):
    """Episodes of one scripted driver, which tries out what none of the first round did often enough."""

    driver: str = Field(description="one of the domain's scripted drivers")
    episodes: int = Field(ge=1, description="episodes that it drives")
    steps: int = Field(ge=1, description="longest of them, control steps")
    seed: int = Field(210_000, ge=0, description="layout of the first of them")


class SecondRound(Config):
    """What the bundle of the first round gets itself into, to be trained on beside what that was trained on."""

    episodes: int = Field(ge=1, description="episodes that it drives")
    steps: int = Field(ge=1, description="longest of them, control steps")
    seed: int = Field(200_000, ge=0, description="layout of the first of them")
    disturb: tuple[Kind, ...] = Field((), description="perturbations; each episode has one of them, or none")
    times: int = Field(1, ge=1, description="how often they are given to training, each time under other instructions")
    explored: Explored | None = Field(None, description="trained on as well; all variants and seeds share it")
    train: str = Field(description="YAML of the second training, which goes on from the first; relative to this file")

    def trained_on(self, config: TrainConfig) -> int:
        """Episodes that are trained on beside those of the first round, each as often as it is given."""
        explored = kept(self.explored.episodes, config) if self.explored else 0
        return explored + self.times * kept(self.episodes, config)


class DomainPlan(Config):
    """What is collected and trained in one domain. All variants and seeds share the datasets.

    What is trained on some of the episodes (``sizes`` of a round) is calibrated on what it holds out of them.
    """

    domain: str = Field(description="a domain's name, or module:factory")
    episodes: int = Field(ge=1, description="episodes collected")
    steps: int = Field(ge=1, description="longest episode collected, control steps")
    seed: int = Field(100_000, ge=0, description="layout of the first episode collected; evaluation has others")
    calibration: int = Field(
        0, ge=0, description="episodes collected beside those, in the layouts after theirs, for the threshold alone"
    )
    robot: str | None = Field(None, description="robot interface, relative to this file; unset: the domain's, shipped")
    train: str = Field(description="YAML of the full training, relative to this file")
    stage_steps: int | None = Field(
        None, ge=1, description="limits each stage to this many optimizer steps, for a quick look"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="calibration: most of a trajectory's violations accepted ...")
    delta: float = Field(0.05, gt=0, lt=1, description="... except with this probability over the calibration draw")
    planner: PlannerConfig = PlannerConfig()
    again: SecondRound | None = Field(
        None, description="train once more, on a bundle's own motions; not what is trained on some of the episodes"
    )

    def layouts(self) -> dict[str, range]:
        """What is collected in which layouts, by the fields that say so."""
        collected = {"episodes, calibration": range(self.seed, self.seed + self.episodes + self.calibration)}
        if second := self.again:
            collected["again"] = range(second.seed, second.seed + second.episodes)
            if tried := second.explored:
                collected["again.explored"] = range(tried.seed, tried.seed + tried.episodes)
        return collected


class Variant(Config):
    """The full model with something changed, or another driver."""

    switch: str | None = Field(None, description="of config/ablate/default.yaml, e.g. sigreg")
    change: dict[str, Any] = Field({}, description="merged into the training configuration, after the switch")
    driver: str = Field(PLANNER, description="planner, policy, random, a scripted driver, or module:factory")
    screens: str | None = Field(None, description="a scripted driver, or module:factory, that the planner screens")
    threshold: float | None = Field(
        None, allow_inf_nan=False, description="tau in place of the calibrated one; a large one accepts all"
    )

    @property
    def trained(self) -> bool:
        """Whether there is something to train."""
        return self.driver in (PLANNER, POLICY)

    @property
    def calibrated(self) -> bool:
        """Whether it drives by the threshold of its bundle."""
        return self.driver == PLANNER and self.threshold is None


class Round(Config):
    """Variants x domains x sizes x seeds, worked off in that order: seeds turn fastest."""

    variants: tuple[str, ...] = Field(min_length=1)
    domains: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="training seeds")
    suite: str
    sizes: tuple[int, ...] | None = Field(None, description="train on only this many episodes: sample efficiency")


class Variants(Config):
    """``config/benchmark/variants.yaml``."""

    variants: dict[str, Variant] = Field(min_length=1)


class BenchmarkConfig(Config):
    """``config/benchmark/*.yaml``."""

    domains: dict[str, DomainPlan] = Field(min_length=1)
    suites: dict[str, Suite] = Field(min_length=1)
    variants: dict[str, Variant] | str = Field(description="by name, or the file that holds them, relative to this one")
    schedule: tuple[Round, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Job:
    """One variant, trained (where there is something to train) under one seed and put through one suite."""

    domain: str
    variant: str
    seed: int
    suite: str
    size: int | None = None  # episodes trained on; None: all

    @property
    def folder(self) -> Path:
        """Where its results lie, within the benchmark's folder."""
        return Path(self.domain, self.name, f"seed-{self.seed}")

    @property
    def name(self) -> str:
        """The variant, and how much it was trained on where that is not all."""
        return self.variant if self.size is None else f"{self.variant}-{self.size}"

    def __str__(self) -> str:
        return f"{self.domain}, {self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A checked configuration with everything resolved.

    Attributes:
        origin: the folder of the file, which what it names is relative to.
        training: the training configuration of each domain and variant that is trained, seed not yet set.
        again: that of the second round, of the domains that have one.
        jobs: in the order in which they are worked off.
    """

    origin: Path
    config: BenchmarkConfig
    training: dict[tuple[str, str], TrainConfig]
    again: dict[tuple[str, str], TrainConfig]
    jobs: list[Job]

    def training_of(self, job: Job) -> TrainConfig:
        """What ``job`` is trained with, in a first round."""
        domain = self.config.domains[job.domain]
        return sized(self.training[job.domain, job.variant], domain, job.seed, job.size)

    def again_of(self, job: Job) -> TrainConfig | None:
        """What ``job`` is trained with in a second round; None: there is none."""
        if job.size is not None or (job.domain, job.variant) not in self.again:
            return None
        config, domain = self.again[job.domain, job.variant], self.config.domains[job.domain]
        stages = config.stages
        if domain.stage_steps:
            used = kept(domain.episodes, config) + domain.again.trained_on(config)
            stages = tuple(shortened(stage, domain.stage_steps, used) for stage in stages)
        return config.model_copy(update={"seed": job.seed, "stages": stages})

    def settings(self, job: Job) -> str:
        """A digest of all that ``job`` is measured under: its data, training, driver and suite.

        Left out is what does not bear on it (how a threshold is calibrated that it does not drive by), and what has
        its default: a setting that is new does not make old results those of other settings.
        """
        domain, variant = self.config.domains[job.domain], self.config.variants[job.variant]
        idle = {"train"}
        if not variant.calibrated:
            idle |= CALIBRATING
        if not variant.trained:
            idle |= DomainPlan.model_fields.keys() - {"domain", "robot"}
        again = self.again_of(job)
        exclude = dict.fromkeys(idle, True) | {"again": True if again is None else {"train"}}
        parts = [
            domain.model_dump(mode="json", exclude_defaults=True, exclude=exclude),
            variant.model_dump(mode="json", exclude_defaults=True, include={"driver", "screens", "threshold"}),
            self.config.suites[job.suite].model_dump(mode="json", exclude_defaults=True),
            self.training_of(job).model_dump(mode="json", exclude_defaults=True) if variant.trained else None,
        ]
        if again is not None:
            parts.append(again.model_dump(mode="json", exclude_defaults=True))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def data_of(self, job: Job) -> dict[str, Any]:
        """What the bundle of ``job`` is made from, beside how it is trained: fields of its :class:`DomainPlan`."""
        domain, second = self.config.domains[job.domain], self.again_of(job) is not None
        idle = {"train", "stage_steps"}  # what they come to is in the training's configuration
        if job.size is not None:
            idle.add("calibration")
        if not second:
            idle |= {"again", "planner"}
        # What a plan says nothing of is not told: those that were carried out before it could be said go on.
        unsaid = {"explored"} if second and domain.again.explored is None else set()
        exclude = dict.fromkeys(idle, True) | ({"again": {"train"} | unsaid} if second else {})
        made = domain.model_dump(mode="json", exclude=exclude)
        if second:  # a setting that is new, and is not set, changes nothing
            made["planner"] = domain.planner.model_dump(mode="json", exclude_defaults=True)
        return made

    def training_steps(self, job: Job) -> tuple[int, ...]:
        """Optimizer steps of each round of the training of ``job``."""
        config, domain = self.training_of(job), self.config.domains[job.domain]
        used = kept(domain.episodes if job.size is None else job.size, config)
        rounds = [(config, used)]
        if (again := self.again_of(job)) is not None:
            rounds.append((again, used + domain.again.trained_on(again)))
        return tuple(sum(stage_steps(stage, used) for stage in config.stages) for config, used in rounds)

    def trained_as(self, job: Job) -> str:
        """The first variant of the same training: variants that differ only in how they drive share one."""

        def trained(variant: str) -> tuple[TrainConfig, TrainConfig | None]:
            return self.training[job.domain, variant], self.again.get((job.domain, variant))

        first = next(v for d, v in self.training if d == job.domain and trained(v) == trained(job.variant))
        return first if job.size is None else f"{first}-{job.size}"


def read_plan(path: Path) -> Plan:
    """Read ``path`` and resolve every training of it, so that what is wrong is told before anything runs.

    Raises:
        ConfigError: names the file and the field.
        DomainError: a domain whose drivers it names cannot be loaded.
    """
    config = load(path, BenchmarkConfig)
    if isinstance(config.variants, str):
        variants = load(path.parent / config.variants, Variants).variants
        config = config.model_copy(update={"variants": variants})
    for problem in _problems(config):
        raise ConfigError(f"{path}: {problem}")
    file = resource("config", "ablate", "default.yaml")
    switches = load(file, Switches).switches
    training: dict[tuple[str, str], TrainConfig] = {}
    again: dict[tuple[str, str], TrainConfig] = {}
    for domain, plan in config.domains.items():
        base = load(path.parent / plan.train, TrainConfig)
        second = load(path.parent / plan.again.train, TrainConfig) if plan.again else None
        if second and second.model != base.model:
            raise ConfigError(f"{path}: domains.{domain}.again.train: its model is not that of {plan.train}")
        for name, variant in config.variants.items():
            if not variant.trained:
                continue
            origin = f"{path}: variants.{name}"
            if variant.switch is not None and variant.switch not in switches:
                raise ConfigError(f"{origin}: switch {variant.switch!r}; {file} has {', '.join(switches)}")
            change = switches[variant.switch] if variant.switch else {}
            training[domain, name] = ablated(ablated(base, change, origin), variant.change, origin)
            if (variant.switch or variant.change) and training[domain, name] == base:
                raise ConfigError(f"{origin}: changes nothing in {path.parent / plan.train}")
            if second:  # the stages that a change names are those of the world model, which rests by now
                rest = [{key: value for key, value in c.items() if key != "stages"} for c in (change, variant.change)]
                again[domain, name] = ablated(ablated(second, rest[0], origin), rest[1], origin)
    return Plan(path.parent, config, training, again, list(dict.fromkeys(_jobs(config))))


def _problems(config: BenchmarkConfig) -> Iterator[str]:
    for index, entry in enumerate(config.schedule):
        for kind, names, known in (
            ("variants", entry.variants, config.variants),
            ("domains", entry.domains, config.domains),
            ("suites", (entry.suite,), config.suites),
        ):
            if unknown := [name for name in names if name not in known]:
                yield f"schedule.{index}: {', '.join(unknown)} not among the {kind} {', '.join(known)}"
        for name in entry.variants if config.suites[entry.suite].perturbed_episodes else ():
            if is_foreign(driver := config.variants[name].driver):
                yield (
                    f"schedule.{index}: suite {entry.suite} has perturbed_episodes, and variant {name} drives by "
                    f"{driver}, without a bundle that tells how strong sensor noise is; give it a suite without them, "
                    "and use tc-mmwm evaluate --perturbed-episodes"
                )
        least = min(config.domains[name].episodes for name in entry.domains)
        if entry.sizes and max(entry.sizes) >= least:
            yield f"schedule.{index}: size {max(entry.sizes)} is not below the {least} episodes of all"
    yield from _shared_folders(config)
    if config.variants.get(FULL) != Variant():
        yield f"variants: '{FULL}: {{}}' is needed, what all others are compared with"
    for name, domain in config.domains.items():
        suites = dict.fromkeys(entry.suite for entry in config.schedule if name in entry.domains)
        evaluated = {f"suites.{suite}": config.suites[suite].layouts() for suite in suites}
        collected = {f"domains.{name}: {field}": layouts for field, layouts in domain.layouts().items()}
        for (one, layouts), (other, others) in combinations((collected | evaluated).items(), 2):
            shared = range(max(layouts.start, others.start), min(layouts.stop, others.stop))
            if shared and one in collected:  # what is evaluated is so in the same layouts for all
                yield f"{one}: layouts {shared.start} to {shared.stop - 1} are those of {other} as well; change a seed"
        if domain.again and (explored := domain.again.explored):
            known = load_domain(domain.domain).drivers()
            if explored.driver not in known:
                told = f"{', '.join(known)}{did_you_mean(explored.driver, known)}"
                yield f"domains.{name}: again.explored: driver {explored.driver!r}; {domain.domain} has {told}"


def _shared_folders(config: BenchmarkConfig) -> Iterator[str]:
    """What two jobs would write their results to: the second would pass for done."""
    first: dict[Path, Job] = {}
    for job in dict.fromkeys(_jobs(config)):
        other = first.setdefault(job.folder, job)
        if other != job:
            yield (
                f"schedule: variant {other.variant} with suite {other.suite} and variant {job.variant} with suite "
                f"{job.suite} would both write to {job.folder}; give one of them a variant of another name, and the "
                "same settings if it is to share the training"
            )


def selected(plan: Plan, only: Sequence[str] | None, seeds: Sequence[int] | None = None) -> list[Job]:
    """The jobs of the domains, or domain/variants, called ``only``, under ``seeds``; all of them where it is None.

    Raises:
        ConfigError: nothing in the schedule is called so, or has that seed.
    """
    if seeds is not None:
        if unknown := set(seeds) - {job.seed for job in plan.jobs}:
            known = sorted({job.seed for job in plan.jobs})
            raise ConfigError(f"--seeds {' '.join(map(str, sorted(unknown)))}: the schedule has {known}")
        return [job for job in selected(plan, only) if job.seed in seeds]
    if only is None:
        return plan.jobs
    names = {job: (job.domain, f"{job.domain}/{job.variant}", f"{job.domain}/{job.name}") for job in plan.jobs}
    if unknown := [name for name in only if not any(name in known for known in names.values())]:
        known = ", ".join(dict.fromkeys(name for row in names.values() for name in row))
        raise ConfigError(f"--only {' '.join(unknown)}: the schedule has {known}")
    return [job for job in plan.jobs if set(names[job]) & set(only)]


def _jobs(config: BenchmarkConfig) -> Iterator[Job]:
    for entry in config.schedule:
        for variant in entry.variants:
            trained = config.variants[variant].trained
            for domain in entry.domains:
                for size in entry.sizes or (None,):
                    for seed in entry.seeds if trained else entry.seeds[:1]:
                        yield Job(domain, variant, seed, entry.suite, size)


def kept(episodes: int, config: TrainConfig) -> int:
    """Of so many episodes, those that are trained on and not held out."""
    return episodes - max(1, round(config.data.holdout * episodes))


def sized(config: TrainConfig, plan: DomainPlan, seed: int, size: int | None) -> TrainConfig:
    """``config`` under ``seed`` on all the episodes of ``plan``, or on ``size`` of them for as many optimizer steps."""
    used = plan.episodes if size is None else size
    stages = [s.model_copy(update={"epochs": s.epochs * plan.episodes / used}) for s in config.stages]
    if plan.stage_steps:
        stages = [shortened(s, plan.stage_steps, kept(used, config)) for s in stages]
    return config.model_copy(update={"seed": seed, "stages": tuple(stages)})
