"""Killing the planner in the middle of a run stops the robot: nothing but the robot's own watchdog is left to do it."""

import signal
import sys
import time
from pathlib import Path

import pytest
import rclpy
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from tc_mmwm_core.domains.navigation.scene import draw_scene
from tc_mmwm_core.domains.navigation.simulator import Simulator
from tc_mmwm_ros.processes import Processes, executable

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_bundle.py, whatever pytest's import mode
from tiny_bundle import write_tiny_bundle

NAMESPACE = "__ns:=/kill"
STANDS = 0.05  # m/s; then it only rocks on its casters


@pytest.fixture
def odometry():
    """``odometry(condition, processes)``: the first message from now on that fulfils the condition."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("witness", context=context, namespace="kill")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard = []
    node.create_subscription(Odometry, "odom", heard.append, 50)

    def first(condition, processes, seconds=40.0):
        heard.clear()
        deadline = time.monotonic() + seconds
        while True:
            for message in heard:
                if condition(message):
                    return message
            heard.clear()
            processes.check()
            assert time.monotonic() < deadline, "waited in vain"
            executor.spin_once(timeout_sec=0.1)

    yield first
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def long_way_ahead():
    """Seed of a layout in which the robot can drive straight on for long."""
    simulator = Simulator(render=False)
    return next(seed for seed in range(100) if simulator.reset(draw_scene(seed)).ranges[0] > 2.6)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_robot_stands_half_a_second_after_its_planner_is_gone(tmp_path, odometry, number):
    write_tiny_bundle(tmp_path / "bundle")
    robot = [executable("sim_robot"), "--ros-args", "-r", NAMESPACE, "-p", f"seed:={long_way_ahead()}"]
    robot += ["-p", "publish_instruction:=false", "-p", "auto_reset:=false"]
    planner = [executable("planner"), "--ros-args", "-r", NAMESPACE, "-p", f"model:={tmp_path / 'bundle'}"]
    planner += ["-p", "autostart:=true", "-p", "instruction:=drive"]  # the tiny model drives straight on
    with Processes(tmp_path / "log") as processes:
        processes.start("sim_robot", robot)
        processes.start("planner", planner)
        odometry(lambda message: message.twist.twist.linear.x > 0.4, processes)
        killed = time.time()
        processes.stop("planner", number)
        stands = odometry(lambda message: abs(message.twist.twist.linear.x) < STANDS, processes)
        stopped = stands.header.stamp.sec + stands.header.stamp.nanosec * 1e-9
        assert stopped - killed < 0.5 + 0.05  # odometry comes each 0.05 s
