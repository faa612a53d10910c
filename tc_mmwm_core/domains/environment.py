"""What the environments of both domains have in common: a robot is told something, and judged at every control step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class InstructedEnv(gymnasium.Env):
    """See :meth:`tc_mmwm_core.domains.base.Domain.environment`. The reward is the cost to go that a step saves.

    A domain names its modules, and adds how an episode begins and what it costs to go on to the goal.
    """

    scenes: ModuleType  # draw_scene, Scene
    instructions: ModuleType  # draw, parse
    oracle: ModuleType  # margin, rules_in_words, broken_rules, reached

    def __init__(
        self,
        simulator: Any,
        cameras: Sequence[str],
        image: tuple[int, int],
        sensor: int,
        action: tuple[np.ndarray, np.ndarray],
        max_steps: int,
    ) -> None:
        """``image``: height and width; ``sensor``: size of the vector; ``action``: lower and upper limits [A]."""
        self.render_mode = "rgb_array"
        seen = {f"image.{camera}": spaces.Box(0, 255, (*image, 3), np.uint8) for camera in cameras}
        self.observation_space = spaces.Dict(seen | {"sensor": spaces.Box(-np.inf, np.inf, (sensor,), np.float32)})
        self.action_space = spaces.Box(*action, dtype=np.float32)
        self.max_steps = max_steps
        self.simulator = simulator
        self.scene: Any = None
        self.instruction: Any = None
        self._steps = 0
        self._violations = 0
        self._cost = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Lay out the scene of ``seed`` (or ``options["scene"]``) and give ``options["instruction"]``, or draw one."""
        super().reset(seed=seed)
        options = options or {}
        beyond = options.get("factors", ())
        layout = options.get("scene")
        if layout is None:
            drawn = int(self.np_random.integers(2**31)) if seed is None else seed
            self.scene = self.scenes.draw_scene(drawn, beyond=beyond)
        else:
            self.scene = layout if isinstance(layout, self.scenes.Scene) else self.scenes.Scene.from_dict(layout)
        if options.get("instruction"):
            self.instruction = self.instructions.parse(options["instruction"])
        else:
            self.instruction = self.instructions.draw(self.scene, self.np_random, beyond)
        self._steps = self._violations = 0
        reading = self._begin()
        self._cost = self._cost_to_go(reading.state)
        return self._observation(reading), self._info(reading.state)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Hold ``action`` for one control period."""
        self.simulator.step(np.clip(action, self.action_space.low, self.action_space.high))
        self._steps += 1
        reading = self.simulator.read()
        info = self._info(reading.state)
        self._violations += info["violation"]
        info["success"] = info["reached"] and self._violations == 0
        cost = self._cost_to_go(reading.state)
        reward, self._cost = self._cost - cost, cost
        return self._observation(reading), reward, info["reached"], self._steps >= self.max_steps, info

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

    def _begin(self) -> Any:
        """Put the simulator into the scene, under the instruction; its first reading."""
        raise NotImplementedError

    def _cost_to_go(self, state: np.ndarray) -> float:
        """Cost from ``state`` [P] to the instruction's goal."""
        raise NotImplementedError

    def _observation(self, reading: Any) -> dict[str, np.ndarray]:
        return {f"image.{name}": image for name, image in reading.images.items()} | {"sensor": reading.sensor}

    def _info(self, state: np.ndarray) -> dict[str, Any]:
        margin = float(self.oracle.margin(state[None], self.scene, self.instruction)[0])
        return {
            "instruction": self.instruction.text,
            "scene": dataclasses.asdict(self.scene),
            "state": state,
            "margin": margin,
            "violation": margin > 0,
            "named_rules": list(dict.fromkeys(self.oracle.rules_in_words(self.scene, self.instruction))),
            "rules": self.oracle.broken_rules(state, self.scene, self.instruction) if margin > 0 else [],
            "reached": bool(self.oracle.reached(state[None], self.scene, self.instruction)[0]),
            "success": False,
            "violations": self._violations,
        }
