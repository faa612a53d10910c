"""The navigation robot in MuJoCo: two driven wheels, an overhead camera, a lidar and a bumper.

One MuJoCo model serves every layout: pads and zones are geoms that are moved, pillars are mocap bodies. Pads and zones
are paint: they have no contact, so an instruction changes what is allowed but never the physics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.navigation.scene import (
    ARENA,
    PAD_RADIUS,
    PILLAR_RADIUS,
    ROBOT_RADIUS,
    VIEW,
    Scene,
)

TIMESTEP = 0.005  # s, of the physics
SUBSTEPS = 20  # physics steps in a control period
CONTROL_PERIOD = SUBSTEPS * TIMESTEP  # s
IMAGE = (64, 64)  # height, width
LIDAR_RAYS = 24  # first ray straight ahead, counter-clockwise, REP-103
LIDAR_RANGE = 3.0  # m
_LIDAR_HEIGHT = 0.095  # m, above the wheels, through the hull (which rays pass)
_WHEEL_RADIUS, _TRACK = 0.04, 0.22  # m
_MAX_PADS, _MAX_ZONES, _MAX_PILLARS = 5, 4, 4
_PARKED = 50.0  # m, where unused geoms wait out of sight


def _model_xml() -> str:
    pads = "".join(
        f'<geom name="ring{i}" type="cylinder" size="{PAD_RADIUS} 0.0005" pos="{_PARKED} 0 0.002" contype="0"'
        f' conaffinity="0" rgba="1 1 1 1"/><geom name="pad{i}" type="cylinder" size="{PAD_RADIUS - 0.05} 0.0005"'
        f' pos="{_PARKED} 0 0.0035" contype="0" conaffinity="0"/>'
        for i in range(_MAX_PADS)
    )
    zones = "".join(
        f'<geom name="zone{i}" type="box" size="0.3 0.3 0.0004" pos="{_PARKED} 0 0.0008" contype="0" conaffinity="0"/>'
        for i in range(_MAX_ZONES)
    )
    pillars = "".join(
        f'<body name="pillar{i}" mocap="true" pos="{_PARKED} {i} 0.15"><geom type="cylinder" rgba=".3 .3 .33 1"'
        f' size="{PILLAR_RADIUS} 0.15"/></body>'
        for i in range(_MAX_PILLARS)
    )
    walls = "".join(
        f'<geom type="box" rgba=".35 .3 .28 1" size="{sx} {sy} 0.1" pos="{x} {y} 0.1"/>'
        for x, y, sx, sy in (
            (ARENA + 0.03, 0, 0.03, ARENA + 0.06),
            (-ARENA - 0.03, 0, 0.03, ARENA + 0.06),
            (0, ARENA + 0.03, ARENA + 0.06, 0.03),
            (0, -ARENA - 0.03, ARENA + 0.06, 0.03),
        )
    )
    field_of_view = 2 * math.degrees(math.atan(VIEW / 4.0))
    wheel = f'type="cylinder" size="{_WHEEL_RADIUS} 0.012" zaxis="0 1 0" rgba=".1 .1 .1 1" mass="0.1"'
    return f"""
<mujoco model="navigation">
  <option timestep="{TIMESTEP}" integrator="implicitfast"/>
  <visual><quality shadowsize="0" offsamples="0"/><headlight ambient=".45 .45 .45" diffuse=".5 .5 .5" specular="0 0 0"/>
    <map znear="0.01" zfar="30"/><global offwidth="640" offheight="640"/></visual>
  <worldbody>
    <camera name="overhead" pos="0 0 4" fovy="{field_of_view:.4f}"/>
    <geom name="floor" type="plane" size="3 3 3" rgba=".75 .75 .75 1"/>
    {walls}{pads}{zones}{pillars}
    <body name="robot" pos="0 0 {_WHEEL_RADIUS}">
      <freejoint name="base"/>
      <geom name="hull" type="cylinder" size="{ROBOT_RADIUS} 0.03" pos="0 0 0.03" mass="2" rgba=".08 .08 .10 1"/>
      <geom name="nose" type="box" size="0.05 0.025 0.004" pos="0.07 0 0.064" contype="0" conaffinity="0" mass="0"
            rgba="1 1 1 1"/>
      <geom name="caster_front" type="sphere" size="0.015" pos="0.09 0 -0.025" friction="0.01 0.001 0.0001" priority="1"
            mass="0.05"/>
      <geom name="caster_back" type="sphere" size="0.015" pos="-0.09 0 -0.025" friction="0.01 0.001 0.0001" priority="1"
            mass="0.05"/>
      <body pos="0 {_TRACK / 2} 0"><joint name="left" axis="0 1 0" damping="0.001"/>
        <geom name="left" {wheel}/></body>
      <body pos="0 {-_TRACK / 2} 0"><joint name="right" axis="0 1 0" damping="0.001"/>
        <geom name="right" {wheel}/></body>
    </body>
  </worldbody>
  <actuator><velocity joint="left" kv="0.15" forcerange="-1 1"/><velocity joint="right" kv="0.15" forcerange="-1 1"/>
  </actuator>
</mujoco>"""


@dataclass(frozen=True)
class Reading:
    """What the robot senses. Positions in metres, angles in radians, speeds in m/s and rad/s."""

    image: np.ndarray | None  # uint8 [H, W, 3], None where rendering is off
    pose: tuple[float, float, float]  # x, y, yaw from odometry
    forward_speed: float
    turn_rate: float
    ranges: np.ndarray  # float32 [LIDAR_RAYS], +inf where nothing is in range (REP-117)
    bumper: bool

    @property
    def images(self) -> dict[str, np.ndarray]:
        """The image by its camera's name; empty where rendering is off."""
        return {} if self.image is None else {"overhead": self.image}

    @property
    def sensor(self) -> np.ndarray:
        """The sensor vector in the order of ``config/robots/navigation.yaml``, float32 [31]."""
        x, y, yaw = self.pose
        odometry = [x, y, math.cos(yaw), math.sin(yaw), self.forward_speed, self.turn_rate]
        ranges = np.minimum(self.ranges, LIDAR_RANGE)
        return np.concatenate([odometry, ranges, [float(self.bumper)]]).astype(np.float32)

    @property
    def state(self) -> np.ndarray:
        """The oracle's state, float32 [5], see :data:`oracle.STATE`."""
        return np.array([*self.pose, self.forward_speed, self.turn_rate], np.float32)


class Simulator:
    """The arena and its robot. Not thread-safe; ``close`` it, or EGL prints harmless errors at exit."""

    def __init__(self, render: bool = True) -> None:
        self.model = mujoco.MjModel.from_xml_string(_model_xml())
        self.data = mujoco.MjData(self.model)
        self.scene: Scene | None = None
        self._renderer = self._make_renderer(*IMAGE) if render else None
        angles = 2 * np.pi * np.arange(LIDAR_RAYS) / LIDAR_RAYS
        self._rays = np.stack([np.cos(angles), np.sin(angles), np.zeros(LIDAR_RAYS)], 1)
        self._robot = self.model.body("robot").id
        self._robot_bodies = {b for b in range(self.model.nbody) if self.model.body_rootid[b] == self._robot}
        floor = self.model.geom("floor").id
        self._silent = {floor}
        self._friction = self.model.geom_friction.copy()

    def _make_renderer(self, height: int, width: int) -> mujoco.Renderer:
        renderer = mujoco.Renderer(self.model, height, width)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer

    def reset(self, scene: Scene) -> Reading:
        """Lay out ``scene`` and put the robot at its start, at rest."""
        model, data, factors = self.model, self.data, scene.factors
        mujoco.mj_resetData(model, data)
        self.scene = scene
        model.geom_pos[[model.geom(f"{kind}{i}").id for kind in ("pad", "ring") for i in range(_MAX_PADS)], 0] = _PARKED
        model.geom_pos[[model.geom(f"zone{i}").id for i in range(_MAX_ZONES)], 0] = _PARKED
        for i, pad in enumerate(scene.pads):
            for kind in ("pad", "ring"):
                model.geom(f"{kind}{i}").pos[:2] = pad.x, pad.y
            model.geom(f"pad{i}").rgba[:3] = self._shaded(pad.colour)
        for i, zone in enumerate(scene.zones):
            geom = model.geom(f"zone{i}")
            geom.pos[:2] = zone.x, zone.y
            geom.size[:2] = zone.half
            model.geom_rbound[geom.id] = math.hypot(zone.half, zone.half)
            geom.rgba[:3] = self._shaded(zone.colour)
        data.mocap_pos[:, 0] = _PARKED
        for i, (x, y) in enumerate(scene.pillars):
            data.mocap_pos[i, :2] = x, y
        model.geom("floor").rgba[:3] = factors.floor
        model.vis.headlight.ambient[:] = 0.45 * factors.light
        model.vis.headlight.diffuse[:] = 0.5 * factors.light
        model.geom_friction[:] = self._friction
        for wheel in ("left", "right"):
            model.geom(wheel).friction[0] = self._friction[model.geom(wheel).id, 0] * factors.friction
        self.place(scene.start)
        return self.read()

    def place(self, pose: tuple[float, float, float], forward_speed: float = 0.0, turn_rate: float = 0.0) -> None:
        """Put the robot at ``pose`` (x m, y m, yaw rad) with the wheels turning for the given body speeds."""
        x, y, yaw = pose
        self.data.qpos[:7] = x, y, _WHEEL_RADIUS, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)
        self.data.qvel[:6] = forward_speed * math.cos(yaw), forward_speed * math.sin(yaw), 0, 0, 0, turn_rate
        self.data.qvel[6:8] = self._wheel_rates(forward_speed, turn_rate)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray, substeps: int = SUBSTEPS) -> None:
        """Hold ``action`` (forward m/s, turn rad/s) for one control period, or ``substeps`` of :data:`TIMESTEP`."""
        gain = self.scene.factors.motor_gain if self.scene else 1.0
        self.data.ctrl[:] = self._wheel_rates(float(action[0]) * gain, float(action[1]) * gain)
        mujoco.mj_step(self.model, self.data, substeps)

    def read(self, image: bool = True) -> Reading:
        """Sense now; ``image=False`` saves the rendering."""
        x, y = self.data.qpos[:2]
        w, _, _, z = self.data.qpos[3:7]
        yaw = 2 * math.atan2(z, w)
        yaw = math.atan2(math.sin(yaw), math.cos(yaw))
        vx, vy = self.data.qvel[:2]
        return Reading(
            image=self.render() if image and self._renderer is not None else None,
            pose=(float(x), float(y), yaw),
            forward_speed=float(vx * math.cos(yaw) + vy * math.sin(yaw)),
            turn_rate=float(self.data.qvel[5]),
            ranges=self._scan(x, y, yaw),
            bumper=self._touching(),
        )

    def render(self) -> np.ndarray:
        """The overhead camera's image, uint8 [64, 64, 3]."""
        if self._renderer is None:
            raise RuntimeError("this Simulator was made with render=False")
        self._renderer.update_scene(self.data, "overhead")
        return self._renderer.render()

    def photograph(self, size: int = 640) -> np.ndarray:
        """A large overhead picture for people, uint8 [size, size, 3]; ``size`` is at most 640."""
        renderer = self._make_renderer(size, size)
        renderer.update_scene(self.data, "overhead")
        picture = renderer.render()
        renderer.close()
        return picture

    def save(self) -> np.ndarray:
        """The physics state, for :meth:`restore`; bit-exact."""
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def restore(self, state: np.ndarray) -> None:
        """Back to a saved state of the same scene (set, forward, set: contacts and warm starts come back exactly)."""
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(self.model, self.data, state, kind)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state, kind)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _shaded(self, colour: str) -> np.ndarray:
        return np.clip(np.array(COLOURS[colour]) + (self.scene.factors.shade if self.scene else 0.0), 0, 1)

    @staticmethod
    def _wheel_rates(forward: float, turn: float) -> tuple[float, float]:
        half = turn * _TRACK / 2
        return (forward - half) / _WHEEL_RADIUS, (forward + half) / _WHEEL_RADIUS

    def _scan(self, x: float, y: float, yaw: float) -> np.ndarray:
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        rays = np.ascontiguousarray(self._rays @ turn).ravel()
        hit = np.zeros(LIDAR_RAYS, np.int32)
        distance = np.zeros(LIDAR_RAYS)
        start = np.array([x, y, _LIDAR_HEIGHT])
        mujoco.mj_multiRay(
            self.model, self.data, start, rays, None, 1, self._robot, hit, distance, LIDAR_RAYS, LIDAR_RANGE
        )
        # mj_multiRay's cutoff only leaves out geoms that are farther as a whole.
        return np.where((hit >= 0) & (distance <= LIDAR_RANGE), distance, np.inf).astype(np.float32)

    def _touching(self) -> bool:
        body = self.model.geom_bodyid
        for contact in self.data.contact[: self.data.ncon]:
            one, two = int(contact.geom[0]), int(contact.geom[1])
            mine = (int(body[one]) in self._robot_bodies, int(body[two]) in self._robot_bodies)
            if mine[0] != mine[1] and not {one, two} & self._silent:
                return True
        return False
