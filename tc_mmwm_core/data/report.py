"""What came of a conversion: of a bag or of a LeRobotDataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tc_mmwm_core.data.trajectory import Trajectory


class ConversionError(ValueError):
    """A bag does not hold what the robot interface needs."""


@dataclass
class ConversionReport:
    """What became of one bag, or LeRobotDataset."""

    bag: str  # its path
    output: str
    duration: float = 0.0  # s
    messages: dict[str, int] = field(default_factory=dict)  # by topic of the interface
    trajectories: int = 0
    steps: int = 0
    valid_steps: int = 0
    violating_steps: int = 0
    unjudged_steps: int = 0
    successes: int = 0
    failures: int = 0
    unknown_outcomes: int = 0
    instruction_cuts: int = 0  # where episodes were cut since the robot was told something else than their events say
    length_cuts: int = 0  # where stretches without events were cut since they were longer than was asked for
    broken_successes: int = 0  # episodes that END calls a success despite a violation: counted as failures
    faults: dict[str, int] = field(default_factory=dict)  # steps that are not valid, by what was wrong
    examples: dict[str, str] = field(default_factory=dict)  # the first such reason in full
    notes: list[str] = field(default_factory=list)  # what was salvaged, left out, assumed
    error: str | None = None  # why it could not be converted

    def count(self, what: str, example: str) -> None:
        """One more step that is not valid because of ``what``."""
        self.faults[what] = self.faults.get(what, 0) + 1
        self.examples.setdefault(what, example)

    def account(self, trajectory: Trajectory) -> None:
        """One more trajectory."""
        self.trajectories += 1
        self.steps += len(trajectory)
        self.valid_steps += int(trajectory.valid.sum())
        verdicts = Counter(trajectory.violation.tolist())
        self.violating_steps += verdicts[1]
        self.unjudged_steps += verdicts[-1]
        self.successes += trajectory.success is True
        self.failures += trajectory.success is False
        self.unknown_outcomes += trajectory.success is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(self.__dict__)

    def table(self) -> str:
        """For people."""
        judged = self.steps - self.unjudged_steps
        rows = [
            ("recording", f"{self.bag} ({self.duration:.1f} s)"),
            ("dataset", self.output),
            ("messages", ", ".join(f"{topic} {count}" for topic, count in self.messages.items())),
            ("trajectories", f"{self.trajectories} ({self.steps} steps, {self.valid_steps} valid)"),
            ("outcome", f"{self.successes} success, {self.failures} failure, {self.unknown_outcomes} unknown"),
            ("violations", f"{self.violating_steps} of {judged} judged steps, {self.unjudged_steps} not judged"),
        ]
        lines = [f"{name:<13} {value}" for name, value in rows if value]
        if self.length_cuts:
            lines.append(f"note: {self.length_cuts} cuts since no events say what an episode is (see --longest)")
        if self.broken_successes:
            lines.append(
                f"note: {self.broken_successes} episode(s) that END calls a success hold a violation: counted as "
                "failures (success: goal reached without violation)"
            )
        if self.faults:
            lines.append("steps that are not valid, those between trajectories included:")
            for what, count in sorted(self.faults.items(), key=lambda item: -item[1]):
                lines.append(f"  {count:>6}  {what}, first: {self.examples[what]}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def outcome(trajectory: Trajectory, given: bool | None) -> bool | None:
    """Its success, or where that is not known ``given``: that the goal was reached. A violation is no success."""
    if trajectory.success is not None or given is None:
        return trajectory.success
    return given and not (trajectory.violation == 1).any().item()
