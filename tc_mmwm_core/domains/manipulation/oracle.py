"""Judge any instruction on any state of the manipulation table, from the simulator's truth.

Because it needs only states and the layout, one recorded trajectory can be judged under many instructions. Margins are
in metres, costs in decimetres: of that size the losses resolve a centimetre as they do 5 cm of the navigation arena.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# scikit-fmm: the fast marching method, a second-order solver of the eikonal equation used across science.
import skfmm

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grid import Grid
from tc_mmwm_core.domains.layouts import box_depth, box_distance
from tc_mmwm_core.domains.manipulation.instructions import HIGH, LOW, SPEED_LIMIT, Instruction
from tc_mmwm_core.domains.manipulation.scene import (
    BODY_RADIUS,
    MARK_RADIUS,
    VIEW,
    VIEW_CENTRE,
    WORKSPACE,
    WRIST_DISTANCE,
    WRIST_DOWN,
    WRIST_TARGET,
    WRIST_VIEW,
    Scene,
    wall_distance,
)

STATE = {  # columns of a state, and their units
    **dict.fromkeys(("x", "y", "z"), "m"),
    **dict.fromkeys(("vx", "vy", "vz"), "m/s"),
    "opening": "m",
    "gripping": "1",
    **dict.fromkeys(("puck_x", "puck_y", "puck_z", "wall_gap", "puck_gap"), "m"),
}
HAND, VELOCITY, OPENING, GRIPPING, PUCK, WALL_GAP, PUCK_GAP = slice(0, 3), slice(3, 6), 6, 7, slice(8, 11), 11, 12
CELL = 0.0125  # m, grid of the cost to go
MARGIN_LIMIT = 0.1  # m, margins are clipped to +-this
SPEED_TO_MARGIN = 0.5  # m per m/s: at rest a slow hand keeps its rule by as much as one that is a hand away from a zone
TOUCH = 0.003  # m, a gap as small as this is a touch
TOUCH_MARGIN = 0.02  # m, of any touch: by how little the gap is below TOUCH tells nothing, and no image would show it
REACH_HEIGHT = 0.16  # m, at most this high the hand reaches a mark
PLACED_HEIGHT = 0.06  # m, at most this high the puck is down on a mark
GRASP_HEIGHT = 0.055  # m of the hand that closes around the puck on the table
HOVER_HEIGHT = 0.11  # m, at which the open hand passes over the puck
OVER_WALL = {"reach": 0.19, "place": 0.21}  # m, hand height that clears the wall, empty and with the puck below it
COST_UNIT = 0.1  # m
FIELD = 32  # cells a side of the field over the camera's view
_X, _Y = (np.arange(low, high + CELL / 2, CELL) for low, high in (WORKSPACE[:, :2] + np.array([[-0.05], [0.05]])).T)
GRID = Grid(np.array([_X[0], _Y[0]]), np.array([len(_X), len(_Y)]), CELL)  # of the cost to go


def margins(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """How far each rule is broken: [S, R] in metres, > 0 where the state [S, 13] violates it; R = 0 without a rule.

    A zone is entered when the hand, or the puck that the instruction moves, is above it at any height.
    """
    columns = []
    bodies = [states[:, HAND][:, :2]] + ([states[:, PUCK][:, :2]] if instruction.verb != "reach" else [])
    for zone in filter(None, map(scene.zone, instruction.keep_out)):
        columns.append(np.max([box_depth(xy, zone) + BODY_RADIUS for xy in bodies], 0))
    if instruction.slow:
        columns.append((np.linalg.norm(states[:, VELOCITY], axis=1) - SPEED_LIMIT) * SPEED_TO_MARGIN)
    if instruction.height:
        columns.append(states[:, 2] - LOW if instruction.height == "low" else HIGH - states[:, 2])
    if instruction.spare:
        room = states[:, WALL_GAP if instruction.spare == "wall" else PUCK_GAP] - TOUCH
        columns.append(np.where(room < 0, TOUCH_MARGIN, -room))
    return np.stack(columns, 1) if columns else np.zeros((len(states), 0))


def margin(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """The worst rule's margin, [S] in metres, clipped to ±:data:`MARGIN_LIMIT`; > 0 means "violates"."""
    worst = margins(states, scene, instruction).max(1, initial=-MARGIN_LIMIT)
    return np.clip(worst, -MARGIN_LIMIT, MARGIN_LIMIT)


def rules_in_words(scene: Scene, instruction: Instruction) -> list[str]:
    """The rules that the instruction gives in this scene, in the order of :func:`margins`."""
    names = [f"keep out of the {colour} zone" for colour in instruction.keep_out if scene.zone(colour) is not None]
    names += [f"speed below {SPEED_LIMIT} m/s"] if instruction.slow else []
    if instruction.height:
        names.append(f"hand below {LOW} m" if instruction.height == "low" else f"hand above {HIGH} m")
    names += [f"do not touch the {instruction.spare}"] if instruction.spare else []
    return names


def broken_rules(state: np.ndarray, scene: Scene, instruction: Instruction) -> list[str]:
    """The rules that ``state`` [13] breaks, in words."""
    names, values = rules_in_words(scene, instruction), margins(state[None], scene, instruction)[0]
    return [name for name, value in zip(names, values, strict=True) if value > 0]


def reached(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """Whether the hand (``reach``) or the puck is on the goal mark, [S] bool.

    Raises:
        DomainError: the scene has no mark of the goal's colour.
    """
    moved, height = (HAND, REACH_HEIGHT) if instruction.verb == "reach" else (PUCK, PLACED_HEIGHT)
    place = states[:, moved]
    return (np.hypot(*(place[:, :2] - goal(scene, instruction)).T) < MARK_RADIUS) & (place[:, 2] < height)


def goal(scene: Scene, instruction: Instruction) -> np.ndarray:
    """The goal mark's centre [2] in metres. DomainError: the scene has no mark of the goal's colour."""
    mark = scene.mark(instruction.goal)
    if mark is None:
        raise DomainError(f"no {instruction.goal} mark in this scene; it has {[m.colour for m in scene.marks]}")
    return np.array([mark.x, mark.y])


@dataclass(frozen=True, eq=False)
class Ways:
    """Metres to one place over the table from each grid cell, [Y, X] (eikonal equation, Sethian 1996).

    Speed is 1 in the open, lower near what is forbidden and very low inside it, so the cost is finite everywhere and
    the cheapest way keeps a little distance.
    """

    around: np.ndarray  # the low hand's, around the wall
    across: np.ndarray  # the high hand's, as if there were no wall

    def travel(self, places: np.ndarray, lift: float | None, down: float) -> np.ndarray:
        """Metres to go from ``places`` [S, 3], [S]: the cheaper of around the wall and, where ``lift`` is a height,
        over it at that height. Being higher than ``down`` costs the way down."""
        xy, z = places[:, :2], places[:, 2]
        around = GRID.sample(self.around, xy) + np.maximum(z - down, 0.0)
        if lift is None:
            return around
        across = GRID.sample(self.across, xy)
        blocked = np.clip((GRID.sample(self.around, xy) - across) / 0.05, 0.0, 1.0)
        up = np.maximum(lift - z, 0.0) * blocked
        return np.minimum(around, across + up + np.maximum(z + up - down, 0.0))


@functools.lru_cache(maxsize=512)
def _ways(scene: Scene, keep_out: tuple[str, ...], spare: str, x: float, y: float) -> Ways:
    """Ways to (x, y) metres under the keep-out rules; a wall to be spared is given more room."""
    across, down = np.meshgrid(_X, _Y)
    cells = np.stack([across.ravel(), down.ravel()], 1)
    low, high = WORKSPACE[:, :2]
    room = np.minimum(cells - low, high - cells).min(1) + 0.02  # m left to the nearest forbidden place
    for zone in filter(None, map(scene.zone, keep_out)):
        room = np.minimum(room, np.where(box_distance(cells, zone) > 0, box_distance(cells, zone) - BODY_RADIUS, -0.05))
    wall = wall_distance(cells) - 0.01 * (spare == "wall") if scene.wall else np.full(len(cells), 1.0)
    distance = np.hypot(*(cells - np.array([x, y])).T).reshape(across.shape)

    def time(left: np.ndarray) -> np.ndarray:
        speed = np.interp(left, [-0.02, 0.0, 0.015, 0.035], [0.08, 0.2, 0.6, 1.0]).reshape(across.shape)
        seed = 1.5 * CELL
        return np.asarray(skfmm.travel_time(distance - seed, speed, dx=CELL)) * (distance > seed) + np.minimum(
            distance, seed
        )

    free = time(room)
    return Ways(around=time(np.minimum(room, wall)) if scene.wall else free, across=free)


def goal_ways(scene: Scene, instruction: Instruction) -> Ways:
    """Ways to the instruction's goal."""
    return _ways(scene, instruction.keep_out, instruction.spare, *goal(scene, instruction).tolist())


def puck_ways(
    scene: Scene, instruction: Instruction, pucks: np.ndarray, where: np.ndarray
) -> Iterator[tuple[Ways, np.ndarray]]:
    """Ways to each place that ``pucks`` [S, 2] have ``where`` [S] is true, and at which of the S they have it.

    They are to the nearest grid point: a moved puck would else need ways of its own at every step.
    """
    low, high = WORKSPACE[:, :2]
    cells = np.round(np.clip(pucks, low, high) / CELL)
    for cell in np.unique(cells[where], axis=0):
        near = np.round(cell * CELL, 4).tolist()
        yield _ways(scene, instruction.keep_out, instruction.spare, *near), where & (cells == cell).all(1)


def lift(scene: Scene, instruction: Instruction) -> float | None:
    """Hand height at which the instruction may be carried out over the wall; None: around it only."""
    if not scene.wall or instruction.height == "low":
        return None
    return OVER_WALL.get(instruction.verb)


def cost_to_go(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """Cost to the goal in decimetres, [S] for ``states`` [S, 13]; 0 when done.

    With the hand: the way to the mark. With the puck, by stages that go over into one another: the open hand to above
    the puck, down, close, and from there the puck's way to the mark.
    """
    ways, over = goal_ways(scene, instruction), lift(scene, instruction)
    hand, puck = states[:, HAND], states[:, PUCK]
    if instruction.verb == "reach":
        metres = ways.travel(hand, over, REACH_HEIGHT)
    else:
        # What counts is the puck's place, at the height that the hand would have when it held it there.
        held = np.concatenate([puck[:, :2], puck[:, 2:] + GRASP_HEIGHT - 0.02], 1)
        metres = ways.travel(held, over, GRASP_HEIGHT + 0.01) + _grasp_to_go(states, scene, instruction)
    return np.where(reached(states, scene, instruction), 0.0, metres / COST_UNIT)


def _grasp_to_go(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """Metres to go until the hand holds the puck, [S]."""
    hand, puck = states[:, HAND], states[:, PUCK]
    apart = np.hypot(*(hand[:, :2] - puck[:, :2]).T)
    way = apart.copy()
    for ways, here in puck_ways(scene, instruction, puck[:, :2], apart > 0.05):
        geodesic = GRID.sample(ways.around, hand[here, :2])
        share = np.clip((apart[here] - 0.05) / 0.05, 0.0, 1.0)
        way[here] = share * np.maximum(geodesic, apart[here]) + (1 - share) * apart[here]
    # Down only above the puck: a low hand beside it would push it away, so it has to rise first.
    down = puck[:, 2] + GRASP_HEIGHT - 0.02
    above = down + (HOVER_HEIGHT - GRASP_HEIGHT) * np.clip((apart - 0.015) / 0.03, 0.0, 1.0)
    rise = np.maximum(above - hand[:, 2], 0.0)
    vertical = rise + np.abs(hand[:, 2] + rise - down)
    # Fingers: open on the way there, closed around it. A finger's width of travel is worth as much as the hand's.
    near = np.exp(-((apart / 0.025) ** 2) - (np.maximum(hand[:, 2] - down, 0.0) / 0.025) ** 2)
    opening = np.clip(states[:, OPENING], 0.0, 0.1)
    fingers = near * (0.02 + 0.5 * opening) + (1 - near) * (0.07 + 0.3 * (0.1 - opening))
    return np.where(states[:, GRIPPING] > 0.5, 0.3 * apart, way + vertical + fingers)


def referents(scene: Scene, instruction: Instruction) -> np.ndarray:
    """What the instruction names: [3, 4] rows (goal, first zone, second zone) of x, y, extent, present (0/1).

    In image coordinates, see :func:`in_image`. Zones come in the order in which they are named. A zone that is named
    but not there is absent.
    """
    rows = np.zeros((3, 4), np.float32)
    rows[0] = *in_image(goal(scene, instruction)), MARK_RADIUS / VIEW, 1
    named = [zone for colour in instruction.keep_out if (zone := scene.zone(colour)) is not None]
    for row, zone in enumerate(named[:2], start=1):
        rows[row] = *in_image(np.array([zone.x, zone.y])), zone.half / VIEW, 1
    return rows


def in_image(xy: np.ndarray) -> np.ndarray:
    """Points over the table [..., 2] in metres as coordinates of the overhead image in [-1, 1], x right and y up."""
    return (xy - VIEW_CENTRE) / VIEW


def places(states: np.ndarray) -> np.ndarray:
    """Where hand and puck are in the overhead image, [S, 4], see :func:`in_image`."""
    return np.concatenate([in_image(states[:, body][:, :2]) for body in (HAND, PUCK)], 1)


def wrist_places(states: np.ndarray) -> np.ndarray:
    """Where hand and puck are in the wrist camera's image, [S, 2, 2], see :func:`in_image`; NaN out of its view."""
    down, half = math.radians(WRIST_DOWN), math.tan(math.radians(WRIST_VIEW / 2))
    forward = np.array([-math.cos(down), 0.0, -math.sin(down)])
    right, up = np.array([0.0, 1.0, 0.0]), np.array([-math.sin(down), 0.0, math.cos(down)])
    camera = states[:, HAND] + WRIST_TARGET - WRIST_DISTANCE * forward
    away = np.stack([states[:, HAND], states[:, PUCK]], 1) - camera[:, None]  # [S, bodies, 3]
    xy = np.stack([away @ right, away @ up], -1) / (half * np.maximum(away @ forward, 1e-3))[..., None]
    return np.where((np.abs(xy) <= 1).all(-1, keepdims=True), xy, np.nan)


def field(scene: Scene, instruction: Instruction) -> tuple[np.ndarray, np.ndarray]:
    """Cost and margin at each cell of the overhead view, both [FIELD, FIELD], first row at the top.

    Of the hand (``reach``), or of the held puck, at rest there, and as high as its cheapest way allows.
    """
    side = ((np.arange(FIELD) + 0.5) * 2 / FIELD - 1) * VIEW
    x, y = np.meshgrid(VIEW_CENTRE[0] + side, VIEW_CENTRE[1] - side)
    xy = np.stack([x.ravel(), y.ravel()], 1)
    ways = goal_ways(scene, instruction)
    metres = GRID.sample(ways.around if lift(scene, instruction) is None else ways.across, xy)
    states = np.zeros((x.size, len(STATE)))
    states[:, :2], states[:, PUCK][:, :2] = xy, xy
    places = dataclasses.replace(instruction, height="", spare="")  # rules on places; the others are not read off a map
    shape = (FIELD, FIELD)
    return (metres / COST_UNIT).reshape(shape), margin(states, scene, places).reshape(shape)
