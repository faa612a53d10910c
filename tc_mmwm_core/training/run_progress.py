"""How far the run in a folder has come, and of which stage the weights are that an export would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tc_mmwm_core.config import parse
from tc_mmwm_core.training.checkpoint import BEST, LAST, Position, read_checkpoint
from tc_mmwm_core.training.config import TrainConfig


@dataclass(frozen=True)
class RunProgress:
    """Read off a run's checkpoints.

    Attributes:
        config: of the run.
        last: where ``last.pt`` stands.
        left: optimizer steps left in that stage; None: of an earlier version, which did not keep it.
        best: where ``best.pt`` stands; None: there is none, and ``last.pt`` is what is exported.
        datasets: digests of what it is trained on; empty: of an earlier version.
    """

    config: TrainConfig
    last: Position
    left: int | None
    best: Position | None
    datasets: list[str]

    @classmethod
    def of(cls, run: Path) -> RunProgress:
        """Of the run folder ``run``. CheckpointError: it holds no run, or a damaged one."""
        content = read_checkpoint(run / LAST)
        best = Position(**read_checkpoint(run / BEST)["position"]) if (run / BEST).exists() else None
        config = parse(content["config"], TrainConfig, f"{run / LAST}: config")
        datasets = content["parts"].get("trained_on", {}).get("datasets", [])
        return cls(config, Position(**content["position"]), content.get("left"), best, datasets)

    @property
    def ended(self) -> bool | None:
        """Whether the last stage has; None where an earlier version did not keep it."""
        if self.last.stage < len(self.config.stages) - 1:
            return False
        return None if self.left is None else not self.left

    @property
    def standing(self) -> str:
        """Stage and step in words: "stage full (3 of 4), step 120 of 500"."""
        taken = self.last.stage_step
        total = "" if self.left is None else f" of {taken + self.left}"
        return f"stage {self._named(self.last)}, step {taken}{total}"

    @property
    def exported(self) -> str:
        """The checkpoint that an export takes, in words."""
        if self.best is None:
            return f"{LAST}, the newest weights (averaged)"
        return f"{BEST}, the best validated: stage {self._named(self.best)}, step {self.best.stage_step}"

    @property
    def unfinished(self) -> str | None:
        """That the run has not ended, or that the weights to export are of a stage before its last; None: neither."""
        told = []
        if self.ended is False:
            told.append(f"its training has not ended: {self.standing}")
        if self.best is not None and self.best.stage < self.last.stage:
            told.append(f"its best weights are still those of stage {self._named(self.best)}")
        return "; ".join(told) or None

    def _named(self, position: Position) -> str:
        stages = self.config.stages
        return f"{stages[position.stage].name} ({position.stage + 1} of {len(stages)})"
