"""Whether actions are interventions: one state, put back bit for bit, and what came of each of several actions.

A dataset of alternatives is collected once, in the format of any other: each trajectory is one alternative, and those
of one state share everything up to the action. Any model's predictions can then be compared with them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.data.windows import WindowSampler
from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.evaluation.counterfactual import drawn_candidates, drawn_state
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.objective import encode_batch
from tc_mmwm_core.training.validation import area_under_curve


def collect_alternatives(
    domain: Domain,
    robot: Path,
    output: Path,
    states: int,
    alternatives: int,
    horizon: int,
    frame_skip: int,
    seed: int,
    progress: bool = True,
) -> None:
    """Add to the dataset at ``output`` what came of ``alternatives`` action sequences at each of ``states`` states.

    State ``i`` is the :func:`drawn_state` of ``seed + i``; where its episode had ended there is none. Those that are
    there are not made again. An alternative is one of :func:`drawn_candidates` over ``horizon`` latent steps; its
    trajectory has one latent step more, for the last observation.
    """
    interface = RobotInterface.load(robot)
    writer = DatasetWriter(output, interface)
    have = {info.provenance["seed"] for info in Dataset.open(output).trajectories}
    environment = domain.environment()
    try:
        for which in tqdm(range(seed, seed + states), desc="alternatives", unit="state", disable=not progress):
            if which not in have:
                found = _alternatives(domain, environment, interface, which, (alternatives, horizon), frame_skip)
                if found:
                    writer.append(found)
    finally:
        environment.close()


@torch.no_grad()
def foretold(model: WorldModel, data: LabelledData) -> dict[str, float]:
    """What ``model`` predicts of alternatives, against what came of them K latent steps later; means over states.

    ``outcome_rank``: Spearman's correlation of the predicted progress and minus the cost to go that came.
    ``violation_auroc``: of the worst predicted violation, over all alternatives that began by complying.
    ``latent_match``: how often, of the true latents of all alternatives, the nearest to an imagined one is its own;
    ``latent_match_chance``. ``latent_distance_rank``: Spearman's correlation of the distances between imagined latents
    and between true ones. ``latent_spread``: mean distance between imagined latents over that between true ones.
    ``latent_error``: squared error of the imagined latents over that of copying the first.
    """
    model.eval()
    skip, horizon = model.config.frame_skip, model.config.horizon
    sampler = WindowSampler(data.datasets, batch=1, length=(1, 1))
    rows: defaultdict[str, list[float]] = defaultdict(list)
    scores, broken = [], []
    for places in _by_state(data):
        dataset, trajectory = np.array(places, np.int64).T
        windows = sampler.gather(dataset, trajectory, np.zeros(len(places), np.int64), (horizon + 1) * skip)
        batch = data.assemble(windows, np.zeros((len(places), 1), np.int64))
        latents = encode_batch(model, batch, torch.arange(1))
        actions = batch.actions[:, :horizon]
        imagined = model.rollout(latents.z[:, 0], actions)  # [N, K, D]
        v, p = model.judge(imagined, latents.context[:, 0], actions)
        start, there, came = (x.double().numpy() for x in (latents.z[:, 0], imagined[:, -1], latents.z[:, horizon]))
        outcome = -batch.cost[:, 0, horizon].numpy()
        if np.ptp(outcome) > 0 and p[:, -1].unique().numel() > 1:
            rows["outcome_rank"].append(spearmanr(p[:, -1].numpy(), outcome).statistic)
        margins = np.stack([data.labels[d].margin[t][0] for d, t in places])
        complied = margins[:, 0] <= 0
        scores.append(v.amax(1).numpy()[complied])
        broken.append((margins[complied, 1 : horizon * skip + 1] > 0).any(1))
        distance = np.linalg.norm(there[:, None] - came[None], axis=-1)  # imagined i to true j
        rows["latent_match"].append(float((distance.argmin(1) == np.arange(len(places))).mean()))
        rows["latent_match_chance"].append(1 / len(places))
        apart, truly = pdist(there), pdist(came)
        if np.ptp(apart) > 0 and np.ptp(truly) > 0:
            rows["latent_distance_rank"].append(spearmanr(apart, truly).statistic)
        rows["apart"].append(apart.mean())
        rows["truly"].append(truly.mean())
        rows["error"].append(np.square(there - came).sum())
        rows["copy"].append(np.square(start - came).sum())
    sums = {name: float(np.sum(rows.pop(name))) for name in ("apart", "truly", "error", "copy")}
    measures = {name: float(np.mean(values)) for name, values in rows.items()}
    measures["latent_spread"] = sums["apart"] / max(sums["truly"], 1e-12)
    measures["latent_error"] = sums["error"] / max(sums["copy"], 1e-12)
    measures["violation_auroc"] = area_under_curve(np.concatenate(scores), np.concatenate(broken))
    return measures


def _alternatives(
    domain: Domain,
    environment: Any,
    interface: RobotInterface,
    seed: int,
    shape: tuple[int, int],
    frame_skip: int,
) -> list[Trajectory]:
    rng = np.random.default_rng([seed, 0xA17])
    drawn = drawn_state(domain, environment, seed, rng)
    if drawn is None:
        return []
    [*_, observation], info = drawn
    saved = environment.unwrapped.save()
    normalised = drawn_candidates(rng, (*shape, interface.action_size))
    actions = interface.denormalise_action(np.concatenate([normalised, normalised[:, -1:]], 1)).astype(np.float32)
    found = []
    for which, sequence in enumerate(np.repeat(actions, frame_skip, axis=1)):
        environment.unwrapped.restore(saved)
        records, now, told = [], observation, info
        for action in sequence:
            records.append((now, told["violation"], told["state"]))
            now, *_, told = environment.step(action)
        observations, violations, truths = zip(*records, strict=True)
        cameras = [key for key in observation if key.startswith("image.")]
        found.append(
            Trajectory(
                images={key.removeprefix("image."): np.stack([o[key] for o in observations]) for key in cameras},
                sensor=np.stack([o["sensor"] for o in observations]),
                action=sequence,
                valid=np.ones(len(sequence), bool),
                violation=np.array(violations, np.int8),
                instruction=info["instruction"],
                success=None,
                source="simulated",
                provenance={"domain": domain.name, "driver": "alternative", "seed": seed, "alternative": which},
                scene=info["scene"],
                state=np.stack(truths),
            )
        )
    return found


def _by_state(data: LabelledData) -> list[list[tuple[int, int]]]:
    """Dataset and trajectory of the alternatives of each state."""
    found: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)
    for d, dataset in enumerate(data.datasets):
        for t, info in enumerate(dataset.trajectories):
            found[d, info.provenance["seed"]].append((d, t))
    return list(found.values())
