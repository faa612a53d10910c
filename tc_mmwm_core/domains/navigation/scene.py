"""Layouts of the navigation arena: pure data, drawn from a seed, no physics.

Frame: arena centre, x right and y up in the camera image, metres and radians (REP-103).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.domains.layouts import COLOURS, Layout, Zone, box_distance, varying

ARENA = 1.6  # m, half side of the square arena
VIEW = ARENA + 0.08  # m, half side of what the overhead camera sees
ROBOT_RADIUS = 0.13  # m
PAD_RADIUS = 0.20  # m; a pad is reached when the robot's centre is on it
PILLAR_RADIUS = 0.10  # m


@dataclass(frozen=True)
class Pad:
    """A disc on the floor that an instruction may name as the goal."""

    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Factors:
    """What may vary beside the layout; the defaults are the middle of the training range."""

    light: float = 1.0  # headlight intensity, relative
    friction: float = 1.0  # sliding friction of the wheels
    motor_gain: float = 1.0  # executed over commanded wheel speed
    shade: float = 0.0  # brightness shift of every colour, -0.3 .. 0.3
    floor: float = 0.75  # grey level of the floor

    @staticmethod
    def draw(rng: np.random.Generator, beyond: Collection[str] = ()) -> Factors:
        """Moderate light, colour, friction and motor variation; ``beyond`` names factors taken outside that range."""
        vary = varying(rng, beyond)
        return Factors(
            light=vary("light", (0.8, 1.2), (0.5, 0.7), (1.3, 1.5)),
            friction=vary("dynamics", (0.8, 1.2), (0.4, 0.6), (1.5, 2.0)),
            motor_gain=vary("dynamics", (0.95, 1.05), (0.8, 0.9), (1.1, 1.2)),
            shade=vary("colour", (-0.08, 0.08), (-0.18, -0.12), (0.12, 0.18)),
            floor=vary("light", (0.65, 0.85), (0.5, 0.6), (0.9, 1.0)),
        )


@dataclass(frozen=True)
class Scene(Layout):
    """One layout. Colours of the pads differ from each other, and so do those of the zones."""

    seed: int
    pads: tuple[Pad, ...]
    zones: tuple[Zone, ...]
    pillars: tuple[tuple[float, float], ...]
    start: tuple[float, float, float]  # x m, y m, yaw rad
    factors: Factors = Factors()

    def pad(self, colour: str) -> Pad | None:
        """The pad of that colour, or None where the scene has none."""
        return next((pad for pad in self.pads if pad.colour == colour), None)

    @staticmethod
    def from_dict(content: dict) -> Scene:
        """See :class:`Layout`."""
        return Scene(
            seed=content["seed"],
            pads=tuple(Pad(**pad) for pad in content["pads"]),
            zones=tuple(Zone(**zone) for zone in content["zones"]),
            pillars=tuple((x, y) for x, y in content["pillars"]),
            start=tuple(content["start"]),
            factors=Factors(**content["factors"]),
        )


def draw_scene(
    seed: int,
    pads: int = 3,
    zones: int = 2,
    pillars: int = 2,
    colours: Sequence[str] = tuple(COLOURS),
    beyond: Collection[str] = (),
) -> Scene:
    """Draw a layout in which every pad can be reached without touching any zone.

    Half of the zones are put across the straight way to a pad, so that obeying a rule costs a detour. ``beyond`` names
    the factors (:mod:`tc_mmwm_core.domains.layouts`) that are taken outside the range that training sees.
    """
    rng = np.random.default_rng([seed, 0x5CE9E])
    while True:
        scene = _try_draw(rng, seed, pads, zones, pillars, colours, beyond)
        if scene is not None:
            return scene


def _try_draw(
    rng: np.random.Generator,
    seed: int,
    pads: int,
    zones: int,
    pillars: int,
    colours: Sequence[str],
    beyond: Collection[str],
) -> Scene | None:
    reach = ARENA - ROBOT_RADIUS - 0.12
    start_xy = rng.uniform(-reach, reach, 2)
    pad_xy = rng.uniform(-reach, reach, (pads, 2))
    points = np.vstack([start_xy, pad_xy])
    if _closest(points) < 2 * PAD_RADIUS + 0.25:
        return None

    keep_free = ROBOT_RADIUS + 0.14  # m, room for the robot between a zone and a pad, the start or a pillar
    boxes: list[Zone] = []
    for colour in rng.permutation(colours)[:zones]:
        low, high = ((0.15, 0.20), (0.38, 0.44))[rng.integers(2)] if "size" in beyond else (0.22, 0.36)
        half = float(rng.uniform(low, high))
        for _ in range(40):
            if rng.random() < 0.6:
                along, across = rng.uniform(0.35, 0.65), rng.normal(0, 0.15)
                way = pad_xy[rng.integers(pads)] - start_xy
                centre = start_xy + along * way + across * np.array([-way[1], way[0]]) / np.linalg.norm(way)
            else:
                centre = rng.uniform(-ARENA + half, ARENA - half, 2)
            apart = all(math.hypot(centre[0] - z.x, centre[1] - z.y) > 1.42 * (half + z.half) + 0.05 for z in boxes)
            inside = bool(np.all(np.abs(centre) < ARENA - half))
            free = box_distance(points, Zone("", float(centre[0]), float(centre[1]), half)) > keep_free
            if apart and inside and free.all():
                boxes.append(Zone(str(colour), float(centre[0]), float(centre[1]), half))
                break
        else:
            return None

    columns: list[tuple[float, float]] = []
    for _ in range(200):
        if len(columns) == pillars:
            break
        x, y = rng.uniform(-reach, reach, 2)
        clear_points = np.hypot(points[:, 0] - x, points[:, 1] - y).min() > PAD_RADIUS + PILLAR_RADIUS + 0.18
        clear_boxes = all(box_distance(np.array([[x, y]]), box)[0] > PILLAR_RADIUS + keep_free for box in boxes)
        clear_columns = all(math.hypot(x - a, y - b) > 2 * PILLAR_RADIUS + 2 * keep_free for a, b in columns)
        if clear_points and clear_boxes and clear_columns:
            columns.append((float(x), float(y)))
    if len(columns) < pillars:
        return None

    scene = Scene(
        seed=seed,
        pads=tuple(
            Pad(str(c), float(x), float(y)) for c, (x, y) in zip(rng.permutation(colours)[:pads], pad_xy, strict=True)
        ),
        zones=tuple(boxes),
        pillars=tuple(columns),
        start=(float(start_xy[0]), float(start_xy[1]), float(rng.uniform(-math.pi, math.pi))),
        factors=Factors.draw(rng, beyond),
    )
    return scene if _all_reachable(scene) else None


def _closest(points: np.ndarray) -> float:
    gaps = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    return float(gaps[np.triu_indices(len(points), 1)].min())


def _all_reachable(scene: Scene) -> bool:
    from scipy import ndimage

    side = np.linspace(-ARENA, ARENA, 81)
    x, y = np.meshgrid(side, side)
    cells = np.stack([x.ravel(), y.ravel()], 1)
    free = np.abs(cells).max(1) < ARENA - ROBOT_RADIUS - 0.02
    for zone in scene.zones:
        free &= box_distance(cells, zone) > ROBOT_RADIUS + 0.08
    for a, b in scene.pillars:
        free &= np.hypot(cells[:, 0] - a, cells[:, 1] - b) > PILLAR_RADIUS + ROBOT_RADIUS + 0.06
    regions, _ = ndimage.label(free.reshape(x.shape))

    def region(px: float, py: float) -> int:
        return int(regions[np.abs(side - py).argmin(), np.abs(side - px).argmin()])

    home = region(*scene.start[:2])
    return home > 0 and all(region(pad.x, pad.y) == home for pad in scene.pads)
