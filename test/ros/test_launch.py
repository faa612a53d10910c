"""``ros2 launch tc_mmwm_ros planner.launch.py`` as a user types it, with the real launch_ros.

A process of its own and no launch_testing plugin: the plugin imports every test module by its bare name and so trips
over the files of one name in our test folders (pyproject.toml switches it off).
"""

from __future__ import annotations

import importlib.util
import subprocess
import time

import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from tc_mmwm_ros.msg import EpisodeEvent, PlannerState
from tiny_bundle import write_tiny_bundle

from tc_mmwm_ros.processes import Processes

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("launch_ros") and importlib.util.find_spec("ros2launch")),
    reason="launch_ros and ros2launch are not installed: they come with a ROS 2 installation, not as wheels",
)

LAUNCH = ["ros2", "launch", "tc_mmwm_ros", "planner.launch.py"]
ARGUMENTS = [
    *("model", "robot", "params_file", "namespace", "use_sim_time"),
    *("autostart", "record", "bag", "sim", "transports", "log_level"),
]
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", namespace="robot1", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.spin_until = lambda condition, seconds: _spin_until(executor, condition, seconds)
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def _spin_until(executor, condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        executor.spin_once(timeout_sec=0.1)
    return True


def test_show_args_describes_every_argument():
    shown = subprocess.run([*LAUNCH, "--show-args"], capture_output=True, text=True, check=True).stdout
    described = shown.split("    '")[1:]
    assert [entry.split("'")[0] for entry in described] == ARGUMENTS
    for entry in described:
        assert "(default: " in entry and "no description given" not in entry, entry


def test_robot_planner_and_recorder_come_up_and_drive(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    params = tmp_path / "params.yaml"
    params.write_text(
        "/**/sim_robot: {ros__parameters: {publish_instruction: false, instruction: drive to the green pad}}\n"
        "/**/planner: {ros__parameters: {instruction: drive}}\n"  # the tiny bundle knows few words
        f"/**/recorder: {{ros__parameters: {{output: {tmp_path / 'bag'}}}}}\n"
    )
    states, commands, events = [], [], []
    node.create_subscription(PlannerState, "planner/state", states.append, LATCHED)
    node.create_subscription(TwistStamped, "cmd_vel", commands.append, 10)
    node.create_subscription(EpisodeEvent, "episode_event", events.append, LATCHED)
    with Processes(tmp_path / "logs") as processes:
        launch = processes.start(
            "launch",
            [*LAUNCH, "sim:=true", "record:=true", "namespace:=robot1", "use_sim_time:=true",
             f"model:={tmp_path / 'bundle'}", f"params_file:={params}"],
        )  # fmt: skip
        driving = node.spin_until(lambda: any(command.twist.linear.x > 0.1 for command in commands), 60)
        assert driving, processes.tail("launch")
        assert node.spin_until(lambda: states and states[-1].state == PlannerState.PLANNING, 10), states[-1]
        assert states[-1].bundle.startswith("tiny@")
        assert node.spin_until(lambda: events, 10)
        sim_time = commands[-1].header.stamp.sec
        assert sim_time < 1e6, "with use_sim_time the stamps must be the simulation's, which begin at 0"
        processes.stop("launch")
        assert launch.returncode == 0, processes.tail("launch")
    assert node.spin_until(lambda: commands[-1].twist.linear.x == 0, 5), "the safe action was not the last command"
    assert (tmp_path / "bag" / "metadata.yaml").is_file()


def test_the_folder_of_the_bag_wins_over_the_parameter_file(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    params = tmp_path / "params.yaml"
    params.write_text(f"/**/recorder: {{ros__parameters: {{output: {tmp_path / 'other'}}}}}\n")
    with Processes(tmp_path / "logs") as processes:
        processes.start(
            "launch",
            [*LAUNCH, "record:=true", f"bag:={tmp_path / '12'}", f"model:={tmp_path / 'bundle'}",
             f"params_file:={params}", "namespace:=robot1"],
        )  # fmt: skip
        assert node.spin_until(lambda: any(tmp_path.glob("12/*.mcap")), 60), processes.tail("launch")
    assert not (tmp_path / "other").exists()


def test_a_refused_configuration_says_why_and_how_to_go_on(tmp_path, node):
    with Processes(tmp_path / "logs") as processes:
        processes.start("launch", [*LAUNCH, f"model:={tmp_path / 'nowhere'}", "namespace:=robot1"])
        told = node.spin_until(lambda: "planner refused its configuration" in processes.tail("launch"), 60)
        assert told, processes.tail("launch")
        assert str(tmp_path / "nowhere") in processes.tail("launch")


def test_the_model_alone_brings_its_robot_interface_and_its_planner_parameters(tmp_path, node, share):
    states = []
    node.create_subscription(PlannerState, "planner/state", states.append, LATCHED)
    parameters = node.create_client(GetParameters, "planner/get_parameters")
    with Processes(tmp_path / "logs") as processes:
        processes.start("launch", [*LAUNCH, f"model:={share / 'bundles' / 'manipulation'}", "namespace:=robot1"])
        assert node.spin_until(lambda: states and states[-1].state == PlannerState.WAITING, 60), processes.tail(
            "launch"
        )
        assert states[-1].bundle.startswith("manipulation")
        assert node.spin_until(parameters.service_is_ready, 10)
        trust = parameters.call_async(GetParameters.Request(names=["trust"]))
        assert node.spin_until(trust.done, 10)
        assert trust.result().values[0].double_value > 0, (
            "config/planner/manipulation.yaml sets it, default.yaml does not"
        )


def test_a_refused_activation_says_why_and_how_to_go_on(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    params = tmp_path / "params.yaml"
    params.write_text("/**/planner: {ros__parameters: {require_instruction: true}}\n")
    with Processes(tmp_path / "logs") as processes:
        processes.start(
            "launch", [*LAUNCH, f"model:={tmp_path / 'bundle'}", f"params_file:={params}", "namespace:=robot1"]
        )
        told = node.spin_until(lambda: "planner refused to become active" in processes.tail("launch"), 60)
        assert told, processes.tail("launch")
        assert "cannot activate: instruction: none was given" in processes.tail("launch")


def test_activation_waits_for_the_instruction_that_it_requires(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    params = tmp_path / "params.yaml"
    params.write_text("/**/planner: {ros__parameters: {require_instruction: true}}\n")
    states = []
    node.create_subscription(PlannerState, "planner/state", states.append, LATCHED)
    node.create_publisher(String, "instruction", LATCHED).publish(String(data="drive"))
    with Processes(tmp_path / "logs") as processes:
        processes.start(
            "launch", [*LAUNCH, f"model:={tmp_path / 'bundle'}", f"params_file:={params}", "namespace:=robot1"]
        )
        active = node.spin_until(lambda: states and states[-1].state == PlannerState.WAITING, 60)
        assert active, processes.tail("launch")
        assert node.spin_until(lambda: states[-1].instruction == "drive", 10)


def test_without_autostart_it_waits_whatever_the_parameter_file_says(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    params = tmp_path / "params.yaml"
    params.write_text("/**/planner: {ros__parameters: {autostart: true}}\n")
    states = []
    node.create_subscription(PlannerState, "planner/state", states.append, LATCHED)
    with Processes(tmp_path / "logs") as processes:
        processes.start(
            "launch",
            [*LAUNCH, "autostart:=false", f"model:={tmp_path / 'bundle'}", f"params_file:={params}",
             "namespace:=robot1"],
        )  # fmt: skip
        assert node.spin_until(lambda: states, 60), processes.tail("launch")
        assert not node.spin_until(lambda: states[-1].state != PlannerState.UNCONFIGURED, 3)


def test_configured_again_by_hand_it_waits_to_be_activated_by_hand(tmp_path, node):
    write_tiny_bundle(tmp_path / "bundle")
    states = []
    node.create_subscription(PlannerState, "planner/state", states.append, LATCHED)
    change = node.create_client(ChangeState, "planner/change_state")

    def by_hand(transition: int) -> None:
        answer = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        assert node.spin_until(answer.done, 20) and answer.result().success

    with Processes(tmp_path / "logs") as processes:
        processes.start("launch", [*LAUNCH, f"model:={tmp_path / 'bundle'}", "namespace:=robot1"])
        assert node.spin_until(lambda: states and states[-1].state == PlannerState.WAITING, 60)
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            by_hand(transition)
        by_hand(Transition.TRANSITION_CONFIGURE)
        assert not node.spin_until(lambda: states[-1].state == PlannerState.WAITING, 3)
        assert states[-1].state == PlannerState.INACTIVE
