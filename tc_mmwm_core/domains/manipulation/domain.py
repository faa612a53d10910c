"""Manipulation as a :class:`tc_mmwm_core.domains.base.Domain`."""

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
from tc_mmwm_core.domains.manipulation import expert, instructions, oracle
from tc_mmwm_core.domains.manipulation.environment import ACTION_HIGH, ACTION_LOW, ManipulationEnv
from tc_mmwm_core.domains.manipulation.scene import Scene

ARM_RED = 170  # of 255; red marks and zones are brighter


class Manipulation(Domain):
    """Meta-World's arm with two cameras: marks to reach or to bring the puck to; zones, speed, height, hands off."""

    name = "manipulation"
    robot = "manipulation.yaml"
    factors = (*grammar.FACTORS, *layouts.FACTORS)
    state = oracle.STATE

    def environment(self, render: bool = True) -> gymnasium.Env:
        """See :class:`Domain`."""
        return ManipulationEnv(render)

    def judge(self, scene: dict[str, Any], states: np.ndarray, text: str) -> Judgement:
        """See :class:`Domain`. Margins are in metres, costs in decimetres."""
        layout, meaning = Scene.from_dict(scene), instructions.parse(text)
        field_cost, field_margin = oracle.field(layout, meaning)
        return Judgement(
            margin=oracle.margin(states, layout, meaning).astype(np.float32),
            cost=oracle.cost_to_go(states, layout, meaning).astype(np.float32),
            referents=oracle.referents(layout, meaning),
            place=oracle.places(states).astype(np.float32),
            elsewhere=oracle.wrist_places(states)[:, None].astype(np.float32),
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
        """See :class:`Domain`: of zone, zones (two of them), speed, height and touch."""
        meaning = instructions.parse(text)
        zones = ("zone",) if len(meaning.keep_out) == 1 else ("zones",) if meaning.keep_out else ()
        others = {"speed": meaning.slow, "height": meaning.height, "touch": meaning.spare}
        return zones + tuple(name for name, asked in others.items() if asked)

    def advise(self, scene: dict[str, Any], states: np.ndarray, text: str) -> np.ndarray:
        """See :class:`Domain`. Within the mark, too: who stops at its edge may be short of it."""
        return expert.advise(states, Scene.from_dict(scene), instructions.parse(text))

    def self_filter(self, image: np.ndarray) -> np.ndarray:
        """See :class:`Domain`. Nothing else is as red and as dark as the arm; the fingers are a pixel wide."""
        red, green, blue = image[..., :3].astype(np.int16).transpose(3, 0, 1, 2)
        return (red * 10 > 17 * np.maximum(green, blue)) & (red < ARM_RED)

    def driver(self, kind: str, rng: np.random.Generator) -> Driver:
        """See :class:`Domain`."""
        match kind:
            case "expert":
                return expert.expert(rng)
            case "noisy":
                return expert.expert(rng, noise=float(rng.uniform(0.1, 0.4)))
            case "explorer":
                return expert.explorer(rng)
            case "fumbler":
                return expert.fumbler(rng)
            case "misled":
                return expert.misled(rng)
            case "heedless":
                return expert.heedless(rng)
            case "wanderer":
                return wanderer(rng, ACTION_LOW, ACTION_HIGH, change=0.1)
            case "visitor":
                return expert.visitor(rng)
        known = self.drivers()
        raise DomainError(f"driver {kind!r}: known are {', '.join(known)}{did_you_mean(kind, known)}")

    def drivers(self) -> dict[str, float]:
        """See :class:`Domain`."""
        shares = {"expert": 0.15, "noisy": 0.1, "explorer": 0.3, "misled": 0.2}
        return shares | {"heedless": 0.05, "wanderer": 0.05, "visitor": 0.15, "fumbler": 0.0}


@lru_cache(maxsize=1)
def make() -> Manipulation:
    """The domain."""
    return Manipulation()
