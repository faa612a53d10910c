"""What the layouts of both domains are made of: colours, zones, and what varies beside them. Pure data, no physics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

FACTORS = ("colour", "size", "dynamics", "light")  # of a layout, that can be taken beyond the training range

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.12, 0.20, 0.90),
    "yellow": (0.95, 0.88, 0.10),
    "purple": (0.55, 0.12, 0.70),
    "orange": (1.00, 0.50, 0.05),
}


@dataclass(frozen=True)
class Zone:
    """An axis-aligned square that an instruction may forbid; ``half`` is half its side in metres."""

    colour: str
    x: float
    y: float
    half: float


class Layout:
    """Base of the domains' scenes, which are frozen dataclasses."""

    zones: tuple[Zone, ...]

    def zone(self, colour: str) -> Zone | None:
        """The zone of that colour, or None where the scene has none."""
        return next((zone for zone in self.zones if zone.colour == colour), None)

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_dict` of what it holds gives the same scene exactly."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Inverse of ``dataclasses.asdict``."""
        raise NotImplementedError


def box_distance(points: np.ndarray, zone: Zone) -> np.ndarray:
    """Distance in metres from ``points`` [S, 2] to the zone's square, [S]; 0 inside."""
    outside = np.maximum(np.abs(points - np.array([zone.x, zone.y])) - zone.half, 0.0)
    return np.hypot(outside[:, 0], outside[:, 1])


def box_depth(points: np.ndarray, zone: Zone) -> np.ndarray:
    """How deep in metres ``points`` [S, 2] lie in the zone's square, [S]; outside, minus their distance from it."""
    inside = zone.half - np.abs(points - np.array([zone.x, zone.y])).max(1)
    return np.where(inside > 0, inside, -box_distance(points, zone))


def varying(rng: np.random.Generator, beyond: Collection[str]) -> Callable[..., float]:
    """``vary(factor, usual, *outside)`` draws a number from the range ``usual`` (low, high).

    Where ``factor`` is in ``beyond``, it comes from one of the ranges ``outside`` in its place.
    """

    def vary(factor: str, usual: tuple[float, float], *outside: tuple[float, float]) -> float:
        return float(rng.uniform(*(outside[rng.integers(len(outside))] if factor in beyond else usual)))

    return vary
