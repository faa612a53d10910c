"""Collect trajectories in a domain, in parallel processes; a killed collection continues.

The domain's scripted drivers drive, or a bundle does: what a model gets itself into, and no expert ever would, it
learns to get out of only from its own motions (DAgger, Ross et al., 2011), under what an oracle and an expert say of
every state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter, TrajectoryInfo
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.domains.base import Domain, DomainError, load_domain
from tc_mmwm_core.domains.conformance import (
    action_misfits,
    observed_misfits,
    space_misfits,
    success_misfits,
    told_misfits,
)
from tc_mmwm_core.domains.controllers import PLANNER, POLICY, Controller, planner_controller, policy_controller
from tc_mmwm_core.domains.drivers import drawn
from tc_mmwm_core.domains.perturbations import Kind, Perturbations, perturbed
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.planner import Planner, PlannerConfig
from tc_mmwm_core.runtime.screener import Screener
from tc_mmwm_core.utils.workers import SPAWN, start_worker

EPISODES_A_SHARD = 50  # at most: a kill loses what is not yet a shard
SHARDS = 32  # at least, of enough episodes: for every core a part. Not as many as workers, whom the data must not tell

DRAWN = "drawn"  # by the shares that the domain gives its drivers

LOOK = 0.2  # s between two looks at how far the workers are

_stop: Event  # of a worker process, set in the process that waits for it
_driven: Synchronized  # of a worker process, too: episodes that all of them have driven


@dataclass(frozen=True)
class OnPolicy:
    """A bundle that drives in place of the domain's scripted drivers.

    Attributes:
        kind: ``planner``, or ``policy``: the bundle's proposal, unscreened.
        perturbations: of which, or none, each episode draws the one that the driver is disturbed by. What is recorded
            is what there was to be seen and what was done in the end: the world is as it is.
    """

    bundle: Path
    planner: PlannerConfig
    perturbations: tuple[Kind, ...] = ()
    kind: str = PLANNER


def collect(
    domain: str,
    robot: Path,
    output: Path,
    episodes: int,
    steps: int,
    seed: int,
    workers: int,
    progress: bool = True,
    on_policy: OnPolicy | None = None,
    driver: str | None = None,
) -> int:
    """Collect ``episodes`` episodes of at most ``steps`` control steps into the dataset at ``output``.

    Episode ``i`` depends on ``seed + i`` alone, so the data are the same for any number of workers. Episodes that the
    dataset already holds are not collected again. Returns the number collected.

    On an error or Ctrl-C each process ends the episode that it is in and keeps those that it has.

    Args:
        on_policy: drives in place of the domain's scripted drivers.
        driver: the only one of these that drives; None: each episode draws one, see :meth:`Domain.drivers`.

    Raises:
        DatasetError: an episode that the dataset holds is of another domain, driver, length or robot interface, or
            what an episode collected holds cannot be stored; names its seed.
        DomainError: the domain has no such ``driver``, or what it returned does not fit the robot interface, see
            :func:`run_episode`.
        BundleError: the bundle that is to drive cannot be loaded, or is of another robot.
    """
    bundle = Bundle.load(on_policy.bundle) if on_policy else None
    interface = RobotInterface.load(robot)
    if bundle is not None:
        bundle.check(interface)
    world = load_domain(domain)
    if driver is not None:
        world.driver(driver, np.random.default_rng())
    DatasetWriter(output, interface)
    held = Dataset.open(output).trajectories
    have = {info.provenance.get("seed") for info in held}
    asked = range(seed, seed + episodes)
    check_settings(held, asked, world.name, steps, on_policy, driver)
    wanted = [s for s in asked if s not in have]
    size = min(EPISODES_A_SHARD, max(1, -(-len(wanted) // SHARDS)))
    chunks = [wanted[i : i + size] for i in range(0, len(wanted), size)]
    there = episodes - len(wanted)
    bar = tqdm(total=episodes, initial=there, desc="collect", unit="episode", disable=not progress)
    stop, driven = SPAWN.Event(), SPAWN.Value("q", 0)
    with bar, ProcessPoolExecutor(workers, SPAWN, _start_collecting, (stop, driven)) as pool:
        try:
            settings = steps, on_policy, driver
            running = {pool.submit(_collect_shard, domain, robot, output, chunk, *settings) for chunk in chunks}
            while running:
                done, running = wait(running, LOOK, FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.update(there + driven.value - bar.n)
        except BaseException:  # leaving the block would work off the whole queue first
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return len(wanted)


def check_settings(
    held: Sequence[TrajectoryInfo],
    seeds: range,
    domain: str,
    steps: int,
    on_policy: OnPolicy | None = None,
    driver: str | None = None,
) -> None:
    """Refuse to take ``held`` episodes of ``seeds`` for those that would be collected in ``domain`` over ``steps``.

    What an episode does not say (``steps`` and ``planner.*`` of those recorded before they were kept) is taken to be as
    asked.

    Raises:
        DatasetError: names the folder, the episode, what it was collected with and what is asked for.
    """
    # What an episode does not say: that no bundle drove, and that its driver was drawn.
    scripted = dict.fromkeys(("bundle", "perturbations"), "none") | {"drivers": DRAWN}
    who = _who(on_policy, Bundle.load(on_policy.bundle)) if on_policy else scripted | {"drivers": driver or DRAWN}
    asked = {"domain": domain, "steps": steps} | who
    for info in (info for info in held if info.provenance.get("seed") in seeds):
        made = asked | scripted | {name: info.provenance[name] for name in asked if name in info.provenance}
        if other := [f"{name} {made[name]}, asked for is {asked[name]}" for name in asked if made[name] != asked[name]]:
            raise DatasetError(
                f"{info.dataset}: episode {info.provenance['seed']} was collected with {'; with '.join(other)}; choose "
                "another folder, or collect with the settings of this one"
            )


def _start_collecting(stop: Event, driven: Synchronized) -> None:
    """Make this process stop between two episodes once ``stop`` is set; it adds those that it drives to ``driven``."""
    global _stop, _driven
    start_worker()
    _stop, _driven = stop, driven


def _collect_shard(
    domain: str,
    robot: Path,
    output: Path,
    seeds: list[int],
    steps: int,
    on_policy: OnPolicy | None,
    driver: str | None,
) -> None:
    world, interface = load_domain(domain), RobotInterface.load(robot)
    planner = None
    if on_policy is not None:
        planner = Planner(Screener(Bundle.load(on_policy.bundle)), interface, on_policy.planner)
        planner.warm_up()
    environment = world.environment()
    trajectories: list[Trajectory] = []
    try:
        if misfits := space_misfits(environment, interface):
            raise DomainError(f"domain '{world.name}': {'; '.join(misfits)}")
        for seed in seeds:
            if _stop.is_set():
                break
            trajectory = run_episode(world, environment, seed, steps, on_policy, planner, driver, interface)
            if problems := trajectory.problems(interface):
                raise DatasetError(f"episode {seed} of {world.name}: {'; '.join(problems)}")
            trajectories.append(trajectory)
            with _driven.get_lock():
                _driven.value += 1
    finally:
        if trajectories:
            DatasetWriter(output, interface).append(trajectories)
        environment.close()


def run_episode(
    domain: Domain,
    environment: gymnasium.Env,
    seed: int,
    steps: int,
    on_policy: OnPolicy | None = None,
    planner: Planner | None = None,
    driver: str | None = None,
    interface: RobotInterface | None = None,
) -> Trajectory:
    """One episode: scene, instruction, driver, its noise and what disturbs it all follow from ``seed``.

    After the last observation nothing was done, and zeros are recorded as the action of that step. It is a valid step:
    what was seen and judged there is learned from. No prediction is learned, since nothing follows; but a policy that
    imitates takes the zeros for what the driver did.

    Args:
        on_policy: drives, by the ``planner`` made of it, in place of one of the domain's drivers.
        driver: which of these drives; None: it is drawn.
        interface: what is seen, told and done has to fit it; None: it is not looked at.

    Raises:
        DomainError: it does not fit, or is not what :meth:`Domain.environment` promises; names the domain, the seed,
            the step and the field.
    """
    rng = np.random.default_rng([seed, 0xC011EC7])
    recording = world = _Recording(environment, f"domain '{domain.name}', episode {seed}", interface)
    made = {"domain": domain.name, "seed": seed, "steps": steps}
    control: Controller
    if on_policy is None:
        made["driver"] = drawn({driver: 1.0} if driver else domain.drivers(), rng)
        made |= {"drivers": driver} if driver else {}
        drive = domain.driver(made["driver"], rng)
        control = lambda _, info: (drive(environment, info), None)  # noqa: E731
    else:
        kind = rng.choice([None, *on_policy.perturbations])
        if kind is not None:
            world = perturbed(recording, kind, Perturbations(), planner.screener.bundle.sensor_std)
        control = (policy_controller if on_policy.kind == POLICY else planner_controller)(planner)
        made |= {"perturbation": kind} | _who(on_policy, planner.screener.bundle)
    observation, info = world.reset(seed=seed)
    for _ in range(steps):
        observation, _, terminated, truncated, info = world.step(control(observation, info)[0])
        if terminated or truncated:
            break
    return recording.trajectory(made)


class _Recording(gymnasium.Wrapper):
    """Keeps what there was to be seen and what was done in the end, whatever what wraps it shows to a driver.

    Keeps copies: an environment may fill the same arrays anew at every step, and a driver draw into what it is shown.
    With an ``interface``, what does not fit it is refused, as ``episode``.
    """

    def __init__(self, environment: gymnasium.Env, episode: str, interface: RobotInterface | None) -> None:
        super().__init__(environment)
        self.episode, self.interface = episode, interface

    def reset(self, **settings: Any) -> tuple[dict, dict]:
        """See :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(**settings)
        self.seen, self.told, self.done = [], [], []
        self._keep(observation, info)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """See :meth:`gymnasium.Env.step`."""
        if self.interface is not None:
            self._refuse(action_misfits(action, self.interface))
        self.done.append(np.array(action))
        result = self.env.step(action)
        self._keep(result[0], result[-1])
        return result

    def _keep(self, observation: dict, info: dict) -> None:
        if self.interface is not None:
            begun = self.told[0] if self.told else None
            self._refuse(observed_misfits(observation, self.interface) | told_misfits(info, begun))
        if not self.told:
            self.scene = copy.deepcopy(info["scene"])
        self.seen.append({name: np.array(value) for name, value in observation.items()})
        self.told.append(info | {"state": np.array(info["state"]), "scene": self.scene})

    def _refuse(self, misfits: dict[str, str]) -> None:
        if misfits:
            raise DomainError(f"{self.episode}, step {len(self.done)}: {'; '.join(misfits.values())}")

    def trajectory(self, provenance: dict[str, Any]) -> Trajectory:
        """What was recorded since the last reset."""
        if self.interface is not None:
            self._refuse(success_misfits(self.told))
        last = self.told[-1]
        return Trajectory(
            images={name: np.stack([o[f"image.{name}"] for o in self.seen]) for name in _cameras(self.seen[0])},
            sensor=np.stack([o["sensor"] for o in self.seen]),
            action=np.stack([*self.done, np.zeros_like(self.done[-1])]).astype(np.float32),
            valid=np.ones(len(self.seen), bool),
            violation=np.array([info["violation"] for info in self.told], np.int8),
            instruction=last["instruction"],
            success=bool(last["success"]),
            source="simulated",
            provenance=provenance,
            scene=self.scene,
            state=np.stack([info["state"] for info in self.told]),
        )


def _who(on_policy: OnPolicy, bundle: Bundle) -> dict[str, Any]:
    """What an episode that a bundle drove says of that. The policy alone asks nothing of the planner's settings."""
    who = {"driver": on_policy.kind, "bundle": bundle.identity, "perturbations": list(on_policy.perturbations)}
    if on_policy.kind == PLANNER:
        who |= {f"planner.{name}": value for name, value in on_policy.planner.model_dump(mode="json").items()}
    return who


def _cameras(observation: dict) -> Iterator[str]:
    return (key.removeprefix("image.") for key in observation if key.startswith("image."))
