"""What a driver is put through: fresh layouts, factors of variation, perturbations, and probes of its predictions.

Every episode and probe is written down as it ends, so that an evaluation killed at any moment goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from pydantic import Field
from tqdm import tqdm

from tc_mmwm_core.config import Config, did_you_mean
from tc_mmwm_core.domains import controllers, perturbations
from tc_mmwm_core.domains.base import Domain, load_domain
from tc_mmwm_core.domains.controllers import PLANNER, POLICY, RANDOM, Controller
from tc_mmwm_core.domains.perturbations import Perturbations
from tc_mmwm_core.domains.policies import Proposals, find_policy, is_foreign, load_policy, proposals
from tc_mmwm_core.evaluation import closed_loop, counterfactual
from tc_mmwm_core.evaluation.closed_loop import Episode
from tc_mmwm_core.evaluation.counterfactual import Truth
from tc_mmwm_core.evaluation.journal import Journal
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.planner import Planner, PlannerConfig
from tc_mmwm_core.runtime.screener import Screener
from tc_mmwm_core.utils.workers import SPAWN, start_worker

HOME = "in_distribution"
PROBES = "probes"
RECORDS = 1  # the version of what is written down of an episode or probe


class EvaluationError(ValueError):
    """A driver, factor or record that an evaluation cannot go on with."""


class Suite(Config):
    """How much of what."""

    seed: int = Field(900_000, ge=0, description="seed of the first layout; the same layouts for every driver")
    episodes: int = Field(50, ge=1, description="episodes in distribution")
    factors: tuple[str, ...] | None = Field(None, description="factors taken beyond training; unset: all of the domain")
    factor_episodes: int = Field(0, ge=0, description="episodes under each factor; 0: none")
    perturbed_episodes: int = Field(0, ge=0, description="episodes under each perturbation; 0: none")
    perturbations: Perturbations = Perturbations()
    probes: int = Field(100, ge=0, description="states for counterfactual and language truth; 0: none")
    open_loop: int = Field(0, ge=0, description="long episodes for the error of prediction at k = 1..50; 0: none")
    candidates: int = Field(48, ge=2, description="action sequences replayed from each of these states")

    def layouts(self) -> range:
        """All layouts that something is driven or probed in."""
        most = max(self.episodes, self.factor_episodes, self.perturbed_episodes, self.probes, self.open_loop)
        return range(self.seed, self.seed + most)


@dataclass(frozen=True)
class Contestant:
    """Who drives in which domain.

    ``kind``: ``planner``, ``policy`` (the bundle's proposal, unscreened), ``random``, one of the domain's drivers, or
    a policy from elsewhere as ``module:factory``.
    ``bundle``: what drives; of a policy from elsewhere, what tells how far readings spread, for sensor noise.
    ``screens``: one of the last two, whose intentions the planner screens as another policy's candidates.
    """

    domain: str
    kind: str = PLANNER
    bundle: Path | None = None
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    screens: str | None = None

    @property
    def learned(self) -> bool:
        """Whether it drives with a bundle."""
        return self.kind in (PLANNER, POLICY)

    @property
    def perceives(self) -> bool:
        """Whether it drives by what it perceives, with a bundle or as a policy from elsewhere."""
        return self.learned or is_foreign(self.kind)


@dataclass(frozen=True)
class Condition:
    """One setting that episodes are driven in."""

    name: str
    episodes: int
    factors: tuple[str, ...] = ()
    perturbation: perturbations.Kind | None = None


Job = tuple[Condition | None, int]  # under what (None: a probe), in the layout of which seed


@dataclass
class Records:
    """What came of it all."""

    threshold: float | None = None  # τ in use
    episodes: dict[str, list[Episode]] = field(default_factory=dict)  # by condition, ordered by seed
    truths: list[Truth] = field(default_factory=list)
    goal_threshold: float | None = None  # the bundle's


def conditions(suite: Suite, domain: Domain, contestant: Contestant) -> list[Condition]:
    """In distribution, then each factor alone, then (what perceives nothing is not disturbed) each perturbation.

    Raises:
        EvaluationError: the domain has no factor of that name; or nothing tells how strong sensor noise is.
    """
    factors = domain.factors if suite.factors is None else suite.factors
    if unknown := sorted(set(factors) - set(domain.factors)):
        raise EvaluationError(f"factor {', '.join(unknown)}: {domain.name} has {', '.join(domain.factors)}")
    found = [Condition(HOME, suite.episodes)]
    if suite.factor_episodes:
        found += [Condition(factor, suite.factor_episodes, (factor,)) for factor in factors]
    if suite.perturbed_episodes and contestant.perceives:
        if contestant.bundle is None:
            raise EvaluationError(
                "perturbed_episodes: sensor noise is in standard deviations of each reading in training, and driver "
                f"{contestant.kind!r} comes without a bundle of {domain.name}, which tells them: give one"
            )
        found += [Condition(kind, suite.perturbed_episodes, perturbation=kind) for kind in perturbations.KINDS]
    return found


def jobs(contestant: Contestant, suite: Suite) -> list[Job]:
    """Every episode and probe, in the order in which they are worked off.

    Raises:
        DomainError: no such domain.
        EvaluationError: it has no such driver or factor.
        PolicyError: there is no such policy as module:factory.
    """
    domain = load_domain(contestant.domain)
    drivers = tuple(domain.drivers())
    _check_driver(contestant.kind, (PLANNER, POLICY, RANDOM, *drivers), domain)
    if contestant.screens is not None:
        _check_driver(contestant.screens, drivers, domain)
        if contestant.kind != PLANNER:
            raise EvaluationError(f"driver {contestant.kind!r} screens nobody, {PLANNER} does")
    found: list[Job] = [(c, suite.seed + i) for c in conditions(suite, domain, contestant) for i in range(c.episodes)]
    if contestant.kind == PLANNER:
        found += [(None, suite.seed + i) for i in range(suite.probes)]
    return found


def _check_driver(name: str, known: Sequence[str], domain: Domain) -> None:
    if is_foreign(name):
        find_policy(name)
    elif name not in known:
        told = f"{domain.name} has {', '.join(known)}{did_you_mean(name, known)}"
        raise EvaluationError(f"driver {name!r}: {told}; or a policy of yours as module:factory")


class Bench:
    """One process's environment and driver; both are made once and drive many episodes."""

    def __init__(self, contestant: Contestant, suite: Suite) -> None:
        self.contestant, self.suite = contestant, suite
        self.domain = load_domain(contestant.domain)
        self.bundle = _bundle(contestant, suite)
        self.planner: Planner | None = None
        if contestant.learned:
            interface = RobotInterface.load(self.bundle.path / "robot.yaml")
            self.planner = Planner(Screener(self.bundle), interface, contestant.planner)
            self.planner.warm_up()
        name = contestant.screens or contestant.kind
        self.foreign = load_policy(name) if is_foreign(name) else None
        self.environment = self.domain.environment()
        foreseen = contestant.screens is not None and self.foreign is None
        self.ahead = self.domain.environment(render=False) if foreseen else None

    def close(self) -> None:
        """Free the environments."""
        self.environment.close()
        if self.ahead is not None:
            self.ahead.close()

    def episode(self, condition: Condition, seed: int) -> Episode:
        """Drive in the layout of ``seed``."""
        environment = self._environment(condition)
        options = {"factors": condition.factors}
        if self.ahead is not None:
            self.ahead.reset(seed=seed, options=options)
        return closed_loop.run_episode(self.domain, environment, self._controller(environment, seed), seed, options)

    def probe(self, seed: int) -> Truth | None:
        """See :func:`counterfactual.probe`."""
        screener = self.planner.screener
        return counterfactual.probe(self.domain, self.environment, screener, seed, self.suite.candidates)

    def _environment(self, condition: Condition) -> gymnasium.Env:
        if condition.perturbation is None:
            return self.environment
        strengths = self.suite.perturbations
        return perturbations.perturbed(self.environment, condition.perturbation, strengths, self.bundle.sensor_std)

    def _controller(self, environment: gymnasium.Env, seed: int) -> Controller:
        match self.contestant.kind:
            case "planner":
                return controllers.planner_controller(self.planner, self._screened(environment, seed))
            case "policy":
                return controllers.policy_controller(self.planner)
            case "random":
                return controllers.random_controller(environment, seed)
        if self.foreign is not None:
            wanted = proposals(self.foreign, self.contestant.kind, environment.action_space.shape[0])
            return controllers.unscreened_controller(wanted)
        return controllers.driver_controller(self.domain, environment, self.contestant.kind, seed)

    def _screened(self, environment: gymnasium.Env, seed: int) -> Proposals | None:
        """What the planner screens beside its own candidates."""
        if self.contestant.screens is None:
            return None
        manifest = self.bundle.manifest
        if self.foreign is not None:
            actions = self.planner.interface.action_size
            return proposals(self.foreign, self.contestant.screens, actions, manifest.horizon)
        drive = self.domain.driver(self.contestant.screens, np.random.default_rng(seed))
        return controllers.intention(drive, environment, self.ahead, manifest.horizon, manifest.frame_skip)


def evaluate(
    contestant: Contestant, suite: Suite, log: Path | None = None, workers: int = 1, progress: bool = True
) -> Records:
    """Put ``contestant`` through ``suite``; the result does not depend on how many processes (``workers``) do it.

    Args:
        log: JSON lines of what is done; what it holds already is not done again. More episodes than last time, or
            other factors, go on with it; another driver or other layouts do not.

    Raises:
        EvaluationError: no such driver or factor.
        JournalError: ``log`` is of something else.
    """
    wanted = jobs(contestant, suite)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(log, _identity(contestant, suite)))
        left = _left(wanted, journal.lines)
        bar = tqdm(total=len(wanted), initial=len(wanted) - len(left), unit="episode", disable=not progress)
        stack.enter_context(bar)
        for (condition, seed), result in zip(left, _carry_out(contestant, suite, left, workers), strict=True):
            journal.write(_key(condition, seed), result)
            bar.set_description(condition.name if condition else PROBES)
            bar.update()
    return _records(contestant, [journal.lines[_key(*job)] for job in wanted], [job[0] for job in wanted])


def remaining(contestant: Contestant, suite: Suite, log: Path) -> list[Job]:
    """What :func:`evaluate` would still have to do; raises as it does. Another process may be at it meanwhile."""
    if not log.exists():
        return jobs(contestant, suite)  # there may be no bundle so far
    return _left(jobs(contestant, suite), Journal.read(log, _identity(contestant, suite)))


def _left(wanted: Sequence[Job], done: Mapping[str, Any]) -> list[Job]:
    return [job for job in wanted if _key(*job) not in done]


def _carry_out(
    contestant: Contestant, suite: Suite, jobs: Sequence[Job], workers: int
) -> Iterator[dict[str, Any] | None]:
    """Results of ``jobs`` in their order, in this process or in several."""
    if not jobs:
        return
    if workers <= 1:
        bench = Bench(contestant, suite)
        try:
            for job in jobs:
                yield _do(bench, job)
        finally:
            bench.close()
        return
    with ProcessPoolExecutor(workers, SPAWN, start_worker) as pool:
        yield from pool.map(partial(_work, contestant, suite), jobs)


_bench: Bench | None = None  # of a worker process


def _work(contestant: Contestant, suite: Suite, job: Job) -> dict[str, Any] | None:
    """:func:`_do` in a worker process. The first job makes the bench: an error there comes back as that of the job."""
    global _bench
    _bench = _bench or Bench(contestant, suite)
    return _do(_bench, job)


def _do(bench: Bench, job: Job) -> dict[str, Any] | None:
    condition, seed = job
    if condition is not None:
        return asdict(bench.episode(condition, seed))
    truth = bench.probe(seed)
    if truth is None:
        return None
    return {
        "seed": seed,
        "margins": truth.margins,
        "rules": truth.rules,
        "foretold": [row.tolist() for row in truth.foretold],
        "reached": [row.tolist() for row in truth.reached],
        "progress": truth.progress.tolist(),
        "outcome": truth.outcome.tolist(),
        "start": truth.start,
        "goal_there": truth.goal_there,
        "goal_absent": truth.goal_absent,
    }


def _bundle(contestant: Contestant, suite: Suite) -> Bundle | None:
    """What drives, or tells how strong sensor noise is; None: neither is asked for."""
    disturbed = suite.perturbed_episodes and contestant.perceives
    return Bundle.load(contestant.bundle) if contestant.learned or disturbed else None


def _identity(contestant: Contestant, suite: Suite) -> dict[str, Any]:
    """What must be the same for two evaluations to be one."""
    bundle = _bundle(contestant, suite)
    return {
        "records": RECORDS,
        "domain": contestant.domain,
        "driver": contestant.kind,
        "screens": contestant.screens,
        "bundle": bundle and bundle.identity,
        "planner": contestant.planner.model_dump(mode="json", exclude_defaults=True) if contestant.learned else None,
        **suite.model_dump(mode="json", include={"seed", "candidates", "perturbations"}),
    }


def _key(condition: Condition | None, seed: int) -> str:
    return f"{condition.name if condition else PROBES}/{seed}"


def _records(
    contestant: Contestant, results: Sequence[dict[str, Any] | None], whats: Sequence[Condition | None]
) -> Records:
    records = Records()
    if contestant.learned:
        manifest = Bundle.load(contestant.bundle).manifest
        records.goal_threshold = manifest.goal_threshold
        records.threshold = manifest.threshold if contestant.planner.threshold is None else contestant.planner.threshold
    for condition, result in zip(whats, results, strict=True):
        if condition is not None:
            records.episodes.setdefault(condition.name, []).append(Episode(**result))
        elif result is not None:
            foretold = [np.array(row, np.float32) for row in result["foretold"]]
            reached = [np.array(row) for row in result["reached"]]
            progress, outcome = np.array(result["progress"]), np.array(result["outcome"])
            told = {name: result[name] for name in ("seed", "margins", "rules", "start")}
            told |= {name: result.get(name) for name in ("goal_there", "goal_absent")}  # asked since they can be told
            records.truths.append(Truth(**told, foretold=foretold, reached=reached, progress=progress, outcome=outcome))
    return records
