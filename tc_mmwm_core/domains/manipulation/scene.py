"""Layouts of the manipulation table: pure data, drawn from a seed, no physics.

Frame: Meta-World's, whose arm stands at the origin: x right, y away from the arm, z up; metres (REP-103).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.domains.layouts import COLOURS, Layout, Zone, box_distance, varying

TASKS = ("reach-wall", "push", "push-wall", "pick-place-wall")  # of Meta-World; each is a model of its own

VIEW_CENTRE = np.array([0.0, 0.70])  # m, x and y of what the overhead camera looks at
VIEW = 0.35  # m, half side of what it sees
# The wrist's camera, on a bracket of the hand, looks through between the fingers along -x, with y right in the image.
WRIST_TARGET = np.array([0.0, 0.0, -0.05])  # m from the hand's centre to what it looks at
WRIST_DISTANCE, WRIST_DOWN, WRIST_VIEW = 0.22, 45.0, 60.0  # m to there; degrees that it looks down, that it sees
WORKSPACE = np.array([[-0.32, 0.42, 0.05], [0.32, 0.98, 0.30]])  # m, least and greatest x, y, z of the hand
MARK_RADIUS = 0.04  # m; a mark is reached when the hand's or the puck's centre is on it
BODY_RADIUS = 0.03  # m, of the hand and of the puck, where a zone is concerned
WALL_CENTRE, WALL_HALF = np.array([0.10, 0.75]), np.array([0.12, 0.01])  # m, where Meta-World has it
WALL_ROOM = np.array([0.055, 0.065])  # m, how far in x and y the hand reaches beyond its centre: room beside the wall
FAR_ENOUGH = 0.16  # m between puck and mark: Meta-World's tasks draw again for ever below 0.15


@dataclass(frozen=True)
class Mark:
    """A disc on the table that an instruction may name as the goal."""

    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Factors:
    """What may vary beside the layout; the defaults are the middle of the training range."""

    light: float = 1.0  # intensity of all lights, relative
    shade: float = 0.0  # brightness shift of every colour
    gain: float = 1.0  # executed over commanded velocity
    mass: float = 1.0  # of the puck, relative to Meta-World's
    friction: float = 1.0  # of the puck, relative to Meta-World's

    @staticmethod
    def draw(rng: np.random.Generator, beyond: Collection[str] = ()) -> Factors:
        """Moderate variation of light, colour and dynamics; ``beyond`` names factors taken outside that range."""
        vary = varying(rng, beyond)
        return Factors(
            light=vary("light", (0.8, 1.2), (0.5, 0.7), (1.3, 1.5)),
            shade=vary("colour", (-0.08, 0.08), (-0.18, -0.12), (0.12, 0.18)),
            gain=vary("dynamics", (0.95, 1.05), (0.8, 0.9), (1.1, 1.2)),
            mass=vary("dynamics", (0.8, 1.2), (0.4, 0.6), (1.5, 2.0)),
            friction=vary("dynamics", (0.9, 1.1), (0.7, 0.8), (1.3, 1.5)),
        )


@dataclass(frozen=True)
class Scene(Layout):
    """One layout. Colours of the marks differ from each other, and so do those of the zones."""

    seed: int
    task: str
    marks: tuple[Mark, ...]
    zones: tuple[Zone, ...]
    puck: tuple[float, float]  # x m, y m
    hand: tuple[float, float, float]  # x m, y m, z m where the hand begins
    factors: Factors = Factors()

    @property
    def wall(self) -> bool:
        """Whether the wall stands on the table."""
        return self.task != "push"

    def mark(self, colour: str) -> Mark | None:
        """The mark of that colour, or None where the scene has none."""
        return next((mark for mark in self.marks if mark.colour == colour), None)

    @staticmethod
    def from_dict(content: dict) -> Scene:
        """See :class:`Layout`."""
        return Scene(
            seed=content["seed"],
            task=content["task"],
            marks=tuple(Mark(**mark) for mark in content["marks"]),
            zones=tuple(Zone(**zone) for zone in content["zones"]),
            puck=tuple(content["puck"]),
            hand=tuple(content["hand"]),
            factors=Factors(**content["factors"]),
        )


def draw_scene(
    seed: int, task: str | None = None, marks: int = 3, zones: int = 2, beyond: Collection[str] = ()
) -> Scene:
    """Draw a layout in which every mark can be reached around the wall without touching any zone.

    Most zones are put across the straight way to a mark, so that obeying a rule costs a detour. ``task`` is drawn too
    where it is None. ``beyond`` names the factors (:mod:`tc_mmwm_core.domains.layouts`) that are taken outside the
    range that training sees.
    """
    rng = np.random.default_rng([seed, 0x3A217])
    drawn = TASKS[rng.integers(len(TASKS))]
    while True:
        scene = _try_draw(rng, seed, task or drawn, marks, zones, beyond)
        if scene is not None:
            return scene


def _try_draw(
    rng: np.random.Generator, seed: int, task: str, marks: int, zones: int, beyond: Collection[str]
) -> Scene | None:
    wall = task != "push"
    puck = rng.uniform((-0.08, 0.60), (0.08, 0.66) if wall else (0.08, 0.70))
    hand = rng.uniform((-0.12, 0.52, 0.118), (0.12, 0.66, 0.132))
    mark_xy = np.stack([rng.uniform(-0.27, 0.27, marks), rng.uniform(0.56, 0.92, marks)], 1)
    behind = rng.random(marks) < 0.75  # most marks: the far side of the wall
    mark_xy[behind, 1] = rng.uniform(0.80, 0.92, behind.sum())
    gaps = np.hypot(*(mark_xy[:, None] - mark_xy[None]).transpose(2, 0, 1))[np.triu_indices(marks, 1)]
    others = np.stack([puck, hand[:2]])
    away = np.hypot(*(mark_xy[:, None] - others[None]).transpose(2, 0, 1))
    if gaps.min(initial=1.0) < 0.13 or away.min() < FAR_ENOUGH:
        return None
    if wall and wall_distance(mark_xy).min() < 0.02:
        return None

    start = hand[:2] if task == "reach-wall" else puck
    keep_free = BODY_RADIUS + 0.035  # m, between a zone and what must be got at
    boxes: list[Zone] = []
    for colour in rng.permutation(tuple(COLOURS))[:zones]:
        low, high = ((0.030, 0.040), (0.075, 0.085))[rng.integers(2)] if "size" in beyond else (0.045, 0.070)
        half = float(rng.uniform(low, high))
        for _ in range(40):
            if rng.random() < 0.7:
                along, across = rng.uniform(0.35, 0.65), rng.normal(0, 0.15)
                way = mark_xy[rng.integers(marks)] - start
                centre = start + along * way + across * np.array([-way[1], way[0]])
            else:
                centre = rng.uniform(WORKSPACE[0, :2] + half, WORKSPACE[1, :2] - half)
            zone = Zone(str(colour), float(centre[0]), float(centre[1]), half)
            apart = all(math.hypot(centre[0] - z.x, centre[1] - z.y) > 1.42 * (half + z.half) + 0.02 for z in boxes)
            inside = bool((np.abs(centre - VIEW_CENTRE) < VIEW - half).all())
            if apart and inside and box_distance(np.vstack([mark_xy, others]), zone).min() > keep_free:
                boxes.append(zone)
                break
    if len(boxes) < zones:
        return None
    colours = rng.permutation(tuple(COLOURS))[:marks]
    scene = Scene(
        seed=seed,
        task=task,
        marks=tuple(Mark(str(c), float(x), float(y)) for c, (x, y) in zip(colours, mark_xy, strict=True)),
        zones=tuple(boxes),
        puck=(float(puck[0]), float(puck[1])),
        hand=(float(hand[0]), float(hand[1]), float(hand[2])),
        factors=Factors.draw(rng, beyond),
    )
    return scene if _all_reachable(scene) else None


def wall_distance(points: np.ndarray) -> np.ndarray:
    """Room in metres between the low hand at ``points`` [S, 2] and the wall, [S]; 0 where it would touch it."""
    return np.hypot(*np.maximum(np.abs(points - WALL_CENTRE) - WALL_HALF - WALL_ROOM, 0.0).T)


def _all_reachable(scene: Scene) -> bool:
    from scipy import ndimage

    x, y = np.meshgrid(*(np.arange(low, high + 1e-9, 0.01) for low, high in WORKSPACE.T[:2]))
    cells = np.stack([x.ravel(), y.ravel()], 1)
    free = np.ones(len(cells), bool)
    for zone in scene.zones:
        free &= box_distance(cells, zone) > BODY_RADIUS + 0.02
    if scene.wall:
        free &= wall_distance(cells) > 0.005
    regions, _ = ndimage.label(free.reshape(x.shape))
    points = np.array([scene.hand[:2], scene.puck, *((mark.x, mark.y) for mark in scene.marks)])
    column, row = (np.abs(side[:, None] - points[:, i]).argmin(0) for i, side in enumerate((x[0], y[:, 0])))
    found = regions[row, column]
    return bool(found[0] > 0 and (found == found[0]).all())
