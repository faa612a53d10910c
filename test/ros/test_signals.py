"""What every node does to its process as it starts."""

import os
import subprocess
import sys

import pytest

CODE = "import os; from tc_mmwm_ros import signals; signals.init(); print(os.environ.get('FASTDDS_BUILTIN_TRANSPORTS'))"


def test_the_choice_of_transports_is_left_to_the_user(tmp_path):
    """A node that chose LARGE_DATA by itself could not be heard from machines that did not."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTDDS_BUILTIN_TRANSPORTS"}
    started = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert started.stdout == "None\n", started.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model", "bundles/mine"], "'--model bundles/mine' is not understood; give --ros-args -p NAME:=VALUE"),
        (["-p", "model:=bundles/mine"], "'-p' is not understood"),
        (["--ros-args", "--params-file", "nowhere.yaml"], "Couldn't parse params file: '--params-file nowhere.yaml'"),
        (["--ros-args", "-p", "instruction:="], "Couldn't parse parameter override rule: '-p instruction:='"),
        (["--ros-args", "--modle", "bundles/mine"], "--modle"),
    ],
)
def test_what_is_no_argument_is_refused_and_named(given, told, tmp_path):
    """rclpy passes over what it does not know: the planner would wait to be configured, with no model."""
    started = subprocess.run([sys.executable, "-c", CODE, *given], cwd=tmp_path, capture_output=True, text=True)
    assert started.returncode == 2 and told in started.stderr and "Traceback" not in started.stderr, started.stderr


def test_arguments_of_ros_are_taken(tmp_path):
    given = ["--ros-args", "-p", "model:=bundles/mine", "-r", "cmd_vel:=drive", "--log-level", "info"]
    started = subprocess.run([sys.executable, "-c", CODE, *given], cwd=tmp_path, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
