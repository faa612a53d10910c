"""The manipulation table as a Gymnasium environment: bring hand or puck to the named mark and keep the named rules."""

from __future__ import annotations

import numpy as np

from tc_mmwm_core.domains.environment import InstructedEnv
from tc_mmwm_core.domains.manipulation import instructions, oracle, scene
from tc_mmwm_core.domains.manipulation.simulator import CONTROL_PERIOD, IMAGE, Reading, Simulator

ACTION_LOW = np.array([-0.3, -0.3, -0.3, -1.0], np.float32)  # m/s and grip: as config/robots/manipulation.yaml
ACTION_HIGH = np.array([0.3, 0.3, 0.3, 1.0], np.float32)
TARGET_HEIGHT = {"reach": 0.10, "push": 0.02, "place": 0.06}  # m, where Meta-World's own policies are sent


class ManipulationEnv(InstructedEnv):
    """See :class:`InstructedEnv`. Costs are in decimetres."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD)}  # noqa: RUF012
    scenes, instructions, oracle = scene, instructions, oracle

    def __init__(self, render: bool = True, max_steps: int = 160) -> None:
        super().__init__(Simulator(render), ("overhead", "wrist"), IMAGE, 8, (ACTION_LOW, ACTION_HIGH), max_steps)

    def _begin(self) -> Reading:
        mark = oracle.goal(self.scene, self.instruction)
        return self.simulator.reset(self.scene, np.append(mark, TARGET_HEIGHT[self.instruction.verb]))

    def _cost_to_go(self, state: np.ndarray) -> float:
        return float(oracle.cost_to_go(state[None], self.scene, self.instruction)[0])

    def render(self) -> np.ndarray:
        """Both cameras side by side, uint8 [64, 128, 3]."""
        return np.hstack(list(self.simulator.render().values()))
