"""Scores of recorded sequences through a bundle's graphs and its runtime: what a threshold's promise is tested on.

The view is remembered from one latent step to the next, as in training and calibration (``sequence_scores``): a promise
is tested under the conditions that it was made for. The live planner remembers at every control step, ``frame_skip``
times as often; what it then makes of a decision is what :mod:`tc_mmwm_core.evaluation.counterfactual` probes.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.screener import Screener
from tc_mmwm_core.training.calibration import CalibrationError
from tc_mmwm_core.training.data import to_the_end
from tc_mmwm_core.training.held_out import SequenceScores
from tc_mmwm_core.training.labels import Labels


def bundle_scores(
    screener: Screener,
    dataset: Dataset,
    labels: Labels,
    stride: int = 4,
    complying_share: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> SequenceScores:
    """Score the recorded actions from every ``stride``-th latent step of every trajectory under each instruction.

    As :func:`tc_mmwm_core.training.held_out.sequence_scores`, which scores a model in training; here each sequence is
    a decision of its own, so only ``complying_share`` of those that comply are scored.

    Raises:
        CalibrationError: no sequence is scored.
    """
    manifest = screener.bundle.manifest
    skip, horizon = manifest.frame_skip, manifest.horizon
    rng = np.random.default_rng(seed)
    rows: list[tuple[np.float32, bool, int, str, np.float32]] = []
    owners: dict[str, int] = {}  # of each group
    for t in tqdm(range(len(dataset)), desc="bundle", unit="trajectory", disable=not progress):
        owner = owners.setdefault(dataset.trajectories[t].group, len(owners))
        trajectory, texts = dataset[t], labels.texts[t]
        told = [(texts[m], labels.violation[t][m], labels.cost[t][m]) for m in labels.counted(t)]
        steps = to_the_end(trajectory.unbroken, skip)
        actions = screener.bundle.interface.normalise_action(trajectory.action)
        memory = None
        end = steps.stop - horizon * skip  # later a sequence would reach beyond
        for latent_step, start in enumerate(range(steps.start, end, skip)):
            images = {name: image[start] for name, image in trajectory.images.items()}
            step = Step(0, images, trajectory.sensor[start], {})
            seen = screener.encode(step, screener.instruct(texts[0]), memory)  # what is remembered depends on no words
            sequence = actions[start : start + horizon * skip].reshape(1, horizon, skip, -1).mean(2)
            for text, label, cost in told if latent_step % stride == 0 else ():
                future = label[start + 1 : start + horizon * skip + 1]
                violating = bool((future == 1).any())
                wanted = violating or rng.random() < complying_share
                if label[start] != 0 or (future < 0).any() or not wanted:
                    continue
                scene = screener.encode(step, screener.instruct(text), memory)
                score = screener.screen(scene, sequence.astype(np.float32)).violation.max()
                there = np.isfinite(cost[start]) and scene.goal is not None
                rows.append((score, violating, owner, text, scene.goal[0] if there else np.float32(np.nan)))
            memory = seen.memory
    if not rows:
        raise CalibrationError(
            f"none of {len(dataset)} trajectories gives a sequence of {horizon * skip + 1} valid steps without a gap "
            "that begins where its instruction is kept, and whose verdict is known"
        )
    score, violating, of, texts, goal = zip(*rows, strict=True)
    return SequenceScores(
        np.array(score, np.float32), np.array(violating), np.array(of), np.array(texts), np.array(goal, np.float32)
    )
