"""Trajectories with recognisable contents."""

from __future__ import annotations

import numpy as np

from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.robot import RobotInterface


def make_trajectory(interface: RobotInterface, seed: int, length: int = 12, valid=None) -> Trajectory:
    """Noise of ``seed``; sensor[t, 0] is t and sensor[t, 1] the seed, so that a window tells where it is from."""
    rng = np.random.default_rng(seed)
    sensor = rng.normal(size=(length, interface.sensor_size)).astype(np.float32)
    sensor[:, 0] = np.arange(length)
    sensor[:, 1] = seed
    return Trajectory(
        images={
            spec.name: rng.integers(0, 256, (length, spec.height, spec.width, spec.channels), np.uint8)
            for spec in interface.images
        },
        sensor=sensor,
        action=rng.normal(size=(length, interface.action_size)).astype(np.float32),
        valid=np.ones(length, bool) if valid is None else np.asarray(valid, bool),
        violation=rng.integers(-1, 2, length).astype(np.int8),
        instruction=f"drive to pad {seed}",
        success=bool(seed % 2),
        source="simulated",
        provenance={"seed": seed},
        scene={"pads": [seed]},
        state=rng.normal(size=(length, 5)).astype(np.float32),
    )
