"""How far ahead a bundle predicts: open-loop error at k = 1..50, on long episodes in fresh layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.evaluation.open_loop import OpenLoop, open_loop
from tc_mmwm_core.evaluation.suite import PLANNER, Contestant, Suite
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.weights import load_bundle
from tc_mmwm_core.utils.claim import claim

STEPS = 50  # latent steps predicted
FEWEST = 10  # held-out episodes that must be long enough for a k to be measured


def predicted(
    contestant: Contestant, suite: Suite, folder: Path, workers: int, progress: bool = True
) -> OpenLoop | None:
    """:func:`long_horizon` of the bundle of ``contestant`` on the long episodes of ``suite``, kept in ``folder``.

    None where nothing is predicted, or nothing asked for. Several processes may share ``folder``.
    """
    if contestant.kind != PLANNER or not suite.open_loop:
        return None
    with claim(folder.parent, wait=True):
        layouts = suite.open_loop, suite.seed
        dataset = collect_long(contestant.domain, contestant.bundle, folder, *layouts, workers, progress)
    return long_horizon(contestant.bundle, contestant.domain, dataset, progress)


def episode_steps(frame_skip: int) -> int:
    """Control steps of an episode that :data:`STEPS` latent steps are predicted in."""
    return (STEPS + 1) * frame_skip


def collect_long(
    domain: str, bundle: Path, folder: Path, episodes: int, seed: int, workers: int, progress: bool = True
) -> Dataset:
    """Episodes of the domain's scripted drivers in the layouts from ``seed`` on, where ``folder`` lacks them.

    They are as long as the model of ``bundle`` needs, and of its robot interface.
    """
    steps = episode_steps(Bundle.load(bundle).manifest.frame_skip)
    collect(domain, bundle / "robot.yaml", folder, episodes, steps, seed, workers, progress)
    dataset = Dataset.open(folder).tell_skipped()
    layouts = [info.provenance["seed"] for info in dataset.trajectories]
    return dataset.subset([i for i in np.argsort(layouts) if seed <= layouts[i] < seed + episodes])


def long_horizon(bundle: Path, domain: str, dataset: Dataset, progress: bool = True) -> OpenLoop | None:
    """Errors of a bundle's model on every other episode of ``dataset``; what it is compared with is fitted to the rest.

    Each k on every window that reaches it, as far ahead as :data:`FEWEST` episodes do (all, where there are fewer), at
    most :data:`STEPS`; None: no step.
    """
    config, model = load_bundle(bundle)
    # Only the recorded instruction is needed.
    config = config.model_copy(update={"data": config.data.model_copy(update={"instructions": 1})})
    halves = [dataset.subset(range(first, len(dataset), 2)) for first in (0, 1)]
    held_out = sorted((info.length for info in halves[1].trajectories), reverse=True)
    reach = held_out[min(FEWEST, len(held_out)) - 1] // config.model.frame_skip - 1 if held_out else 0
    if reach < 1:
        return None
    fitted, measured = (LabelledData([half], config, load_domain(domain), progress) for half in halves)
    return open_loop(model, fitted, measured, min(STEPS, reach))


def curve(errors: OpenLoop) -> dict[str, Any]:
    """``errors`` for JSON and figure; ``latent``: k = 1, 2, ... by predictor, as share of the latents' variance.

    ``windows``: how many each k was measured on.
    """
    return {
        "windows": errors.windows.tolist(),
        "latent": {name: values.tolist() for name, values in errors.latent.items() if name != "encoder"},
        "state": errors.columns,
        "state_rmse": {name: values.tolist() for name, values in errors.state.items()},
    }
