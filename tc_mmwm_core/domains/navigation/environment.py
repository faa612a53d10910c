"""The navigation arena as a Gymnasium environment: reach the named pad and keep the named rules."""

from __future__ import annotations

import numpy as np

from tc_mmwm_core.domains.environment import InstructedEnv
from tc_mmwm_core.domains.navigation import instructions, oracle, scene
from tc_mmwm_core.domains.navigation.simulator import IMAGE, LIDAR_RAYS, Reading, Simulator

ACTION_LOW = np.array([-0.3, -2.5], np.float32)  # m/s, rad/s: as config/robots/navigation.yaml
ACTION_HIGH = np.array([0.7, 2.5], np.float32)


class NavigationEnv(InstructedEnv):
    """See :class:`InstructedEnv`. Costs are in metres; ``field`` is the cost to go from everywhere."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own convention)
    scenes, instructions, oracle = scene, instructions, oracle

    def __init__(self, render: bool = True, max_steps: int = 200) -> None:
        sensor = 6 + LIDAR_RAYS + 1
        super().__init__(Simulator(render), ("overhead",), IMAGE, sensor, (ACTION_LOW, ACTION_HIGH), max_steps)
        self.field: np.ndarray | None = None

    def _begin(self) -> Reading:
        self.field = oracle.cost_field(self.scene, self.instruction)
        return self.simulator.reset(self.scene)

    def _cost_to_go(self, state: np.ndarray) -> float:
        return float(oracle.cost_to_go(state[None], self.field)[0])

    def render(self) -> np.ndarray:
        """The overhead image, uint8 [64, 64, 3]."""
        return self.simulator.render()
