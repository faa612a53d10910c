"""What came of a conversion: of a bag or of a LeRobotDataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.robot import RobotInterface


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
    beyond_limits: dict[str, int] = field(default_factory=dict)  # valid steps, by field of the action, where any are
    action_limits: dict[str, list[float]] = field(default_factory=dict)  # of these fields
    faults: dict[str, int] = field(default_factory=dict)  # steps that are not valid, by what was wrong
    examples: dict[str, str] = field(default_factory=dict)  # the first such reason in full
    notes: list[str] = field(default_factory=list)  # what was salvaged, left out, assumed
    error: str | None = None  # why it could not be converted

    def count(self, what: str, example: str) -> None:
        """One more step that is not valid because of ``what``."""
        self.faults[what] = self.faults.get(what, 0) + 1
        self.examples.setdefault(what, example)

    def account(self, trajectory: Trajectory, interface: RobotInterface) -> None:
        """One more trajectory, of a robot with ``interface``."""
        self.trajectories += 1
        self.steps += len(trajectory)
        self.valid_steps += int(trajectory.valid.sum())
        verdicts = Counter(trajectory.violation.tolist())
        self.violating_steps += verdicts[1]
        self.unjudged_steps += verdicts[-1]
        self.successes += trajectory.success is True
        self.failures += trajectory.success is False
        self.unknown_outcomes += trajectory.success is None
        beyond = interface.beyond_limits(trajectory.action[trajectory.valid]).sum(0).tolist()
        for name, steps, limits in zip(interface.action_names, beyond, interface.action_limits.tolist(), strict=True):
            if steps:
                self.beyond_limits[name] = self.beyond_limits.get(name, 0) + steps
                self.action_limits[name] = limits

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
            ("trajectories", f"{self.trajectories}, of {self.steps} steps together, {self.valid_steps} of them valid"),
            ("outcome", f"{self.successes} succeeded, {self.failures} failed, {self.unknown_outcomes} unknown"),
            ("violations", f"in {self.violating_steps} of {judged} judged steps; nobody judged {self.unjudged_steps}"),
        ]
        lines = [f"{name:<13} {value}" for name, value in rows if value]
        if self.length_cuts:
            lines.append(
                f"note: {self.length_cuts} cut(s) for length, where no events say what an episode is (see --longest)"
            )
        if self.broken_successes:
            lines.append(
                f"note: {self.broken_successes} episode(s) that END calls a success hold a violation: counted as "
                "failures (success: goal reached without violation)"
            )
        if self.faults:
            total, within = sum(self.faults.values()), self.steps - self.valid_steps
            lines.append(
                f"{total} steps are not valid, since an input or the command was missing or bad: {within} within "
                f"trajectories, where they stay, {total - within} before, between or after them, left out. What it was:"
            )
            for what, count in sorted(self.faults.items(), key=lambda item: -item[1]):
                lines.append(f"  {count:>6} steps: {what}; the first: {self.examples[what]}")
        lines += [
            f"note: {beyond_in_words(name, count, self.valid_steps, self.action_limits[name])}"
            for name, count in self.beyond_limits.items()
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def beyond_in_words(name: str, steps: int, valid_steps: int, limits: Sequence[float]) -> str:
    """In how many of its valid steps a field of the action is beyond its limits, in its unit."""
    share = f"{steps} of {valid_steps} steps ({100 * steps / valid_steps:.0f} %)"
    return f"action {name}: {share} are beyond its limits ({limits[0]:g} to {limits[1]:g})"


def outcome(trajectory: Trajectory, given: bool | None) -> bool | None:
    """Its success, or where that is not known ``given``: that the goal was reached. A violation is no success."""
    if trajectory.success is not None or given is None:
        return trajectory.success
    return given and not (trajectory.violation == 1).any().item()
