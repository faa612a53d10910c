"""The tiny bundle, loaded once, and steps to feed it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.screener import Screener

sys.path.insert(0, str(Path(__file__).parents[2]))  # tiny_bundle.py, whatever pytest's import mode
from tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def screener(bundle) -> Screener:
    return Screener(bundle)


@pytest.fixture
def make_step(bundle):
    """``make_step(seconds, bumper=...)``: a step of the navigation robot."""
    robot = bundle.interface

    def make(seconds: float = 1.0, bumper: float = 0.0) -> Step:
        sensor = np.zeros(robot.sensor_size, np.float32)
        sensor[robot.sensor_names.index("bumper.pressed")] = bumper
        return Step(round(seconds * 1e9), {"overhead": np.full((64, 64, 3), 127, np.uint8)}, sensor, {})

    return make
