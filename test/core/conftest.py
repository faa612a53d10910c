"""Fixtures of the tests that need no ROS installation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from tc_mmwm_core.interface.robot import RobotInterface

sys.path.insert(0, str(Path(__file__).parent))  # robot_messages.py, trajectories.py, whatever pytest's import mode
NAVIGATION = Path(__file__).parents[2] / "config" / "robots" / "navigation.yaml"


@pytest.fixture
def robot() -> dict:
    """The content of navigation.yaml, to be bent by a test."""
    return yaml.safe_load(NAVIGATION.read_text())


@pytest.fixture(scope="session")
def navigation() -> RobotInterface:
    return RobotInterface.load(NAVIGATION)
