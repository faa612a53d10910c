"""Judge any instruction on any state of the navigation arena, from the simulator's truth.

Because it needs only states and the layout, one recorded trajectory can be judged under many instructions.
State columns: x m, y m, yaw rad, forward speed m/s, turn rate rad/s.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# scikit-fmm: the fast marching method, a second-order solver of the eikonal equation used across science.
import skfmm

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grid import Grid
from tc_mmwm_core.domains.layouts import box_depth
from tc_mmwm_core.domains.navigation.instructions import CLEARANCE, SPEED_LIMIT, Instruction
from tc_mmwm_core.domains.navigation.scene import (
    ARENA,
    PAD_RADIUS,
    PILLAR_RADIUS,
    ROBOT_RADIUS,
    VIEW,
    Scene,
)

STATE = {"x": "m", "y": "m", "yaw": "rad", "forward_speed": "m/s", "turn_rate": "rad/s"}
CELL = 0.05  # m, grid of the cost-to-go
MARGIN_LIMIT = 0.5  # m, margins are clipped to +-this
SPEED_TO_MARGIN = 1.0  # m per m/s: puts speed excess on the scale of distances
TURN_COST = 0.25  # m, what facing the wrong way is worth
NOSE = 0.25  # m ahead of the robot's centre: there the field tells whether it faces the way
FIELD = 32  # cells a side of the field over the camera's view
_SIDE = np.arange(-ARENA, ARENA + CELL / 2, CELL)
GRID = Grid(-ARENA, len(_SIDE), CELL)  # of the cost to go
_CELLS = np.stack(np.meshgrid(_SIDE, _SIDE), -1).reshape(-1, 2)


def margins(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """How far each rule is broken: [S, R] in metres, > 0 where the state [S, 5] violates it; R = 0 without a rule.

    A zone is entered when the robot's body overlaps it.
    """
    xy = states[:, :2]
    columns = []
    for colour in instruction.keep_out:
        zone = scene.zone(colour)
        if zone is not None:
            columns.append(box_depth(xy, zone) + ROBOT_RADIUS)
    if instruction.slow:
        columns.append((np.abs(states[:, 3]) - SPEED_LIMIT) * SPEED_TO_MARGIN)
    if instruction.clear:
        columns.extend(ROBOT_RADIUS + PILLAR_RADIUS + CLEARANCE - np.hypot(*(xy - p).T) for p in scene.pillars)
    return np.stack(columns, 1) if columns else np.zeros((len(states), 0))


def margin(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """The worst rule's margin, [S] in metres, clipped to ±:data:`MARGIN_LIMIT`; > 0 means "violates"."""
    worst = margins(states, scene, instruction).max(1, initial=-MARGIN_LIMIT)
    return np.clip(worst, -MARGIN_LIMIT, MARGIN_LIMIT)


def rules_in_words(scene: Scene, instruction: Instruction) -> list[str]:
    """A name for each column of :func:`margins`; what concerns several pillars has one name."""
    names = [f"keep out of the {colour} zone" for colour in instruction.keep_out if scene.zone(colour) is not None]
    names += [f"speed below {SPEED_LIMIT} m/s"] if instruction.slow else []
    return names + ([f"{CLEARANCE} m clear of the pillars"] * len(scene.pillars) if instruction.clear else [])


def broken_rules(state: np.ndarray, scene: Scene, instruction: Instruction) -> list[str]:
    """The rules that ``state`` [5] breaks, in words."""
    values = margins(state[None], scene, instruction)[0]
    names = rules_in_words(scene, instruction)
    return list(dict.fromkeys(name for name, value in zip(names, values, strict=True) if value > 0))


def reached(states: np.ndarray, scene: Scene, instruction: Instruction) -> np.ndarray:
    """Whether the robot's centre is on the goal pad, [S] bool.

    Raises:
        DomainError: the scene has no pad of the goal's colour.
    """
    return np.hypot(*(states[:, :2] - _goal(scene, instruction)).T) < PAD_RADIUS


@lru_cache(maxsize=16)  # judging, advising and driving ask for the same one in turn
def cost_field(scene: Scene, instruction: Instruction) -> np.ndarray:
    """Metres to go from each grid cell around what is forbidden, [Y, X] (eikonal equation, Sethian 1996).

    Speed is 1 in the open, lower near pillars, walls and forbidden zones and very low inside them, so the cost is
    finite everywhere and the cheapest way keeps a little distance. The array is read-only.
    """
    still = np.zeros((len(_CELLS), 5))
    still[:, :2] = _CELLS
    rules = Instruction(instruction.goal, instruction.keep_out, False, instruction.clear)
    room = -margins(still, scene, rules).max(1, initial=-1.0)  # m left to the nearest forbidden state
    body = [ARENA - np.abs(_CELLS).max(1)] + [np.hypot(*(_CELLS - p).T) - PILLAR_RADIUS for p in scene.pillars]
    room = np.minimum(room, np.min(body, 0) - ROBOT_RADIUS)
    shape = (len(_SIDE), len(_SIDE))
    speed = np.interp(room, [-0.05, 0.0, 0.06, 0.16], [0.08, 0.2, 0.6, 1.0]).reshape(shape)
    to_goal = np.hypot(*(_CELLS - _goal(scene, instruction)).T).reshape(shape)
    cost = np.asarray(skfmm.travel_time(to_goal - 0.5 * PAD_RADIUS, speed, dx=CELL)) * (to_goal > 0.5 * PAD_RADIUS)
    cost.flags.writeable = False  # it is shared
    return cost


def cost_to_go(states: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Metres to go, plus what turning towards the way costs, [S] for ``states`` [S, 5]."""
    distance = GRID.sample(field, states[:, :2])
    heading = np.stack([np.cos(states[:, 2]), np.sin(states[:, 2])], 1)
    facing = (heading * GRID.descent(field, states[:, :2])).sum(1)
    return distance + TURN_COST * (1 - facing) * np.minimum(1.0, distance / 0.3)


def referents(scene: Scene, instruction: Instruction) -> np.ndarray:
    """What the instruction names: [3, 4] rows (goal, first zone, second zone) of x, y, extent, present (0/1).

    In image coordinates, see :func:`in_image`. Zones come in the order in which they are named. A zone that is named
    but not there is absent.
    """
    rows = np.zeros((3, 4), np.float32)
    pad = scene.pad(instruction.goal)
    if pad is not None:
        rows[0] = pad.x, pad.y, PAD_RADIUS, VIEW
    named = [zone for colour in instruction.keep_out if (zone := scene.zone(colour)) is not None]
    for row, zone in enumerate(named[:2], start=1):
        rows[row] = zone.x, zone.y, zone.half, VIEW
    return rows / VIEW


def in_image(xy: np.ndarray) -> np.ndarray:
    """Points of the floor [..., 2] in metres as coordinates of the overhead image in [-1, 1], x right and y up."""
    return xy / VIEW


def places(states: np.ndarray) -> np.ndarray:
    """Where in the image the robot's centre is and the point :data:`NOSE` ahead, [S, 4], see :func:`in_image`."""
    ahead = NOSE * np.stack([np.cos(states[:, 2]), np.sin(states[:, 2])], 1)
    return np.concatenate([in_image(states[:, :2]), in_image(states[:, :2] + ahead)], 1)


def field(scene: Scene, instruction: Instruction, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cost and margin of standing at each cell of the camera's view, both [FIELD, FIELD], first row at the top."""
    side = ((np.arange(FIELD) + 0.5) * 2 / FIELD - 1) * VIEW
    x, y = np.meshgrid(side, -side)
    states = np.zeros((FIELD * FIELD, len(STATE)))
    states[:, 0], states[:, 1] = x.ravel(), y.ravel()
    shape = (FIELD, FIELD)
    return GRID.sample(costs, states[:, :2]).reshape(shape), margin(states, scene, instruction).reshape(shape)


def _goal(scene: Scene, instruction: Instruction) -> np.ndarray:
    pad = scene.pad(instruction.goal)
    if pad is None:
        raise DomainError(f"no {instruction.goal} pad in this scene; it has {[p.colour for p in scene.pads]}")
    return np.array([pad.x, pad.y])
