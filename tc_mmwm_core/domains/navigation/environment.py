"""The navigation arena as a Gymnasium environment: reach the named pad and keep the named rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tc_mmwm_core.domains.navigation import instructions, oracle
from tc_mmwm_core.domains.navigation.instructions import Instruction
from tc_mmwm_core.domains.navigation.scene import Scene, draw_scene
from tc_mmwm_core.domains.navigation.simulator import IMAGE, LIDAR_RAYS, Reading, Simulator

ACTION_LOW = np.array([-0.3, -2.5], np.float32)  # m/s, rad/s: as config/robots/navigation.yaml
ACTION_HIGH = np.array([0.7, 2.5], np.float32)


class NavigationEnv(gymnasium.Env):
    """See :meth:`tc_mmwm_core.domains.base.Domain.environment`. The reward is the cost to go that a step saves, m."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, render: bool = True, max_steps: int = 200) -> None:
        self.render_mode = "rgb_array"
        self.observation_space = spaces.Dict(
            {
                "image.overhead": spaces.Box(0, 255, (*IMAGE, 3), np.uint8),
                "sensor": spaces.Box(-np.inf, np.inf, (6 + LIDAR_RAYS + 1,), np.float32),
            }
        )
        self.action_space = spaces.Box(ACTION_LOW, ACTION_HIGH, dtype=np.float32)
        self.max_steps = max_steps
        self.simulator = Simulator(render)
        self.scene: Scene | None = None
        self.instruction: Instruction | None = None
        self.field: np.ndarray | None = None
        self._steps = 0
        self._violations = 0
        self._cost = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Lay out the scene of ``seed`` (or ``options["scene"]``) and give ``options["instruction"]``, or draw one."""
        super().reset(seed=seed)
        options = options or {}
        beyond = options.get("factors", ())
        layout = options.get("scene")
        if layout is not None:
            self.scene = layout if isinstance(layout, Scene) else Scene.from_dict(layout)
        else:
            self.scene = draw_scene(int(self.np_random.integers(2**31)) if seed is None else seed, beyond=beyond)
        if options.get("instruction"):
            self.instruction = instructions.parse(options["instruction"])
        else:
            self.instruction = instructions.draw(self.scene, self.np_random, beyond)
        self.field = oracle.cost_field(self.scene, self.instruction)
        self._steps = self._violations = 0
        reading = self.simulator.reset(self.scene)
        self._cost = float(oracle.cost_to_go(reading.state[None], self.field)[0])
        return self._observation(reading), self._info(reading)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Hold ``action`` for one control period."""
        self.simulator.step(np.clip(action, ACTION_LOW, ACTION_HIGH))
        self._steps += 1
        reading = self.simulator.read()
        info = self._info(reading)
        self._violations += info["violation"]
        info["success"] = info["reached"] and self._violations == 0
        cost = float(oracle.cost_to_go(reading.state[None], self.field)[0])
        reward, self._cost = self._cost - cost, cost
        return self._observation(reading), reward, info["reached"], self._steps >= self.max_steps, info

    def render(self) -> np.ndarray:
        """The overhead image, uint8 [64, 64, 3]."""
        return self.simulator.render()

    def save(self) -> tuple:
        """Everything that :meth:`restore` needs to continue bit for bit from here."""
        return self.simulator.save(), self._steps, self._violations, self._cost

    def restore(self, saved: tuple) -> None:
        """Back to a state saved in the same episode."""
        physics, self._steps, self._violations, self._cost = saved
        self.simulator.restore(physics)

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()

    def _observation(self, reading: Reading) -> dict[str, np.ndarray]:
        observation = {"sensor": reading.sensor}
        if reading.image is not None:
            observation["image.overhead"] = reading.image
        return observation

    def _info(self, reading: Reading) -> dict[str, Any]:
        state = reading.state
        margin = float(oracle.margin(state[None], self.scene, self.instruction)[0])
        return {
            "instruction": self.instruction.text,
            "scene": dataclasses.asdict(self.scene),
            "state": state,
            "margin": margin,
            "violation": margin > 0,
            "named_rules": list(dict.fromkeys(oracle.rules_in_words(self.scene, self.instruction))),
            "rules": oracle.broken_rules(state, self.scene, self.instruction) if margin > 0 else [],
            "reached": bool(oracle.reached(state[None], self.scene, self.instruction)[0]),
            "success": False,
            "violations": self._violations,
        }
