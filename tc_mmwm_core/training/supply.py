"""What the data give each stage to learn from, told before hours are spent: how much is drawn, what nobody knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.training.config import StageConfig, TrainConfig
from tc_mmwm_core.training.curriculum import stage_steps
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.labels import Labels

TOO_MANY = 0.05  # of the trajectories left out of a stage: more are warned of

# Terms that need somebody's knowledge: an oracle's, labels or successes, and of what hides the view.
ORACLES = ("referring", "field", "progress", "margin", "place", "keypoints")
TOLD = (*ORACLES, "constraint", "violation", "proposal", "visibility")


@dataclass(frozen=True)
class Supply:
    """What there is to learn from in the datasets that windows are drawn from.

    Attributes:
        config: of the training.
        trajectories: in all, those of datasets without a share, too: an epoch is one window of each.
        longest: int64 [N], longest run of valid control steps of each trajectory.
        steps: control steps in all.
        known: by term of :data:`TOLD`, how many trajectories tell it something.
    """

    config: TrainConfig
    trajectories: int
    longest: np.ndarray
    steps: int
    known: Counter[str]

    @classmethod
    def of(cls, data: LabelledData) -> Supply:
        """Of training data."""
        longest, known, steps = [], Counter(), 0
        for dataset, labels, share in zip(data.datasets, data.labels, data.weights, strict=True):
            if not share:
                continue
            steps += dataset.steps
            for index in range(len(dataset)):
                trajectory = dataset[index]
                longest.append(trajectory.unbroken.stop - trajectory.unbroken.start)
                known.update(_told(labels, index, trajectory.valid))
        if data.config.data.erase:  # what was erased is known to be hidden
            known["visibility"] = len(longest)
        return cls(data.config, data.trajectories, np.array(longest, np.int64), steps, known)

    def drawn(self, stage: StageConfig) -> int:
        """How many trajectories are long enough for the stage's shortest windows."""
        return int((self.longest >= stage.window(self.config.model.frame_skip)[0]).sum())

    def taught(self, stage: StageConfig) -> tuple[list[str], list[str]]:
        """The terms with a weight that the stage has something to learn from, and those that it has nothing for."""
        weights = stage.loss_weights(self.config.weights)
        terms = [term for term in stage.kind.terms if getattr(weights, term)]
        if not self.config.model.keypoints:
            terms = [term for term in terms if term != "keypoints"]
        silent = [term for term in terms if term in TOLD and not self.known[term]]
        return [term for term in terms if term not in silent], silent

    def table(self, first: int = 0) -> str:
        """A line on the data, and one for each stage from ``first`` on."""
        known = self.known
        lines = [
            f"to learn from: {len(self.longest)} trajectories, {self.steps} control steps; {known['progress']} judged "
            f"by an oracle, {known['violation']} with a violation, {known['proposal']} to imitate",
            f"{'stage':16} {'steps':>7} {'trajectories':>14} {'windows':>10}  loss terms with nothing to learn from",
        ]
        for stage in self.config.stages[first:]:
            steps = stage_steps(stage, self.trajectories)
            drawn = f"{self.drawn(stage)} of {len(self.longest)}"
            shortest, longest = stage.window(self.config.model.frame_skip)
            windows = f"{shortest}-{longest}" if shortest < longest else str(shortest)
            silent = ", ".join(self.taught(stage)[1])
            lines.append(f"{stage.name:16} {steps:7} {drawn:>14} {windows:>10}  {silent or '-'}")
        return "\n".join(lines)

    def warnings(self, first: int = 0) -> list[str]:
        """What the stages from ``first`` on lack, a line each."""
        stages = self.config.stages[first:]
        told = [*self._left_out(stages), *self._missing(stages)]
        idle = dict.fromkeys(stage.name for stage in stages if not self.taught(stage)[0])
        rest = dict.fromkeys(stage.name for stage in self.config.stages if stage.name not in idle)
        if idle:
            hint = f"; leave it out: --stages {' '.join(rest)}" if rest else ""
            told.append(f"stage {', '.join(idle)}: none of its loss terms has anything to learn from{hint}")
        return told

    def _left_out(self, stages: Sequence[StageConfig]) -> list[str]:
        """Stages that many trajectories are too short for; those that leave out the same are told of together."""
        count, skip = len(self.longest), self.config.model.frame_skip
        names: dict[tuple[int, int], dict[str, None]] = {}  # by the control steps needed, and how many have fewer
        for stage in stages:
            left = count - self.drawn(stage)
            if left > TOO_MANY * count:
                names.setdefault((stage.window(skip)[0], left), {})[stage.name] = None
        return [
            f"stage {', '.join(of)}: {left} of {count} trajectories ({left / count:.0%}) are never drawn: they have no "
            f"run of {needed} valid control steps (min_length)"
            for (needed, left), of in names.items()
        ]

    def _missing(self, stages: Sequence[StageConfig]) -> list[str]:
        """What nobody tells, though a term of one of the stages would learn from it."""
        silent = {term for stage in stages for term in self.taught(stage)[1]}
        told = []
        if unjudged := [term for term in ORACLES if term in silent]:
            domain = self.config.data.domain
            why = "data.domain is null" if domain is None else f"none that {domain!r} can judge has scene and state"
            nobody = f"no trajectory is judged by an oracle ({why})"
            who = "the oracle does not tell" if self.known["progress"] else nobody
            told.append(f"{who}: these loss terms have nothing to learn from: {', '.join(unjudged)}")
        if {"violation", "constraint"} <= silent:
            told.append(
                "no step is known to comply with its instruction or to violate it: nothing teaches what to reject; "
                "label episodes, or collect some in a domain"
            )
        elif "violation" in silent:
            told.append(
                "no step is known to violate its instruction: nothing teaches what to reject; label violations, or "
                "collect some in a domain"
            )
        elif "constraint" in silent:
            told.append("no step is known to comply with its instruction: nothing teaches what to accept")
        if "proposal" in silent:
            told.append(
                "no trajectory is known to have succeeded, and no expert advises: the policy imitates nothing; if all "
                "recordings are good, convert them with --success yes"
            )
        return told


def _told(labels: Labels, index: int, valid: np.ndarray) -> list[str]:
    """The terms that trajectory ``index`` has something for, in steps that are ``valid`` [S]."""
    violation = labels.violation[index][:, valid]
    place = np.isfinite(labels.place[index][valid]).any()
    advised = np.isfinite(labels.advice[index][:, valid]).all(-1).any()
    known = {
        "referring": np.isfinite(labels.cost[index][:, valid]).any(),
        "progress": np.isfinite(labels.cost[index][:, valid]).any(),
        "margin": np.isfinite(labels.margin[index][:, valid]).any(),
        "field": np.isfinite(labels.field[index]).any(),
        "place": place,
        "keypoints": place or np.isfinite(labels.elsewhere[index][valid]).any(),
        "visibility": np.isfinite(labels.visible[index][valid]).any(),
        "constraint": (violation == 0).any(),
        "violation": (violation == 1).any(),
        "proposal": labels.expert[index].any() or advised,
    }
    return [term for term, told in known.items() if told]
