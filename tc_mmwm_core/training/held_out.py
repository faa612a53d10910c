"""Scores of held-out action sequences: what the acceptance threshold is calibrated on (DESIGN: screening)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from tqdm import tqdm

from tc_mmwm_core.data.windows import WindowSampler
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.calibration import CalibrationError
from tc_mmwm_core.training.data import LabelledData, to_the_end
from tc_mmwm_core.training.objective import encode_batch


@dataclass(frozen=True)
class SequenceScores:
    """Imagined sequences of K latent steps, each begun from a state that complies.

    Attributes:
        score: float32 [S], max_k v as the model predicts it.
        violating: bool [S], whether any control step of the sequence broke the instruction.
        trajectory: int64 [S], which held-out trajectory; those of one group are one, see :attr:`TrajectoryInfo.group`.
        instruction: str [S].
        goal: float32 [S], progress of the best place in view where it begins, see :meth:`WorldModel.goal`; NaN where
            nobody knows whether the goal is in the scene.
    """

    score: np.ndarray
    violating: np.ndarray
    trajectory: np.ndarray
    instruction: np.ndarray
    goal: np.ndarray

    @property
    def violations(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the violating sequences and their trajectories: what a threshold is calibrated on."""
        return self.score[self.violating], self.trajectory[self.violating]

    def where(self, chosen: np.ndarray) -> SequenceScores:
        """The sequences where ``chosen`` [S] holds."""
        return SequenceScores(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@torch.no_grad()
def sequence_scores(model: WorldModel, data: LabelledData, stride: int = 2, progress: bool = True) -> SequenceScores:
    """Score the recorded actions from every ``stride``-th latent step of every trajectory under each instruction.

    Raises:
        CalibrationError: no trajectory is long enough for a sequence.
    """
    model.eval()
    skip, horizon = model.config.frame_skip, model.config.horizon
    sampler = WindowSampler(data.datasets, batch=1, length=(1, 1))
    rows: list[SequenceScores] = []
    places = [(d, t) for d, dataset in enumerate(data.datasets) for t in range(len(dataset))]
    owners: dict[str, int] = {}  # of each group
    longest = 0
    for d, t in tqdm(places, desc="calibrate", unit="trajectory", disable=not progress):
        owner = owners.setdefault(data.datasets[d].trajectories[t].group, len(owners))
        unbroken = data.datasets[d][t].unbroken
        longest = max(longest, unbroken.stop - unbroken.start)
        steps = to_the_end(unbroken, skip)
        starts = torch.arange(0, max(0, (steps.stop - steps.start - 1) // skip + 1 - horizon), stride)
        if not len(starts):
            continue
        labels, counted = data.labels[d], data.labels[d].counted(t)
        batch = data.whole(sampler, d, t, counted)
        latents = encode_batch(model, batch, starts)
        several = len(counted)
        windows = batch.actions[0][starts[:, None] + torch.arange(horizon)].expand(several, -1, -1, -1)
        imagined = model.rollout(latents.z[:, starts], windows)  # [M, S, K, D]
        v, _ = model.judge(imagined.flatten(0, 1), latents.context.flatten(0, 1), windows.flatten(0, 1))
        score = v.unflatten(0, (several, len(starts))).amax(-1).numpy()
        goal = model.goal(latents.context).numpy()  # [M, S]
        label, cost = labels.violation[t][counted], labels.cost[t][counted]  # [M, control steps]
        texts = np.array(labels.texts[t])[counted]
        for s, start in enumerate((steps.start + starts * skip).tolist()):
            future = label[:, start + 1 : start + horizon * skip + 1]
            known = (label[:, start] == 0) & (future >= 0).all(1)
            there = np.where(np.isfinite(cost[:, start]), goal[:, s], np.nan)
            broken = (future[known] == 1).any(1)
            of = np.full(known.sum(), owner)
            rows.append(SequenceScores(score[known, s], broken, of, texts[known], there[known]))
    if not rows:
        raise CalibrationError(
            f"none of {len(places)} held-out trajectories is long enough: a sequence takes {horizon * skip + 1} "
            f"valid steps without a gap, the longest has {longest}"
        )
    return SequenceScores(
        **{field.name: np.concatenate([getattr(row, field.name) for row in rows]) for field in fields(SequenceScores)}
    )
