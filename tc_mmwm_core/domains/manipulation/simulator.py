"""Meta-World's Sawyer arm with two cameras: its physics as it is, coloured marks and zones painted into the pictures.

Marks and zones are drawn into the rendered scene alone, so an instruction changes what is allowed but never the
physics. What a layout varies (gain, mass and friction of the puck, light) are numbers of Meta-World's own models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

# Meta-World (Yu et al., CoRL 2019; v3): simulated arm tasks with scripted policies, the field's common benchmark.
from metaworld.envs import (
    SawyerPickPlaceWallEnvV3,
    SawyerPushEnvV3,
    SawyerPushWallEnvV3,
    SawyerReachWallEnvV3,
)
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.manipulation.scene import (
    MARK_RADIUS,
    VIEW,
    VIEW_CENTRE,
    WORKSPACE,
    WRIST_DISTANCE,
    WRIST_DOWN,
    WRIST_TARGET,
    WRIST_VIEW,
    Scene,
)

ENVIRONMENTS = {
    "reach-wall": SawyerReachWallEnvV3,
    "push": SawyerPushEnvV3,
    "push-wall": SawyerPushWallEnvV3,
    "pick-place-wall": SawyerPickPlaceWallEnvV3,
}
STEPS = 4  # of Meta-World in a control period
CONTROL_PERIOD = STEPS * 0.0125  # s; Meta-World steps five times 2.5 ms
FULL_SPEED = 0.01 / 0.0125  # m/s that an action of 1 commands in Meta-World: 1 cm a step
IMAGE = (64, 64)  # height, width
GAP_LIMIT = 0.3  # m, beyond which gaps are not measured
PLACE_HEIGHT = 0.02  # m, of the puck on the table
_CAMERA_HEIGHT = 3.0  # m above the table: far off and narrow, so that a hand 0.2 m up is seen less than 3 cm outwards
_HAND = ("right_hand", "rightclaw", "rightpad", "leftclaw", "leftpad")  # bodies whose touch counts
_BRIGHTNESS = 0.7  # of Meta-World's lights: with all of theirs bright colours are over-exposed and look alike
_UNSEEN = ("controller_box", "pedestal_feet", "torso", "pedestal", "right_arm_base_link", "right_l0", "head", "screen")


@dataclass(frozen=True)
class Reading:
    """What the arm senses, and beyond that what only a simulator knows. Metres, m/s."""

    images: dict[str, np.ndarray]  # overhead and wrist, uint8 [H, W, 3]; empty where rendering is off
    hand: np.ndarray  # [3], x, y, z
    velocity: np.ndarray  # [3], mean over the last control period
    opening: float  # between the fingers
    gripping: bool  # both fingers feel a force
    puck: np.ndarray  # [3], not sensed
    wall_gap: float  # least distance of hand or puck from the wall, not sensed
    puck_gap: float  # least distance of the hand from the puck, not sensed

    @property
    def sensor(self) -> np.ndarray:
        """The sensor vector in the order of ``config/robots/manipulation.yaml``, float32 [8]."""
        return np.array([*self.hand, *self.velocity, self.opening, self.gripping], np.float32)

    @property
    def state(self) -> np.ndarray:
        """The oracle's state, float32 [13], see :data:`oracle.STATE`."""
        return np.array([*self.sensor, *self.puck, self.wall_gap, self.puck_gap], np.float32)


class Simulator:
    """The table and its arm, one Meta-World environment a task. Not thread-safe; ``close`` it after use."""

    def __init__(self, render: bool = True) -> None:
        self.scene: Scene | None = None
        self._render = render
        self._tables: dict[str, _Table] = {}
        self._last_hand = np.zeros(3)

    @property
    def task(self) -> SawyerXYZEnv:
        """Meta-World's environment of the current scene."""
        return self._table.task

    @property
    def _table(self) -> _Table:
        return self._tables[self.scene.task]

    def reset(self, scene: Scene, target: np.ndarray) -> Reading:
        """Lay out ``scene`` with the arm at rest; ``target`` [3] m is what Meta-World's reward and policies go for."""
        self.scene = scene
        if scene.task not in self._tables:
            self._tables[scene.task] = _Table(scene.task, self._render)
        self._table.reset(scene, target)
        self._last_hand = self.task.get_endeff_pos().copy()
        return self.read()

    def step(self, action: np.ndarray) -> None:
        """Hold ``action`` (velocity x, y, z m/s; grip -1 open to 1 closed) for one control period."""
        self._last_hand = self.task.get_endeff_pos().copy()
        task, grip = self.task, float(action[3])
        velocity = np.asarray(action[:3], np.float64) * self.scene.factors.gain / FULL_SPEED
        for _ in range(STEPS):  # Meta-World's step without its reward, which takes seven eighths of the time
            task.set_xyz_action(velocity)
            task.do_simulation([grip, -grip], task.frame_skip)
            mujoco.mj_forward(task.model, task.data)

    def read(self, images: bool = True) -> Reading:
        """Sense now; ``images=False`` saves the rendering."""
        data, table = self.task.data, self._table
        hand = self.task.get_endeff_pos().copy()
        fingers = data.body("rightclaw").xpos - data.body("leftclaw").xpos
        return Reading(
            images=self.render() if images and self._render else {},
            hand=hand,
            velocity=(hand - self._last_hand) / CONTROL_PERIOD,
            opening=float(np.linalg.norm(fingers)),
            gripping=bool(self.task.touching_main_object),
            puck=data.geom("objGeom").xpos.copy(),
            wall_gap=table.gap([*table.hand, table.puck], table.wall) if table.wall is not None else GAP_LIMIT,
            puck_gap=table.gap(table.hand, table.puck),
        )

    def policy_observation(self) -> np.ndarray:
        """What Meta-World's scripted policies expect, [39]: its observation with the target in the last three."""
        now = self.task._get_curr_obs_combined_no_goal()
        return np.concatenate([now, now, self.task._target_pos])

    def render(self) -> dict[str, np.ndarray]:
        """Both cameras' images, uint8 [64, 64, 3] each."""
        return self._table.photograph(self.scene, self._table.renderer)

    def photograph(self, size: int = 480) -> dict[str, np.ndarray]:
        """Large pictures for people, uint8 [size, size, 3] each; ``size`` is at most 640."""
        with mujoco.Renderer(self.task.model, size, size) as renderer:
            return self._table.photograph(self.scene, renderer)

    def save(self) -> tuple:
        """The physics state and what the velocity is measured from, for :meth:`restore`; bit-exact."""
        kind, task = mujoco.mjtState.mjSTATE_INTEGRATION, self.task
        state = np.empty(mujoco.mj_stateSize(task.model, kind))
        mujoco.mj_getState(task.model, task.data, state, kind)
        return state, self._last_hand.copy()

    def restore(self, saved: tuple) -> None:
        """Back to a saved state of the same scene (set, forward, set: contacts and warm starts come back exactly)."""
        kind, task = mujoco.mjtState.mjSTATE_INTEGRATION, self.task
        state, last_hand = saved
        mujoco.mj_setState(task.model, task.data, state, kind)
        mujoco.mj_forward(task.model, task.data)
        mujoco.mj_setState(task.model, task.data, state, kind)
        self._last_hand = last_hand.copy()

    def close(self) -> None:
        """Free the renderers."""
        for table in self._tables.values():
            table.close()
        self._tables = {}


class _Table:
    """One task's Meta-World environment and its renderer."""

    def __init__(self, name: str, render: bool) -> None:
        self.task: SawyerXYZEnv = ENVIRONMENTS[name]()
        # The limits that every Meta-World environment is made with: no command leads the hand out of the picture.
        self.task.mocap_low, self.task.mocap_high = WORKSPACE
        self.task._freeze_rand_vec = True  # layouts are ours, not drawn by its own generator
        model = self.task.model
        self.puck = model.geom("objGeom").id
        self.wall = next(iter(self._geoms_of("wall")), None)
        self.hand = [geom for body in _HAND for geom in self._geoms_of(body) if model.geom_contype[geom]]
        self._nominal = (
            model.body("obj").mass.copy(),
            model.body("obj").inertia.copy(),
            model.geom("objGeom").friction.copy(),
            _BRIGHTNESS * model.light_diffuse,
            _BRIGHTNESS * model.vis.headlight.diffuse,
            _BRIGHTNESS * model.vis.headlight.ambient,
        )
        self.renderer: mujoco.Renderer | None = None
        if render:
            self._dress()
            self.renderer = mujoco.Renderer(model, *IMAGE)

    def _geoms_of(self, body: str) -> list[int]:
        model = self.task.model
        known = [model.body(i).name for i in range(model.nbody)]
        return np.flatnonzero(model.geom_bodyid == known.index(body)).tolist() if body in known else []

    def _dress(self) -> None:
        """Looks alone: no goal site, a light puck and a dark wall, and nothing drawn that no camera sees."""
        model = self.task.model
        model.site_rgba[:, 3] = 0
        for body, colour in (("obj", (0.95, 0.95, 0.95)), ("wall", (0.25, 0.25, 0.28))):
            for geom in self._geoms_of(body):
                model.geom_matid[geom] = -1
                model.geom_rgba[geom] = (*colour, 1)
        for body in _UNSEEN:
            for geom in self._geoms_of(body):
                model.geom_rgba[geom, 3] = 0
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = 640

    def reset(self, scene: Scene, target: np.ndarray) -> None:
        task, model, factors = self.task, self.task.model, scene.factors
        mass, inertia, friction, *lights = self._nominal
        model.body("obj").mass[:] = mass * factors.mass
        model.body("obj").inertia[:] = inertia * factors.mass
        model.geom("objGeom").friction[:] = friction * factors.friction
        headlight = model.vis.headlight
        for light, nominal in zip((model.light_diffuse, headlight.diffuse, headlight.ambient), lights, strict=True):
            light[:] = nominal * factors.light
        task._last_rand_vec = np.array([*scene.puck, PLACE_HEIGHT, *target])
        task.hand_init_pos = np.array(scene.hand)
        task.reset()

    def gap(self, movers: list[int], obstacle: int) -> float:
        """Least distance in metres between geoms, below 0 where they overlap, at most :data:`GAP_LIMIT`."""
        model, data = self.task.model, self.task.data
        gaps = [mujoco.mj_geomDistance(model, data, geom, obstacle, GAP_LIMIT, None) for geom in movers]
        return min(GAP_LIMIT, *gaps)  # of some geoms far apart MuJoCo says 1e10

    def photograph(self, scene: Scene, renderer: mujoco.Renderer) -> dict[str, np.ndarray]:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        images = {}
        for name, (camera, field_of_view) in _CAMERAS.items():
            self.task.model.vis.global_.fovy = field_of_view
            if name == "wrist":
                camera.lookat[:] = self.task.get_endeff_pos() + WRIST_TARGET
            renderer.update_scene(self.task.data, camera)
            for mark in scene.marks:
                _paint(renderer.scene, scene, mark, mujoco.mjtGeom.mjGEOM_CYLINDER, MARK_RADIUS)
            for zone in scene.zones:
                _paint(renderer.scene, scene, zone, mujoco.mjtGeom.mjGEOM_BOX, zone.half)
            images[name] = renderer.render()
        return images

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()
        self.task.close()


def _paint(drawn: mujoco.MjvScene, scene: Scene, shape: Any, kind: mujoco.mjtGeom, radius: float) -> None:
    """Add a mark or zone to what is about to be rendered, a millimetre high."""
    size = (radius, 0.001, 0.0) if kind == mujoco.mjtGeom.mjGEOM_CYLINDER else (radius, radius, 0.001)
    colour = np.clip(np.array(COLOURS[shape.colour]) + scene.factors.shade, 0, 1)
    geom = drawn.geoms[drawn.ngeom]
    mujoco.mjv_initGeom(
        geom, kind, np.array(size), np.array([shape.x, shape.y, 0.001]), np.eye(3).ravel(),
        np.array([*colour, 1], np.float32),
    )  # fmt: skip
    geom.specular = geom.shininess = 0
    drawn.ngeom += 1


def _camera(distance: float, azimuth: float, elevation: float) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = (*VIEW_CENTRE, 0.0)
    camera.distance, camera.azimuth, camera.elevation = distance, azimuth, elevation
    return camera


# Overhead: x right and y up in the image. Wrist: a camera that stood before the table in its place saw next to nothing
# of a puck that the hand was above.
_CAMERAS = {
    "overhead": (_camera(_CAMERA_HEIGHT, 90, -90), 2 * math.degrees(math.atan(VIEW / _CAMERA_HEIGHT))),
    "wrist": (_camera(WRIST_DISTANCE, 180, -WRIST_DOWN), WRIST_VIEW),
}
