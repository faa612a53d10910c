"""Navigation as a :class:`tc_mmwm_core.domains.base.Domain`."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np

from tc_mmwm_core.config import did_you_mean
from tc_mmwm_core.domains import grammar, layouts
from tc_mmwm_core.domains.base import Domain, DomainError, Driver, Judgement
from tc_mmwm_core.domains.drivers import wanderer
from tc_mmwm_core.domains.navigation import expert, instructions, oracle
from tc_mmwm_core.domains.navigation.environment import ACTION_HIGH, ACTION_LOW, NavigationEnv
from tc_mmwm_core.domains.navigation.scene import Scene


class Navigation(Domain):
    """Differential-drive robot, overhead camera, lidar, odometry; coloured pads and zones, pillars, speed rules.

    The robot hides no more than the place where it stands, so that there is no :meth:`self_filter`.
    """

    name = "navigation"
    robot = "navigation.yaml"
    factors = (*grammar.FACTORS, *layouts.FACTORS)
    state = oracle.STATE

    def environment(self, render: bool = True) -> gymnasium.Env:
        """See :class:`Domain`."""
        return NavigationEnv(render)

    def judge(self, scene: dict[str, Any], states: np.ndarray, text: str) -> Judgement:
        """See :class:`Domain`. Margins and costs are in metres."""
        layout, meaning = Scene.from_dict(scene), instructions.parse(text)
        costs = oracle.cost_field(layout, meaning)
        field_cost, field_margin = oracle.field(layout, meaning, costs)
        return Judgement(
            margin=oracle.margin(states, layout, meaning).astype(np.float32),
            cost=oracle.cost_to_go(states, costs).astype(np.float32),
            referents=oracle.referents(layout, meaning),
            place=oracle.places(states).astype(np.float32),
            field_cost=field_cost.astype(np.float32),
            field_margin=field_margin.astype(np.float32),
        )

    def draw_instruction(self, scene: dict[str, Any], rng: np.random.Generator, factors: Collection[str] = ()) -> str:
        """See :class:`Domain`."""
        return instructions.draw(Scene.from_dict(scene), rng, factors).text

    def absent_goal(self, scene: dict[str, Any], rng: np.random.Generator) -> str:
        """See :class:`Domain`."""
        return instructions.draw_absent(Scene.from_dict(scene), rng).text

    def rules(self, text: str) -> tuple[str, ...]:
        """See :class:`Domain`: of zone, zones (two of them), speed and clearance."""
        meaning = instructions.parse(text)
        zones = ("zone",) if len(meaning.keep_out) == 1 else ("zones",) if meaning.keep_out else ()
        return zones + ("speed",) * meaning.slow + ("clearance",) * meaning.clear

    def advise(self, scene: dict[str, Any], states: np.ndarray, text: str) -> np.ndarray:
        """See :class:`Domain`."""
        meaning = instructions.parse(text)
        return expert.advise(states, oracle.cost_field(Scene.from_dict(scene), meaning), meaning.slow)

    def driver(self, kind: str, rng: np.random.Generator) -> Driver:
        """See :class:`Domain`."""
        match kind:
            case "expert":
                return expert.expert(rng)
            case "noisy":
                return expert.expert(rng, noise=float(rng.uniform(0.1, 0.5)))
            case "heedless":
                return expert.heedless(rng)
            case "wanderer":
                return wanderer(rng, ACTION_LOW, ACTION_HIGH, change=0.15)
            case "visitor":
                return expert.visitor(rng)
        known = self.drivers()
        raise DomainError(f"driver {kind!r}: known are {', '.join(known)}{did_you_mean(kind, known)}")

    def drivers(self) -> dict[str, float]:
        """See :class:`Domain`."""
        return dict.fromkeys(("expert", "noisy", "wanderer", "visitor"), 0.25) | {"heedless": 0.0}


@lru_cache(maxsize=1)
def make() -> Navigation:
    """The domain."""
    return Navigation()
