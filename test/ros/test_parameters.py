"""What ``--help`` tells of each node, from what the node itself declares."""

from __future__ import annotations

import subprocess

import pytest
import rclpy
from rcl_interfaces.msg import ParameterDescriptor

from tc_mmwm_ros import label, planner, recorder, sim_robot
from tc_mmwm_ros.parameters import describe, helped
from tc_mmwm_ros.processes import executable


@pytest.mark.parametrize("node", [planner, recorder, sim_robot, label])
@pytest.mark.parametrize("arguments", [["--help"], ["--ros-args", "-p", "robot:=/nowhere.yaml", "-h"]])
def test_every_node_tells_its_topics_parameters_and_an_example_without_starting_ros(node, arguments, capsys):
    assert node.main(arguments) == 0
    assert not rclpy.ok()
    told = " ".join(capsys.readouterr().out.split())
    assert "`" not in told
    name = node.__name__.rpartition(".")[2]
    assert told.startswith(f"usage: ros2 run tc_mmwm_ros {name} --ros-args") and "Publishes" in told
    assert f"For example: ros2 run tc_mmwm_ros {name} --ros-args -p " in told
    for parameter, _, descriptor in node.PARAMETERS:
        assert f" {parameter} (" in told and descriptor.description in told


def test_the_command_line_is_asked_for_help_too():
    result = subprocess.run([executable("planner"), "--help"], capture_output=True, text=True, timeout=60, cwd="/")
    assert result.returncode == 0 and "proposals.candidates" in result.stdout and result.stderr == ""


def test_type_default_and_range_are_told(capsys):
    choice = ParameterDescriptor(description="how", additional_constraints="one of: a, b")
    declarations = [
        ("some", 0.5, describe("a share", 0.0, 1.0)),
        ("many", 3, describe("a count", 1, 2**53)),
        ("names", ["a"], describe("words")),
        ("how", "a", choice),
        ("on", True, describe("whether")),
        ("wide", 1.0, describe("a width", 5e-324, 2.0)),
    ]
    assert helped(["-h"], "robot", "It drives ``fast``.", declarations, "-p some:=1.0")
    told = " ".join(capsys.readouterr().out.split())
    assert "It drives fast." in told
    assert "some (double; 0 to 1; default 0.5) a share many (integer; at least 1; default 3) a count" in told
    assert 'names (string_array; default ["a"]) words how (string; one of: a, b; default "a") how' in told
    assert "on (bool; default true) whether wide (double; above 0 to 2; default 1.0) a width" in told
    assert not helped(["--ros-args"], "robot", "", declarations, "")
