"""The manipulation table as a Gymnasium environment: bring hand or puck to the named mark and keep the named rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tc_mmwm_core.domains.manipulation import instructions, oracle
from tc_mmwm_core.domains.manipulation.instructions import Instruction
from tc_mmwm_core.domains.manipulation.scene import Scene, draw_scene
from tc_mmwm_core.domains.manipulation.simulator import CONTROL_PERIOD, IMAGE, Reading, Simulator

ACTION_LOW = np.array([-0.3, -0.3, -0.3, -1.0], np.float32)  # m/s and grip: as config/robots/manipulation.yaml
ACTION_HIGH = np.array([0.3, 0.3, 0.3, 1.0], np.float32)
TARGET_HEIGHT = {"reach": 0.10, "push": 0.02, "place": 0.06}  # m, where Meta-World's own policies are sent


class ManipulationEnv(gymnasium.Env):
    """See :meth:`tc_mmwm_core.domains.base.Domain.environment`. The reward is the cost to go that a step saves, dm."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD)}  # noqa: RUF012

    def __init__(self, render: bool = True, max_steps: int = 160) -> None:
        self.render_mode = "rgb_array"
        self.observation_space = spaces.Dict(
            {
                "image.overhead": spaces.Box(0, 255, (*IMAGE, 3), np.uint8),
                "image.wrist": spaces.Box(0, 255, (*IMAGE, 3), np.uint8),
                "sensor": spaces.Box(-np.inf, np.inf, (8,), np.float32),
            }
        )
        self.action_space = spaces.Box(ACTION_LOW, ACTION_HIGH, dtype=np.float32)
        self.max_steps = max_steps
        self.simulator = Simulator(render)
        self.scene: Scene | None = None
        self.instruction: Instruction | None = None
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
        mark = oracle.goal(self.scene, self.instruction)
        self._steps = self._violations = 0
        reading = self.simulator.reset(self.scene, np.append(mark, TARGET_HEIGHT[self.instruction.verb]))
        self._cost = self._cost_to_go(reading.state)
        return self._observation(reading), self._info(reading)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Hold ``action`` for one control period."""
        self.simulator.step(np.clip(action, ACTION_LOW, ACTION_HIGH))
        self._steps += 1
        reading = self.simulator.read()
        info = self._info(reading)
        self._violations += info["violation"]
        info["success"] = info["reached"] and self._violations == 0
        cost = self._cost_to_go(reading.state)
        reward, self._cost = self._cost - cost, cost
        return self._observation(reading), reward, info["reached"], self._steps >= self.max_steps, info

    def render(self) -> np.ndarray:
        """Both cameras side by side, uint8 [64, 128, 3]."""
        return np.hstack(list(self.simulator.render().values()))

    def save(self) -> tuple:
        """Everything that :meth:`restore` needs to continue bit for bit from here."""
        return self.simulator.save(), self._steps, self._violations, self._cost

    def restore(self, saved: tuple) -> None:
        """Back to a state saved in the same episode."""
        physics, self._steps, self._violations, self._cost = saved
        self.simulator.restore(physics)

    def close(self) -> None:
        """Free the renderers."""
        self.simulator.close()

    def _cost_to_go(self, state: np.ndarray) -> float:
        return float(oracle.cost_to_go(state[None], self.scene, self.instruction)[0])

    def _observation(self, reading: Reading) -> dict[str, np.ndarray]:
        images = {f"image.{name}": image for name, image in reading.images.items()}
        return {**images, "sensor": reading.sensor}

    def _info(self, reading: Reading) -> dict[str, Any]:
        state = reading.state
        margin = float(oracle.margin(state[None], self.scene, self.instruction)[0])
        return {
            "instruction": self.instruction.text,
            "scene": dataclasses.asdict(self.scene),
            "state": state,
            "margin": margin,
            "violation": margin > 0,
            "named_rules": oracle.rules_in_words(self.scene, self.instruction),
            "rules": oracle.broken_rules(state, self.scene, self.instruction) if margin > 0 else [],
            "reached": bool(oracle.reached(state[None], self.scene, self.instruction)[0]),
            "success": False,
            "violations": self._violations,
        }
