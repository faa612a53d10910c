"""Shared by all tests: the installed package and not the source tree, and a DDS domain of this run's own.

Runs under ``colcon test`` and under plain ``pytest``; without ROS 2 the tests in test/ros are skipped.
"""

import importlib.util
import os
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the current folder on sys.path; from the repository root it would hide the installed package.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def _own_domain() -> socket.socket:
    """Take the first ROS domain that no other test run on this machine holds, for as long as the socket lives.

    The way of ROS 2's own domain_coordinator: one port of the loopback interface stands for each domain.
    """
    for domain in range(1, 102):  # above 101 DDS ports run into the ephemeral ones of Linux
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", 22119 + domain))
        except OSError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return lock
    raise RuntimeError("all 101 ROS domains are taken by other test runs")


_domain_lock = _own_domain()


def _missing_for_ros() -> str | None:
    for module in ("rclpy", "tc_mmwm_ros.msg"):
        try:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed"
    return None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Node tests import rclpy at their head: without ROS 2 they are not even collected (see pytest_report_header)."""
    in_ros = Path(__file__).parent / "ros" in collection_path.parents
    return True if in_ros and _missing_for_ros() else None


def pytest_report_header() -> str:
    missing = _missing_for_ros()
    ros = f"test/ros skipped: {missing}" if missing else f"ROS_DOMAIN_ID {os.environ['ROS_DOMAIN_ID']}, localhost only"
    return f"tc_mmwm: {ros}"


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The source tree, for tests of the sources themselves."""
    return ROOT


@pytest.fixture(scope="session")
def share() -> Path:
    """Folder that holds config/ and bundles/: the installed one, or the source tree where only core is installed."""
    from tc_mmwm_core.resources import resource

    return resource("config").parent
