"""One attempt at an instruction in a scene, judged at every control step: what a live simulator keeps count of."""

from __future__ import annotations

import numpy as np

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.navigation import oracle
from tc_mmwm_core.domains.navigation.instructions import Instruction
from tc_mmwm_core.domains.navigation.scene import Scene


class Episode:
    """Counts and verdicts of one episode.

    Attributes:
        scene: the layout.
        instruction: the instruction in force, see :meth:`instruct`.
        steps: control steps judged so far.
        violations: how many of them broke the instruction in force at the time.
        broken: the rules of that instruction that the last judged state breaks, in words.
        reached: whether the last judged state is on its goal.
    """

    def __init__(self, scene: Scene, instruction: Instruction, max_steps: int = 200) -> None:
        """Begin. DomainError: ``scene`` has no pad of the goal's colour."""
        self.scene = scene
        self.max_steps = max_steps
        self.steps = 0
        self.violations = 0
        self.broken: list[str] = []
        self.reached = False
        self._state: np.ndarray | None = None  # the last judged
        self.instruct(instruction)

    def instruct(self, instruction: Instruction) -> None:
        """Judge against ``instruction`` from now on, the last judged state too; that counts as no further step.

        Raises:
            DomainError: the scene has no pad of the goal's colour; nothing is changed.
        """
        if self.scene.pad(instruction.goal) is None:
            present = ", ".join(pad.colour for pad in self.scene.pads)
            raise DomainError(f"there is no {instruction.goal} pad in layout {self.scene.seed}; its pads are {present}")
        self.instruction = instruction
        if self._state is not None:
            self._look(self._state)

    def judge(self, state: np.ndarray) -> None:
        """Take in the state [5] at the end of one control step."""
        self.steps += 1
        self._look(state)
        self.violations += bool(self.broken)

    def _look(self, state: np.ndarray) -> None:
        self._state = state
        self.broken = oracle.broken_rules(state, self.scene, self.instruction)
        self.reached = bool(oracle.reached(state[None], self.scene, self.instruction)[0])

    @property
    def over(self) -> str:
        """Why the episode is over: ``goal``, ``timeout``, or empty while it goes on."""
        if self.reached:
            return "goal"
        return "timeout" if self.steps >= self.max_steps else ""

    @property
    def success(self) -> bool:
        """The goal is reached and no rule was ever broken."""
        return self.reached and self.violations == 0
