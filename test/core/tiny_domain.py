"""A whole domain as someone else might write it, drawn without a simulator: a dot that is driven to a square."""

from __future__ import annotations

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Domain, DomainError, Judgement

GOAL, SLOW = "drive to the square", "drive to the square, slowly"
SIDE, PERIOD, LIMIT, LENGTH = 16, 0.2, 0.5, 12  # pixels, s, of 1/s, steps
ROBOT = {
    "schema": 1,
    "name": "dot",
    "rate": 5.0,
    "images": [
        {"name": "camera", "topic": "image", "type": "sensor_msgs/msg/Image", "height": 16, "width": 16, "max_age": 0.5}
    ],
    "sensors": [
        {
            "name": "place",
            "topic": "place",
            "type": "std_msgs/msg/Float64MultiArray",
            "max_age": 0.5,
            "fields": [{"name": name, "path": f"data[{i}]", "unit": "m"} for i, name in enumerate("xy")],
        }
    ],
    "action": {
        "topic": "speed",
        "type": "std_msgs/msg/Float64MultiArray",
        "fields": [
            {"name": f"v{name}", "path": f"data[{i}]", "unit": "m/s", "limits": [-1.0, 1.0], "safe": 0.0}
            for i, name in enumerate("xy")
        ],
    },
}


class DotEnv(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed, self.steps, self.broken = self.np_random.uniform(-0.8, 0.8, 2), np.zeros(2), 0, False
        self.square = self.np_random.uniform(-0.8, 0.8, 2)
        self.text = (options or {}).get("instruction") or [GOAL, SLOW][self.np_random.integers(2)]
        return self.observe()

    def step(self, action):
        self.speed = np.clip(action, -1, 1).astype(float)
        self.place = np.clip(self.place + PERIOD * self.speed, -1, 1)
        self.steps += 1
        observation, info = self.observe()
        return observation, 0.0, info["reached"], self.steps >= LENGTH, info

    def observe(self):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        for (x, y), channel in ((self.square, 0), (self.place, 1)):
            image[int((1 - y) * SIDE / 2.01), int((1 + x) * SIDE / 2.01), channel] = 255
        scene, state = {"square": self.square.tolist()}, np.concatenate([self.place, self.speed], dtype=np.float32)
        verdict = judge(scene, state[None], self.text)
        margin = float(verdict.margin[0])
        self.broken |= margin > 0
        reached = bool(verdict.cost[0] == 0)
        return {"image.camera": image, "sensor": state[:2]}, {
            "instruction": self.text, "scene": scene, "state": state, "margin": margin, "violation": margin > 0,
            "rules": ["slowly"] * (margin > 0), "reached": reached, "success": reached and not self.broken,
        }  # fmt: skip

    def save(self):
        return self.place.copy(), self.speed.copy(), self.steps, self.broken

    def restore(self, saved):
        self.place, self.speed, self.steps, self.broken = saved


def judge(scene, states, text):
    if text not in (GOAL, SLOW):
        raise DomainError(f"instruction {text!r}: known are {GOAL!r} and {SLOW!r}")
    square = np.array(scene["square"])
    gap, speed = np.linalg.norm(states[:, :2] - square, axis=1), np.abs(states[:, 2:]).max(1)
    x, y = np.meshgrid((np.arange(4) + 0.5) / 2 - 1, 1 - (np.arange(4) + 0.5) / 2)
    return Judgement(
        margin=np.where(text == SLOW, speed - LIMIT, -1.0).astype(np.float32),
        cost=np.where(gap < 0.15, 0.0, gap).astype(np.float32),
        referents=np.array([[*square, 0.1, 1.0]], np.float32),
        place=states[:, :2].astype(np.float32),
        field_cost=np.hypot(x - square[0], y - square[1]).astype(np.float32),
        field_margin=np.full(x.shape, -1.0, np.float32),
    )


class Dot(Domain):
    name, robot, state = "dot", "dot.yaml", dict.fromkeys(("x", "y"), "m") | dict.fromkeys(("vx", "vy"), "m/s")

    def environment(self, render=True):
        return DotEnv()

    def judge(self, scene, states, text):
        return judge(scene, states, text)

    def draw_instruction(self, scene, rng, factors=()):
        return [GOAL, SLOW][rng.integers(2)]

    def drivers(self):
        return {"expert": 0.5, "hasty": 0.5}

    def driver(self, kind, rng):
        if kind not in self.drivers():
            raise DomainError(f"driver {kind!r}: known are {', '.join(self.drivers())}")
        most = 0.4 if kind == "expert" else 1.0

        def drive(environment, info):
            gap = np.array(info["scene"]["square"]) - info["state"][:2]
            return np.clip(gap / PERIOD, -most, most).astype(np.float32)

        return drive


def make():
    return Dot()
