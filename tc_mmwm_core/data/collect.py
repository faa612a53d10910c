"""Collect trajectories in a domain with its scripted drivers, in parallel processes; a killed collection continues."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter, TrajectoryInfo
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.domains.base import Domain, load_domain
from tc_mmwm_core.interface.robot import RobotInterface

EPISODES_A_SHARD = 50

_stop: Event  # of a worker process, set in the process that waits for it


def collect(
    domain: str, robot: Path, output: Path, episodes: int, steps: int, seed: int, workers: int, progress: bool = True
) -> int:
    """Collect ``episodes`` episodes of at most ``steps`` control steps into the dataset at ``output``.

    Episode ``i`` depends on ``seed + i`` alone, so the data are the same for any number of workers. Episodes that the
    dataset already holds are not collected again. Returns the number collected.

    On an error or Ctrl-C each process ends the episode that it is in and keeps those that it has.

    Raises:
        DatasetError: an episode that the dataset holds is of another domain, length or robot interface, or an episode
            collected does not fit the robot interface; names its seed.
    """
    DatasetWriter(output, RobotInterface.load(robot))
    held = Dataset.open(output).trajectories
    have = {info.provenance.get("seed") for info in held}
    asked = range(seed, seed + episodes)
    check_settings(held, asked, load_domain(domain).name, steps)
    wanted = [s for s in asked if s not in have]
    chunks = [wanted[i : i + EPISODES_A_SHARD] for i in range(0, len(wanted), EPISODES_A_SHARD)]
    context = multiprocessing.get_context("spawn")  # EGL contexts do not survive a fork
    bar = tqdm(total=episodes, initial=episodes - len(wanted), desc="collect", unit="episode", disable=not progress)
    stop = context.Event()
    with bar, ProcessPoolExecutor(workers, context, _start_worker, (stop,)) as pool:
        try:
            running = [pool.submit(_collect_shard, domain, robot, output, chunk, steps) for chunk in chunks]
            for done in as_completed(running):
                bar.update(done.result())
        except BaseException:  # leaving the block would work off the whole queue first
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return len(wanted)


def check_settings(held: Sequence[TrajectoryInfo], seeds: range, domain: str, steps: int) -> None:
    """Refuse to take ``held`` episodes of ``seeds`` for those that would be collected in ``domain`` over ``steps``.

    What an episode does not say (``steps`` of those recorded before it was kept) is taken to be as asked.

    Raises:
        DatasetError: names the folder, the episode, what it was collected with and what is asked for.
    """
    asked = {"domain": domain, "steps": steps}
    for info in (info for info in held if info.provenance.get("seed") in seeds):
        made = asked | {name: info.provenance[name] for name in asked if name in info.provenance}
        if other := [f"{name} {made[name]}, asked for is {asked[name]}" for name in asked if made[name] != asked[name]]:
            raise DatasetError(
                f"{info.dataset}: episode {info.provenance['seed']} was collected with {'; with '.join(other)}; choose "
                "another folder, or collect with the settings of this one"
            )


def _start_worker(stop: Event) -> None:
    """Make this process stop between two episodes once ``stop`` is set, and end with the one that started it."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the first one decides
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _collect_shard(domain: str, robot: Path, output: Path, seeds: list[int], steps: int) -> int:
    world, interface = load_domain(domain), RobotInterface.load(robot)
    environment = world.environment()
    trajectories: list[Trajectory] = []
    try:
        for seed in seeds:
            if _stop.is_set():
                break
            trajectory = run_episode(world, environment, seed, steps)
            if problems := trajectory.problems(interface):
                raise DatasetError(f"episode {seed} of {world.name}: {'; '.join(problems)}")
            trajectories.append(trajectory)
    finally:
        if trajectories:
            DatasetWriter(output, interface).append(trajectories)
        environment.close()
    return len(trajectories)


def run_episode(domain: Domain, environment, seed: int, steps: int) -> Trajectory:
    """One episode: scene, instruction, driver and its noise all follow from ``seed``.

    After the last observation nothing was done. The action of that step is recorded as zeros, whatever the robot
    interface says is safe, and the step is valid: its image and state are learned from. No prediction is, since nothing
    follows it; but a policy that imitates takes the zeros for what was done there.
    """
    rng = np.random.default_rng([seed, 0xC011EC7])
    kinds, shares = zip(*domain.drivers(), strict=True)
    kind = str(rng.choice(kinds, p=np.array(shares) / sum(shares)))
    drive = domain.driver(kind, rng)
    observation, info = environment.reset(seed=seed)
    instruction, scene = info["instruction"], info["scene"]
    records: list[tuple] = []
    for _ in range(steps):
        action = drive(environment, info)
        records.append((observation, action, info["violation"], info["state"]))
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            break
    records.append((observation, np.zeros_like(action), info["violation"], info["state"]))
    observations, actions, violations, states = zip(*records, strict=True)
    return Trajectory(
        images={name: np.stack([o[f"image.{name}"] for o in observations]) for name in _cameras(observation)},
        sensor=np.stack([o["sensor"] for o in observations]),
        action=np.stack(actions).astype(np.float32),
        valid=np.ones(len(records), bool),
        violation=np.array(violations, np.int8),
        instruction=instruction,
        success=bool(info["success"]),
        source="simulated",
        provenance={"domain": domain.name, "driver": kind, "seed": seed, "steps": steps},
        scene=scene,
        state=np.stack(states),
    )


def _cameras(observation: dict) -> Iterator[str]:
    return (key.removeprefix("image.") for key in observation if key.startswith("image."))
