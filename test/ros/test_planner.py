"""The planner node over real DDS, with a tiny but real bundle: what it does with every row of its safety table."""

from __future__ import annotations

import gc
import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
import yaml
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from planner_rig import LATCHED, Robot, Spinner, image
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState, LaserScan
from std_msgs.msg import Bool, Header, String
from tc_mmwm_ros.msg import EpisodeEvent, LatentState, Screening
from tc_mmwm_ros.msg import PlannerState as PlannerStateMessage
from tiny_bundle import HORIZON, ROBOT, position_commanded, tiny_files, tiny_manifest, write_tiny_bundle
from visualization_msgs.msg import MarkerArray

from tc_mmwm_core.interface.action import read_action
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.runtime.bundle import write_bundle
from tc_mmwm_core.runtime.planner import NODE_PARAMETERS, PlannerConfig, PlannerState
from tc_mmwm_core.runtime.selection import Verdict
from tc_mmwm_ros.planner import PlannerNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
PERIOD = 0.1  # of navigation.yaml
SLACK = 0.15  # what a busy machine may add to a promise


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path)


@pytest.fixture
def robot():
    node = Robot()
    yield node
    node.destroy_node()


@pytest.fixture
def make_planner(model):
    nodes = []

    def make(**parameters) -> PlannerNode:
        values = {"model": model} | parameters
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        nodes.append(PlannerNode(parameter_overrides=overrides))
        return nodes[-1]

    yield make
    while nodes:
        nodes.pop().destroy_node()
    gc.collect()  # else it ends later, and the graph forgets the name of its successor in this process: the same


@pytest.fixture
def driving(make_planner, robot):
    """Planner, robot and spinner, driving ahead on the instruction "drive"."""
    planner = make_planner(instruction="drive")
    assert planner.trigger_configure() == SUCCESS
    assert planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed == pytest.approx(0.7))
    return planner, robot, spinner


def test_enums_are_those_of_the_messages():
    for state in PlannerState:
        assert getattr(PlannerStateMessage, state.name) == state
    for verdict in Verdict:
        assert getattr(Screening, verdict.name) == verdict


def test_waits_with_the_safe_action_until_it_is_told_what_to_do(make_planner, robot):
    planner = make_planner()
    planner.trigger_configure()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.INACTIVE)
    spinner.spin(3 * PERIOD)
    assert robot.commands == [], "inactive: nothing is published"
    planner.trigger_activate()
    spinner.until(lambda: len(robot.commands) >= 3)
    assert robot.state == PlannerState.WAITING and robot.stopped
    spinner.until(lambda: "instruction: none" in robot.states[-1].reason)
    robot.instruct("drive")
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)
    assert robot.states[-1].instruction == "drive"
    assert robot.states[-1].bundle.startswith("tiny@")
    assert robot.states[-1].provider == "CPUExecutionProvider"


def test_latency_is_that_of_decisions_not_of_waiting(make_planner, robot):
    planner = make_planner()
    planner.trigger_configure()
    planner.trigger_activate()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: len(robot.commands) >= 3)
    assert robot.states[-1].latency_p50 == 0, "nothing was decided yet"
    robot.instruct("drive")
    spinner.until(lambda: robot.states[-1].decisions >= 3 and robot.states[-1].latency_p50 > 0)
    assert len(planner._latencies) == planner._decisions


def test_commands_come_at_the_rate_of_the_interface_and_within_limits(driving):
    _, robot, spinner = driving
    robot.commands.clear()
    spinner.until(lambda: len(robot.commands) >= 11)
    times = [when for when, *_ in robot.commands]
    assert np.median(np.diff(times)) == pytest.approx(PERIOD, rel=0.2)  # a busy machine may skip a period
    assert all(-0.3 <= forward <= 0.7 + 1e-6 and abs(turn) <= 2.5 for _, forward, turn in robot.commands)


def test_a_silent_sensor_stops_the_robot_within_a_period_and_it_recovers(driving):
    _, robot, spinner = driving
    scan, robot.messages["scan"] = robot.messages["scan"], None
    took = spinner.until(lambda: robot.stopped)
    assert took < 0.35 + PERIOD + SLACK  # max_age of the interface, then one period
    spinner.until(lambda: robot.state == PlannerState.STALE_INPUT)
    assert "scan" in robot.states[-1].reason and "0.35" in robot.states[-1].reason
    robot.messages["scan"] = scan
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def break_odometry(robot):
    robot.messages["odom"].pose.pose.position.x = float("nan")


def break_encoding(robot):
    robot.messages["camera/image_raw"] = image(64, 64, "16UC1")


def break_size(robot):
    robot.messages["camera/image_raw"] = image(48, 64, "rgb8")


def break_scan(robot):
    robot.messages["scan"] = LaserScan(ranges=[1.0] * 23)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_odometry, ("odom", "pose.pose.position.x", "nan")),
        (break_encoding, ("camera/image_raw", "16UC1")),
        (break_size, ("camera/image_raw", "48")),
        (break_scan, ("scan", "23", "24")),
    ],
)
def test_bad_input_stops_the_robot_within_a_period_and_it_recovers(driving, damage, words):
    _, robot, spinner = driving
    good = dict(robot.messages)
    damage(robot)
    robot.sense()
    assert spinner.until(lambda: robot.stopped) < PERIOD + SLACK
    spinner.until(lambda: robot.state == PlannerState.BAD_INPUT)
    for word in words:
        assert word in robot.states[-1].reason
    robot.messages = good
    robot.messages["odom"].pose.pose.position.x = 0.0
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_everything_rejected_stops_and_says_why_of_each_candidate(driving):
    _, robot, spinner = driving
    screenings = []
    robot.create_subscription(Screening, "planner/screening", screenings.append, rclpy.qos.qos_profile_sensor_data)
    spinner.until(lambda: screenings)
    first = screenings[-1]
    assert (first.count, first.horizon, list(first.fields)) == (256, HORIZON, ["forward", "turn"])
    assert len(first.actions) == 256 * HORIZON * 2 and len(first.violation) == len(first.progress) == 256 * HORIZON
    assert first.verdict[first.chosen] == Screening.ACCEPTED and first.reason[first.chosen] == ""
    assert first.step_duration == pytest.approx(0.2) and first.threshold == pytest.approx(0.25)
    robot.messages["bumper"].data = True
    spinner.until(lambda: robot.state == PlannerState.ALL_REJECTED)
    assert "all 256 candidates rejected" in robot.states[-1].reason
    spinner.until(lambda: screenings[-1].chosen == -1)
    assert robot.stopped
    assert set(screenings[-1].verdict) == {Screening.REJECTED_VIOLATION}
    assert all("violation 10.000 > 0.250" in reason for reason in screenings[-1].reason)
    robot.messages["bumper"].data = False
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_another_instruction_changes_what_is_done(driving):
    _, robot, spinner = driving
    robot.instruct("drive slow")
    spinner.until(lambda: robot.states[-1].instruction == "drive slow")
    spinner.until(lambda: robot.speed < 0.4)
    robot.commands.clear()
    spinner.until(lambda: len(robot.commands) >= 5)
    assert max(forward for _, forward, _ in robot.commands) <= 0.325 + 1e-6


def test_a_volatile_publisher_is_heard_as_a_latched_one_is(driving):
    """As ``ros2 topic pub``, rqt and most speech nodes publish: volatile, once the subscription is matched."""
    _, robot, spinner = driving
    speaker = robot.create_publisher(String, "instruction", 10)
    spinner.until(lambda: speaker.get_subscription_count() > 0)
    speaker.publish(String(data="drive slow"))
    spinner.until(lambda: robot.states[-1].instruction == "drive slow")
    robot.instruct("drive right")
    spinner.until(lambda: robot.states[-1].instruction == "drive right")


def test_of_several_latched_instructions_the_newest_is_in_force(make_planner, robot):
    """All are there before the planner is; which publisher is discovered last is a matter of luck."""
    for text in ("drive slow", "drive right", "drive slow right", "drive"):
        robot.latch(text)
    planner = make_planner(instruction="slow")
    planner.trigger_configure()
    planner.trigger_activate()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.states and robot.states[-1].instruction == "drive")
    spinner.spin(1.0)
    assert robot.states[-1].instruction == "drive"


def test_a_latched_sensor_is_heard_though_it_spoke_once_and_before(make_planner, robot, tmp_path):
    content = yaml.safe_load(ROBOT.read_text())
    content["sensors"][2] |= {"latched": True, "max_age": 1000.0}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    del robot.messages["bumper"]
    robot.destroy_publisher(robot._sensors["bumper"])
    bumper = robot.create_publisher(Bool, "bumper", LATCHED)
    bumper.publish(Bool(data=False))
    planner = make_planner(robot=str(tmp_path / "robot.yaml"), instruction="drive")
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)
    begun = []
    planner._planner.begin_episode = lambda: begun.append(planner._step)
    events = robot.create_publisher(EpisodeEvent, "episode_event", 10)
    spinner.until(lambda: events.get_subscription_count() > 0)
    start = EpisodeEvent(kind=EpisodeEvent.START)
    start.header.stamp = robot.get_clock().now().to_msg()
    events.publish(start)
    spinner.until(lambda: begun)  # what is latched is not said again for it
    bumper.publish(Bool(data=True))
    spinner.until(lambda: robot.state == PlannerState.ALL_REJECTED)


def test_a_latched_instruction_that_comes_late_does_not_replace_what_was_said_since(make_planner, robot, capfd):
    robot.latch("slow")  # long ago, by somebody whom the planner has not discovered yet
    planner = make_planner()
    planner.set_parameters([Parameter("instruction", value="drive")])
    planner.trigger_configure()
    planner.trigger_activate()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING)
    spinner.spin(1.0)
    assert robot.states[-1].instruction == "drive"
    logged = capfd.readouterr().err
    assert "instruction: 'slow' is ignored: it was said" in logged and "before 'drive'" in logged
    robot.instruct("drive slow")
    spinner.until(lambda: robot.states[-1].instruction == "drive slow")


@pytest.mark.parametrize(
    ("text", "reason"), [("drive " * 1667, "10002 characters, at most 1000"), ("", "empty"), ("drive home", "'home'")]
)
def test_an_instruction_that_cannot_be_read_stops_until_a_good_one_comes(driving, text, reason):
    _, robot, spinner = driving
    robot.instruct(text)
    spinner.until(lambda: robot.state == PlannerState.BAD_INPUT)
    assert reason in robot.states[-1].reason
    assert robot.states[-1].instruction == ""
    spinner.until(lambda: robot.stopped)
    robot.instruct("drive")
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_told_to_stop_it_stops_until_it_is_told_something_else(driving):
    _, robot, spinner = driving
    robot.instruct("Stop!")
    spinner.until(lambda: robot.state == PlannerState.WAITING and robot.stopped)
    assert (robot.states[-1].reason, robot.states[-1].instruction) == ("told to stop", "")
    robot.commands.clear()
    spinner.until(lambda: len(robot.commands) >= 3)
    assert all(command[1:] == (0.0, 0.0) for command in robot.commands)
    robot.instruct("drive")
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_where_its_goal_is_not_in_view_it_stays_and_says_so_until_it_is(make_planner, robot, tmp_path):
    """The tiny bundle's goal is in view where it is bright."""
    bundle = write_tiny_bundle(tmp_path / "tiny", goal_threshold=-50.0)
    bright, dark = image(64, 64, "rgb8"), image(64, 64, "rgb8", grey=20)
    robot.messages["camera/image_raw"] = dark
    planner = make_planner(model=str(bundle.path), instruction="drive")
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.GOAL_NOT_FOUND and robot.stopped)
    assert "nothing in view is what 'drive' asks for" in robot.states[-1].reason
    assert robot.states[-1].instruction == "drive"
    robot.messages["camera/image_raw"] = bright
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)
    robot.messages["camera/image_raw"] = dark
    spinner.spin(3 * PERIOD)
    assert robot.state == PlannerState.PLANNING, "it was seen, and may be hidden now"


def test_deactivation_publishes_the_safe_action_last(driving):
    planner, robot, spinner = driving
    assert planner.trigger_deactivate() == SUCCESS
    spinner.until(lambda: robot.stopped and robot.state == PlannerState.INACTIVE)
    count = len(robot.commands)
    spinner.spin(4 * PERIOD)
    assert len(robot.commands) == count
    assert planner.trigger_activate() == SUCCESS
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_cleanup_and_configure_again_with_other_parameters(driving):
    planner, robot, spinner = driving
    refused = planner.set_parameters([Parameter("proposals.candidates", value=64)])[0]
    assert not refused.successful and "clean it up first" in refused.reason
    planner.trigger_deactivate()
    planner.trigger_cleanup()
    spinner.until(lambda: robot.state == PlannerState.UNCONFIGURED)
    assert planner.set_parameters([Parameter("proposals.candidates", value=64)])[0].successful
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner.until(lambda: robot.state == PlannerState.PLANNING)
    spinner.until(lambda: robot.states[-1].candidates == 64)


@pytest.mark.parametrize(("given", "left"), [("", ""), ("drive slow", "drive slow")])
def test_cleanup_forgets_what_was_said_but_for_the_parameter(make_planner, robot, given, left):
    planner = make_planner(instruction=given)
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    speaker = robot.create_publisher(String, "instruction", 10)
    spinner.until(lambda: speaker.get_subscription_count() > 0)
    speaker.publish(String(data="drive right"))
    spinner.until(lambda: robot.states and robot.states[-1].instruction == "drive right")
    planner.trigger_deactivate(), planner.trigger_cleanup()
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    state = PlannerState.PLANNING if left else PlannerState.WAITING
    spinner.until(lambda: robot.state == state and robot.states[-1].instruction == left)
    spinner.until(lambda: speaker.get_subscription_count() > 0)
    robot.instruct("drive")  # latched: it is there again
    spinner.until(lambda: robot.states[-1].instruction == "drive")
    planner.trigger_deactivate(), planner.trigger_cleanup()
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.states[-1].instruction == "drive")


def test_told_to_stop_it_stays_so_when_it_was_cleaned_up(driving):
    planner, robot, spinner = driving
    robot.instruct("drive")
    spinner.spin(0.5)
    speaker = robot.create_publisher(String, "instruction", 10)
    spinner.until(lambda: speaker.get_subscription_count() > 0)
    speaker.publish(String(data="stop"))
    spinner.until(lambda: robot.state == PlannerState.WAITING)
    planner.trigger_deactivate(), planner.trigger_cleanup()
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    robot.commands.clear()
    spinner.until(lambda: len(robot.commands) >= 5 and robot.states[-1].reason == "told to stop")
    assert all(command[1:] == (0.0, 0.0) for command in robot.commands)


def test_its_own_error_stops_the_robot_and_deactivates(driving):
    planner, robot, spinner = driving
    del planner._planner.screener._encode  # what a bug would do
    spinner.until(lambda: robot.state == PlannerState.FAILED)
    assert "_encode" in robot.states[-1].reason
    spinner.until(lambda: robot.stopped)
    count = len(robot.commands)
    spinner.spin(3 * PERIOD)
    assert len(robot.commands) == count, "silent after the safe action"
    assert planner._state_machine.current_state[0] == State.PRIMARY_STATE_INACTIVE


def test_late_twice_running_stops_and_is_counted(make_planner, robot):
    planner = make_planner(instruction="drive", deadline=1e-6)
    planner.trigger_configure()
    planner.trigger_activate()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.DEADLINE_MISSED and robot.states[-1].deadline_misses > 5)
    assert robot.stopped
    assert "after its tick was due, allowed are 1e-06 s" in robot.states[-1].reason


def delay(planner, monkeypatch, seconds: float) -> None:
    """The next decision takes so long, as where another process takes the cores."""
    decide = planner._planner.decide

    def slow(*arguments):
        monkeypatch.undo()
        time.sleep(seconds)
        return decide(*arguments)

    monkeypatch.setattr(planner._planner, "decide", slow)


def test_one_slightly_late_decision_is_executed_and_counted(driving, monkeypatch):
    planner, robot, spinner = driving
    planner._deadline.period = 0.2  # so that a busy machine does not make it twice as late
    delay(planner, monkeypatch, 0.22)
    spinner.until(lambda: planner._deadline.misses == 1)
    count = len(robot.commands)
    spinner.until(lambda: len(robot.commands) > count)
    assert all(forward == pytest.approx(0.7) for _, forward, _ in robot.commands[-2:])


@pytest.mark.parametrize(
    ("deadline", "state", "reason"),
    [
        (0.1, PlannerState.DEADLINE_MISSED, "allowed are 0.1 s, once up to 2 times that"),
        (0.3, PlannerState.DEADLINE_MISSED, "old by now, allowed are 0.35 s; ms: "),
        (2.0, PlannerState.STALE_INPUT, "old by now, allowed are 0.35 s; the decision took 0.4"),
    ],
)
def test_the_first_decision_that_is_old_is_not_executed(driving, monkeypatch, deadline, state, reason):
    planner, robot, spinner = driving
    planner._deadline.period = deadline
    delay(planner, monkeypatch, 0.42)  # no whole number of periods: the next tick is not due at once
    spinner.until(lambda: state in [message.state for message in robot.states])
    assert reason in next(message for message in robot.states if message.state == state).reason
    assert (0.0, 0.0) in [command[1:] for command in robot.commands]
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


def test_decisions_that_take_longer_than_a_period_drive_where_the_deadline_allows_it(
    make_planner, robot, monkeypatch, tmp_path
):
    content = yaml.safe_load(ROBOT.read_text())
    for spec in (*content["images"], *content["sensors"]):
        spec["max_age"] = 5.0
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    planner = make_planner(robot=str(tmp_path / "robot.yaml"), instruction="drive", deadline=1.0)
    assert planner.trigger_configure() == SUCCESS
    decide = planner._planner.decide
    monkeypatch.setattr(planner._planner, "decide", lambda *arguments: time.sleep(0.6) or decide(*arguments))
    assert planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING)
    robot.states.clear()
    spinner.until(lambda: len(robot.states) >= 5)  # reports of once a second
    assert {message.state for message in robot.states} == {PlannerState.PLANNING}
    assert robot.states[-1].deadline_misses == 0 and robot.speed == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": ""}, ("parameter 'model' is empty",)),
        ({"model": "/nowhere"}, ("/nowhere: no such folder",)),
        ({"robot": "/nowhere.yaml"}, ("/nowhere.yaml: no such file",)),
        ({"provider": "tensorrt"}, ("TensorrtExecutionProvider is not available",)),
        ({"proposals__refinement__method": "newton"}, ("proposals.refinement.method", "newton", "mppi")),
    ],
)
def test_what_does_not_fit_fails_configure_by_name(make_planner, capfd, parameters, words):
    planner = make_planner(**parameters)
    assert planner.trigger_configure() == FAILURE
    logged = capfd.readouterr().err
    assert "cannot configure" in logged
    for word in words:
        assert word in logged
    assert planner._state_machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED


def test_a_refusal_stays_to_be_read_until_a_transition_succeeds(make_planner, robot, model):
    planner = make_planner(model="/nowhere", require_instruction=True)
    spinner = Spinner(planner, robot)

    def told(state, words, level):
        def diagnosed(status):
            return status.level == level and state.name in status.message and words in status.message

        spinner.until(lambda: robot.state == state and robot.states[-1].reason.startswith(words))
        robot.diagnostics.clear()
        spinner.until(lambda: any(diagnosed(message.status[0]) for message in robot.diagnostics))

    told(PlannerState.UNCONFIGURED, "", DiagnosticStatus.OK)
    assert planner.trigger_configure() == FAILURE
    told(PlannerState.UNCONFIGURED, "cannot configure: /nowhere: no such folder", DiagnosticStatus.ERROR)
    planner.set_parameters([Parameter("model", value=model)])
    assert planner.trigger_configure() == SUCCESS
    told(PlannerState.INACTIVE, "", DiagnosticStatus.OK)
    assert robot.states[-1].reason == ""
    planner.set_parameters([Parameter("instruction", value="drive home")])
    assert planner.trigger_activate() == FAILURE
    told(PlannerState.INACTIVE, "cannot activate: instruction: the model's tokenizer", DiagnosticStatus.ERROR)
    planner.set_parameters([Parameter("instruction", value="drive")])
    assert planner.trigger_activate() == SUCCESS and planner.trigger_deactivate() == SUCCESS
    spinner.until(lambda: robot.state == PlannerState.INACTIVE and robot.states[-1].reason == "")


def test_a_robot_that_the_bundle_was_not_trained_for_fails_configure_by_field(make_planner, capfd, tmp_path):
    content = yaml.safe_load(ROBOT.read_text())
    content["images"][0]["height"] = 96
    content["sensors"][1]["fields"][0]["size"] = 36
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    planner = make_planner(robot=str(tmp_path / "other.yaml"))
    assert planner.trigger_configure() == FAILURE
    logged = capfd.readouterr().err
    assert "images.overhead.height: 64" in logged and "sensors.lidar.ranges.size: 24" in logged


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("trajectory_msgs/msg/JointTrajectory", "points[0].positions[0]"),
        ("std_msgs/msg/Int32MultiArray", "data[0]"),
        ("std_msgs/msg/Int32", "data"),
        ("sensor_msgs/msg/JointState", "velocity[0]"),
    ],
)
def test_a_command_that_cannot_be_written_fails_configure_by_field(make_planner, capfd, tmp_path, kind, path):
    content = yaml.safe_load(ROBOT.read_text())
    content["action"]["type"] = kind
    content["action"]["fields"][0]["path"] = content["action"]["fields"][1]["path"] = path
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    planner = make_planner(robot=str(tmp_path / "robot.yaml"))
    assert planner.trigger_configure() == FAILURE
    logged = capfd.readouterr().err
    assert f"cannot configure: robot interface: action.forward: {path} of a new {kind} cannot be set" in logged
    assert "Traceback" not in logged


def test_joints_are_commanded_by_name(make_planner, robot, tmp_path):
    content = yaml.safe_load(ROBOT.read_text())
    content["action"] |= {"type": "sensor_msgs/msg/JointState", "topic": "joint_command"}
    for field, joint in zip(content["action"]["fields"], ("wheel", "caster"), strict=True):
        field["path"] = f"velocity['{joint}']"
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    heard, recorded = [], []
    robot.create_subscription(JointState, "joint_command", heard.append, 1)
    robot.create_subscription(JointState, "joint_command", recorded.append, 1, raw=True)
    planner = make_planner(robot=str(tmp_path / "robot.yaml"), instruction="drive")
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    Spinner(planner, robot).until(lambda: heard and heard[-1].velocity[0] == pytest.approx(0.7))
    assert heard[-1].name == ["wheel", "caster"] and len(heard[-1].velocity) == 2 and not heard[-1].position
    message = get_typestore(Stores.LATEST).deserialize_cdr(recorded[0], "sensor_msgs/msg/JointState")
    action = read_action(message, RobotInterface.load(tmp_path / "robot.yaml").action)  # as the converter does
    np.testing.assert_array_equal(action, np.float32(heard[0].velocity))


def test_a_configure_that_fails_halfway_leaves_nothing_behind(make_planner, monkeypatch):
    planner = make_planner()
    before = len(list(planner.subscriptions)), len(list(planner.publishers))
    with monkeypatch.context() as patch:
        patch.setattr(planner, "_on_candidates", None)  # what rclpy refuses to subscribe with
        assert planner.trigger_configure() == FAILURE
    assert (len(list(planner.subscriptions)), len(list(planner.publishers))) == before
    assert planner.set_parameters([Parameter("threads", value=2)])[0].successful  # nothing is configured
    assert planner.trigger_configure() == SUCCESS


def test_a_position_is_held_where_it_is_and_not_commanded_before_it_was_sensed(make_planner, robot, capfd, tmp_path):
    content = position_commanded(yaml.safe_load(ROBOT.read_text()))
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    manifest = tiny_manifest(interface=RobotInterface.load(tmp_path / "robot.yaml").to_dict())
    write_bundle(tmp_path / "tiny", manifest, tiny_files() | {"robot.yaml": tmp_path / "robot.yaml"})
    planner = make_planner(model=str(tmp_path / "tiny"))
    odometry, robot.messages["odom"] = robot.messages["odom"], None
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    assert "a command in m or rad" not in capfd.readouterr().err
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.WAITING)
    spinner.spin(3 * PERIOD)
    assert robot.commands == []
    odometry.twist.twist.angular.z = 1.0
    robot.messages["odom"] = odometry
    spinner.until(lambda: len(robot.commands) >= 3)
    assert robot.commands[-1][1:] == (0.0, 1.0)
    robot.instruct("drive")
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)
    odometry.twist.twist.angular.z = 2.0
    spinner.spin(3 * PERIOD)
    assert planner.trigger_deactivate() == SUCCESS
    spinner.until(lambda: robot.commands[-1][1] == 0.0)
    assert robot.commands[-1][2] == pytest.approx(robot.commands[-2][2]), "where it was last commanded"


def test_a_command_that_may_be_a_position_is_warned_of(make_planner, capfd, tmp_path):
    content = yaml.safe_load(ROBOT.read_text())
    content["action"]["fields"][1]["unit"] = "rad"
    robot = tmp_path / "robot.yaml"
    robot.write_text(yaml.safe_dump(content))
    manifest = tiny_manifest(interface=RobotInterface.load(robot).to_dict())
    write_bundle(tmp_path / "tiny", manifest, tiny_files() | {"robot.yaml": robot})
    planner = make_planner(model=str(tmp_path / "tiny"))
    assert planner.trigger_configure() == SUCCESS
    assert "action turn: a command in m or rad" in capfd.readouterr().err


def test_a_parameter_that_it_does_not_have_is_named(make_planner, capfd):
    make_planner(cautoin=0.9)
    assert "this node has no parameter 'cautoin'; did you mean 'caution'?" in capfd.readouterr().err


def test_what_was_seen_before_an_episode_began_is_forgotten_once_all_that_is_seen_is_newer(driving):
    planner, robot, spinner = driving
    begun = []
    begin = planner._planner.begin_episode
    planner._planner.begin_episode = lambda: (begun.append(planner._step), begin())
    events = robot.create_publisher(EpisodeEvent, "episode_event", 10)
    spinner.until(lambda: events.get_subscription_count() > 0)
    events.publish(EpisodeEvent(kind=EpisodeEvent.VIOLATION_BEGIN))
    ahead = robot.get_clock().now() + rclpy.duration.Duration(seconds=0.2)
    start = EpisodeEvent(kind=EpisodeEvent.START)
    start.header.stamp = ahead.to_msg()
    events.publish(start)
    spinner.until(lambda: begun)
    (step,) = begun
    assert min(step.stamps_ns.values()) >= ahead.nanoseconds
    spinner.spin(0.3)
    assert len(begun) == 1 and robot.state == PlannerState.PLANNING


def test_an_episode_does_not_wait_for_a_sensor_that_speaks_on_change_only(make_planner, robot, tmp_path):
    content = yaml.safe_load(ROBOT.read_text())
    content["sensors"][2]["max_age"] = 1000.0
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(content))
    planner = make_planner(robot=str(tmp_path / "robot.yaml"), instruction="drive")
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING)
    robot.messages["bumper"] = None
    spinner.spin(2 * PERIOD)
    begun = []
    planner._planner.begin_episode = lambda: begun.append(planner._step)
    events = robot.create_publisher(EpisodeEvent, "episode_event", 10)
    spinner.until(lambda: events.get_subscription_count() > 0)
    start = EpisodeEvent(kind=EpisodeEvent.START)
    start.header.stamp = robot.get_clock().now().to_msg()
    events.publish(start)
    spinner.until(lambda: begun, timeout=5)
    (step,) = begun
    begun_ns = rclpy.time.Time.from_msg(start.header.stamp).nanoseconds
    stamps_ns = dict(step.stamps_ns)
    assert stamps_ns.pop("bumper") < begun_ns <= min(stamps_ns.values())


@pytest.mark.parametrize(("second", "warns"), [(2**31 - 1, True), (-5, True), (0, False)])
def test_an_episode_that_begins_on_another_clock_or_none_begins_now(driving, capfd, second, warns):
    planner, robot, spinner = driving
    begun = []
    planner._planner.begin_episode = lambda: begun.append(planner._step)
    events = robot.create_publisher(EpisodeEvent, "episode_event", 10)
    spinner.until(lambda: events.get_subscription_count() > 0)
    start = EpisodeEvent(kind=EpisodeEvent.START)
    start.header.stamp.sec = second
    said_ns = robot.get_clock().now().nanoseconds
    events.publish(start)
    spinner.until(lambda: begun, timeout=5)
    assert min(begun[0].stamps_ns.values()) >= said_ns
    logged = capfd.readouterr().err
    assert (f"episode_event: START is stamped {second}.000 s" in logged) == warns


def test_require_instruction_refuses_to_activate_without_a_good_one(make_planner, robot):
    planner = make_planner(require_instruction=True)
    assert planner.trigger_configure() == SUCCESS
    assert planner.trigger_activate() == FAILURE
    planner.set_parameters([Parameter("instruction", value="drive home")])
    assert planner.trigger_activate() == FAILURE
    planner.set_parameters([Parameter("instruction", value="drive")])
    assert planner.trigger_activate() == SUCCESS


def test_require_instruction_waits_for_what_is_latched(make_planner, robot):
    """Configured and activated in one go, as autostart and the launch file do: nothing was spun in between."""
    robot.instruct("drive")
    planner = make_planner(require_instruction=True)
    assert planner.trigger_configure() == SUCCESS
    assert planner.trigger_activate() == SUCCESS
    Spinner(planner, robot).until(lambda: robot.state == PlannerState.PLANNING)


def test_external_candidates_are_screened_and_bad_or_old_ones_named(driving):
    _, robot, spinner = driving
    screenings = []
    robot.create_subscription(Screening, "planner/screening", screenings.append, rclpy.qos.qos_profile_sensor_data)
    spinner.until(lambda: screenings)
    actions = np.zeros((2, HORIZON, 2), np.float32)
    actions[1, :, 1] = 9.0
    robot.propose(actions)
    spinner.until(lambda: screenings[-1].count == 258)
    assert screenings[-1].verdict[257] == Screening.REJECTED_LIMITS
    assert screenings[-1].reason[257] == "turn is 9 at step 1, allowed are -2.5 to 2.5"
    spinner.until(lambda: screenings[-1].count == 256)  # they age
    silent = "candidate_actions: nothing fresh from 'test'; the planner's own candidates are executed"
    spinner.until(lambda: any(silent in message.status[0].message for message in robot.diagnostics))
    warned = next(message.status[0] for message in robot.diagnostics if silent in message.status[0].message)
    assert warned.level == DiagnosticStatus.WARN

    def ignored() -> str:
        values = [value for message in robot.diagnostics for value in message.status[0].values]
        return "".join(value.value for value in values if value.key == "candidate_actions ignored")

    robot.propose(actions, age=3.0)
    spinner.until(lambda: "from 'test': 3." in ignored())
    robot.propose(actions, age=-3.0)
    spinner.until(lambda: "from 'test': stamped 2." in ignored())
    robot.propose(actions, fields=["turn", "forward"])
    spinner.until(lambda: "fields: ['turn', 'forward']" in ignored())
    robot.propose(np.zeros((513, HORIZON, 2)))
    spinner.until(lambda: "count: 513, allowed are 1 to 512" in ignored())
    robot.propose(actions, horizon=7)
    spinner.until(lambda: "horizon: 7" in ignored())
    robot.propose(actions, header=Header(stamp=Time(sec=-5)))
    spinner.until(lambda: "header.stamp: -5.000 s" in ignored())
    assert robot.state == PlannerState.PLANNING


def test_another_policys_candidate_is_executed_where_it_is_accepted(driving):
    """Our own drive at 0.7 m/s; the other policy turns on the spot, which is no progress at all."""
    _, robot, spinner = driving
    screenings = []
    robot.create_subscription(Screening, "planner/screening", screenings.append, rclpy.qos.qos_profile_sensor_data)
    spinner.until(lambda: screenings)
    turning = np.tile(np.float32([0.0, 1.0]), (1, HORIZON, 1))
    assert robot.states[-1].followed == 0
    robot.propose(turning)
    spinner.until(lambda: screenings[-1].chosen == 256)
    spinner.until(lambda: robot.commands[-1][2] == pytest.approx(1.0))
    spinner.until(lambda: screenings[-1].count == 256 and robot.speed == pytest.approx(0.7))  # it aged: our own again
    spinner.until(lambda: 0 < robot.states[-1].followed < robot.states[-1].decisions)
    robot.instruct("drive right")  # normalised turn is now the violation, and 0.4 is above the threshold of 0.25
    spinner.until(lambda: screenings[-1].instruction == "drive right")
    screenings.clear()
    robot.propose(turning)
    spinner.until(lambda: any(screening.count == 257 for screening in screenings))
    screening = next(screening for screening in screenings if screening.count == 257)
    assert screening.verdict[256] == Screening.REJECTED_VIOLATION and 0 <= screening.chosen < 256


def test_policies_that_share_the_topic_are_screened_together_and_each_ages_by_itself(driving):
    _, robot, spinner = driving
    screenings = []
    robot.create_subscription(Screening, "planner/screening", screenings.append, rclpy.qos.qos_profile_sensor_data)
    spinner.until(lambda: screenings)

    def proposed():
        return [name for name in screenings[-1].source if name in ("one", "two")]

    one, two = np.zeros((1, HORIZON, 2)), np.zeros((2, HORIZON, 2))
    robot.propose(one, source="one"), robot.propose(two, source="two")
    spinner.until(lambda: proposed() == ["one", "two", "two"])

    def keep_on():
        robot.propose(two, source="two")
        spinner.spin(0.05)
        return proposed() == ["two", "two"]

    spinner.until(keep_on)
    words = "candidate_actions: nothing fresh from 'one'"
    spinner.until(lambda: keep_on() and any(words in each.status[0].message for each in robot.diagnostics))
    assert "the planner's own" not in robot.diagnostics[-1].status[0].message
    robot.propose(np.zeros((512, HORIZON, 2)), source="one")
    values = {}

    def ignored():
        keep_on()
        values.update((value.key, value.value) for value in robot.diagnostics[-1].status[0].values)
        return "from 'one': count: 512" in values.get("candidate_actions ignored", "")

    spinner.until(ignored)
    assert "allowed are 512 with those of all other policies, 2" in values["candidate_actions ignored"]


def test_diagnostics_latent_state_and_markers(driving):
    _, robot, spinner = driving
    latents, markers = [], []
    robot.create_subscription(LatentState, "planner/latent_state", latents.append, rclpy.qos.qos_profile_sensor_data)
    robot.create_subscription(MarkerArray, "planner/candidates", markers.append, 10)  # reliable, as RViz is
    robot.diagnostics.clear()

    def planning():  # on a busy machine an input may be late once
        return [each.status[0] for each in robot.diagnostics if each.status[0].message == "PLANNING"]

    spinner.until(lambda: latents and markers and len(planning()) >= 2)
    assert list(latents[-1].modalities) == ["vision", "language", "sensor"]
    assert sum(latents[-1].weights) == pytest.approx(1.0)
    chosen = next(marker for marker in markers[-1].markers if marker.ns == "chosen")
    assert chosen.header.frame_id == "base_link"
    assert chosen.lifetime.sec == 0 and chosen.lifetime.nanosec == pytest.approx(5 * PERIOD * 1e9), "gone after a stop"
    assert chosen.points[-1].x == pytest.approx(0.7 * HORIZON * 0.2, rel=0.05), "full speed ahead for the horizon"
    status = planning()[-1]
    values = {value.key: value.value for value in status.values}
    assert status.name == "planner: planner"
    assert float(values["scan rate (Hz)"]) == pytest.approx(20, rel=0.4)
    assert 0 <= float(values["scan age (s)"]) < 0.35
    assert 0 < float(values["decision p50 (ms)"]) <= float(values["decision p99 (ms)"])
    assert {"encode p50 (ms)", "screen p50 (ms)"} <= values.keys()
    assert values["provider"] == "CPUExecutionProvider"


def diagnosed(robot, spinner, words: str) -> DiagnosticStatus:
    """The newest diagnostics of the planner, as soon as their message has ``words``."""
    robot.diagnostics.clear()
    spinner.until(lambda: robot.diagnostics and words in robot.diagnostics[-1].status[0].message)
    return robot.diagnostics[-1].status[0]


def test_whoever_bypasses_it_is_named_and_warned_of_once(driving, capfd):
    _, robot, spinner = driving
    assert diagnosed(robot, spinner, "PLANNING").message == "PLANNING"
    teleop = rclpy.create_node("teleop")
    teleop.create_publisher(TwistStamped, "cmd_vel", 1)
    words = "cmd_vel: also published by /teleop (geometry_msgs/msg/TwistStamped), unscreened"
    status = diagnosed(robot, spinner, words)
    assert status.level == DiagnosticStatus.WARN and status.message == f"PLANNING; {words}"
    spinner.spin(3.0)
    assert capfd.readouterr().err.count(words) == 1
    teleop.destroy_node()
    spinner.until(lambda: robot.diagnostics[-1].status[0].level == DiagnosticStatus.OK)


def test_a_camera_with_the_lens_cap_on_is_warned_of_once_and_stops_nothing(driving, capfd):
    _, robot, spinner = driving
    good, robot.messages["camera/image_raw"] = robot.messages["camera/image_raw"], image(64, 64, "rgb8", 3, contrast=0)
    words = "camera/image_raw: the image is all of one colour"
    assert diagnosed(robot, spinner, words).level == DiagnosticStatus.WARN
    spinner.spin(2.0)
    assert robot.state == PlannerState.PLANNING
    assert capfd.readouterr().err.count(words) == 1
    robot.messages["camera/image_raw"] = good
    spinner.until(lambda: robot.diagnostics[-1].status[0].level == DiagnosticStatus.OK)


def test_a_sensor_whose_clock_is_ahead_is_told_of_once_and_does_not_pass_for_fresh(driving, capfd):
    _, robot, spinner = driving
    odometry, robot.messages["odom"] = robot.messages["odom"], None
    ahead = rclpy.duration.Duration(seconds=0.2)

    def sense():
        odometry.header.stamp = (robot.get_clock().now() + ahead).to_msg()
        robot._sensors["odom"].publish(odometry)

    timer = robot.create_timer(0.05, sense)
    words = re.compile(r"odom: stamped 0\.[12]\d\d s after it was received, from when its age counts")
    robot.diagnostics.clear()
    spinner.until(lambda: any(words.search(message.status[0].message) for message in robot.diagnostics))
    spinner.spin(2.0)
    assert len(words.findall(capfd.readouterr().err)) == 1
    assert robot.state == PlannerState.PLANNING
    timer.cancel()
    assert spinner.until(lambda: robot.stopped) < 0.35 + PERIOD + SLACK


@pytest.fixture
def elsewhere():
    """Make nodes of another process: within one, DDS has one type per topic."""
    contexts, nodes = [], []

    def make(name: str) -> rclpy.node.Node:
        contexts.append(rclpy.Context())
        rclpy.init(context=contexts[-1])
        nodes.append(rclpy.create_node(name, context=contexts[-1]))
        return nodes[-1]

    yield make
    for node, context in zip(nodes, contexts, strict=True):
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_second_planner_of_the_same_name_bypasses_it_too(driving, elsewhere):
    _, robot, spinner = driving
    elsewhere("planner").create_publisher(TwistStamped, "cmd_vel", 1)
    diagnosed(robot, spinner, "cmd_vel: also published by /planner (geometry_msgs/msg/TwistStamped)")


def test_a_robot_that_does_not_hear_its_commands_is_warned_of(driving, elsewhere):
    _, robot, spinner = driving
    hears = next(each for each in robot.subscriptions if each.topic_name == "/cmd_vel")
    robot.destroy_subscription(hears)
    elsewhere("recorder").create_subscription(TwistStamped, "cmd_vel", lambda _: None, 1)
    status = diagnosed(robot, spinner, "cmd_vel: heard by nobody but /recorder")
    assert status.level == DiagnosticStatus.WARN
    elsewhere("base").create_subscription(Twist, "cmd_vel", lambda _: None, 1)
    words = "not heard by /base (geometry_msgs/msg/Twist), since it is published as geometry_msgs/msg/TwistStamped"
    diagnosed(robot, spinner, f"cmd_vel: {words}")


def test_why_an_input_is_not_heard_is_told(make_planner, robot, elsewhere, capfd):
    for topic in ("camera/image_raw", "scan"):
        del robot.messages[topic]
        robot.destroy_publisher(robot._sensors[topic])
    robot.destroy_publisher(robot._instructions)
    elsewhere("camera").create_publisher(CompressedImage, "camera/image_raw", 1)
    weak = robot.create_publisher(String, "instruction", rclpy.qos.qos_profile_sensor_data)
    planner = make_planner()
    assert planner.trigger_configure() == SUCCESS and planner.trigger_activate() == SUCCESS
    spinner = Spinner(planner, robot)
    none = "instruction: none was given yet; "
    weaker = "published by /robot with a QoS that does not match: Best effort publisher and reliable subscription"
    spinner.until(lambda: robot.states and robot.states[-1].reason == none + weaker)
    robot.destroy_publisher(weak)
    spinner.until(lambda: robot.states[-1].reason == none + "no publisher")
    planner.set_parameters([Parameter("instruction", value="drive")])
    words = "published as sensor_msgs/msg/CompressedImage by /camera"
    spinner.until(lambda: robot.states[-1].reason.endswith(f"nothing heard yet (sensor_msgs/msg/Image); {words}"))
    status = diagnosed(robot, spinner, words)
    assert {value.key: value.value for value in status.values}["scan is not heard"] == "no publisher"
    spinner.spin(3.0)
    logged = capfd.readouterr().err
    assert logged.count(f"camera/image_raw: {words}") == logged.count("scan: no publisher") == 1


def test_parameters_have_descriptions_and_ranges(make_planner):
    planner = make_planner()
    names = [
        name for name in planner.list_parameters([], 0).names if not name.startswith(("qos_", "use_sim_time", "start_"))
    ]
    for descriptor in planner.describe_parameters(names):
        assert descriptor.description, descriptor.name
    candidates, method = planner.describe_parameters(["proposals.candidates", "proposals.refinement.method"])
    assert candidates.integer_range[0].from_value == 8
    assert "mppi" in method.additional_constraints
    assert not planner.set_parameters([Parameter("proposals.candidates", value=2)])[0].successful


def test_shipped_parameters_file_states_the_defaults(make_planner, share):
    def flat(content, prefix=""):
        for key, value in content.items():
            yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]

    text = (share / "config" / "planner" / "default.yaml").read_text()
    shipped = dict(flat(yaml.safe_load(text)["/**/planner"]["ros__parameters"]))
    planner = make_planner()
    for name, value in shipped.items():
        assert planner.get_parameter(name).value == value, name
    settings = PlannerConfig.model_fields
    of_node = {name.split(".")[0] for name in planner.list_parameters([], 0).names} - settings.keys()
    assert of_node <= NODE_PARAMETERS <= of_node | {"qos_overrides"}, "read_planner passes over them"
    for name in planner.list_parameters([], 0).names:
        if not name.startswith(("qos_", "use_sim_time", "start_")):
            assert name in shipped or f"# {name.split('.')[-1]}: " in text, f"{name} is missing in default.yaml"


def test_simulated_time_drives_the_timer(make_planner, robot):
    planner = make_planner(instruction="drive", use_sim_time=True)
    planner.trigger_configure()
    planner.trigger_activate()
    spinner = Spinner(planner, robot)
    spinner.until(lambda: robot.state == PlannerState.DEADLINE_MISSED)  # no time, no decision: it says so
    assert "/clock stands still" in robot.states[-1].reason
    assert planner._decisions == 0 and all(command[1:] == (0.0, 0.0) for command in robot.commands)
    robot.set_parameters([Parameter("use_sim_time", value=True)])
    clock, now = robot.create_publisher(Clock, "/clock", 1), [0.0]
    clock_node = rclpy.create_node("clock")
    spinner.executor.add_node(clock_node)

    def advance() -> None:
        now[0] += 0.1  # five times as fast as real time
        clock.publish(Clock(clock=rclpy.time.Time(seconds=now[0]).to_msg()))
        robot.sense()

    clock_node.create_timer(0.02, advance)
    started = now[0]
    spinner.until(lambda: robot.state == PlannerState.PLANNING)
    count, begun = len(robot.commands), now[0]
    spinner.until(lambda: now[0] > begun + 3)
    assert len(robot.commands) - count == pytest.approx((now[0] - begun) / PERIOD, rel=0.3)
    assert started == 0.0
    refused = planner.set_parameters([Parameter("use_sim_time", value=False)])[0]
    assert not refused.successful and "deactivate it first" in refused.reason
    spinner.executor.remove_node(clock_node)
    spinner.until(lambda: robot.state == PlannerState.DEADLINE_MISSED and robot.stopped)  # /clock stops
    spinner.until(lambda: robot.diagnostics[-1].status[0].level == DiagnosticStatus.ERROR)
    spinner.executor.add_node(clock_node)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)
    clock_node.destroy_node()


def test_a_system_clock_that_is_set_back_does_not_hold_the_planner_up(driving):
    """An hour back, as NTP may do at boot. The node's clock is set and nobody else's: sensors are stamped as before."""
    planner, robot, spinner = driving
    clock = planner.get_clock()
    an_hour_ago = clock.now() - rclpy.duration.Duration(seconds=3600)
    clock.set_ros_time_override(an_hour_ago)
    clock._set_ros_time_is_active(True)
    robot.commands.clear()
    spinner.until(lambda: len(robot.commands) >= 5, timeout=5)
    assert robot.stopped, "of the sensors it can only say that their clock differs"
    clock._set_ros_time_is_active(False)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and robot.speed > 0)


@pytest.fixture(autouse=True, scope="module")
def hangup():
    """Under nohup SIGHUP is ignored, and what is ignored stays so in every process that is started from here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def process(model):
    """The planner as its own process, autostarted."""
    arguments = ["--ros-args", "-p", f"model:={model}", "-p", "instruction:=drive", "-p", "autostart:=true"]
    child = subprocess.Popen([sys.executable, "-m", "tc_mmwm_ros.planner", *arguments], cwd="/")
    yield child
    if child.poll() is None:
        child.kill()
    child.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_makes_the_safe_action_the_last_thing_published(process, robot, number):
    spinner = Spinner(robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and (robot.speed or 0) > 0.5, timeout=60)
    os.kill(process.pid, number)
    spinner.until(lambda: process.poll() is not None)
    spinner.spin(2 * PERIOD)
    assert process.returncode == 0
    assert robot.stopped


def test_a_closed_terminal_makes_the_safe_action_the_last_thing_published(model, robot):
    """As where ssh loses its connection: SIGHUP, and nowhere left to log to."""
    command = [sys.executable, "-m", "tc_mmwm_ros.planner", "--ros-args", "-p", f"model:={model}"]
    child, terminal = pty.fork()
    if not child:
        os.chdir("/")
        os.execv(sys.executable, [*command, "-p", "instruction:=drive", "-p", "autostart:=true"])
    spinner = Spinner(robot)
    try:
        spinner.until(lambda: robot.state == PlannerState.PLANNING and (robot.speed or 0) > 0.5, timeout=60)
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
    ended = []
    try:
        spinner.until(lambda: ended.append(os.waitpid(child, os.WNOHANG)) or ended[-1][0])
    except AssertionError:  # else it would drive on through the tests that follow
        os.kill(child, signal.SIGKILL)
        raise
    spinner.spin(2 * PERIOD)
    assert os.waitstatus_to_exitcode(ended[-1][1]) == 0
    assert robot.stopped


def test_a_kill_is_told_by_silence(process, robot):
    spinner = Spinner(robot)
    spinner.until(lambda: robot.state == PlannerState.PLANNING and (robot.speed or 0) > 0.5, timeout=60)
    process.kill()
    killed = time.monotonic()
    spinner.spin(5 * PERIOD)
    assert max(when for when, *_ in robot.commands) < killed + PERIOD


def test_a_signal_after_shutdown_ends_it_in_good_order(process, robot):
    spinner = Spinner(robot)
    # Driving, not only said to be: a state may still be heard of the planner of the test before.
    spinner.until(lambda: robot.state == PlannerState.PLANNING and (robot.speed or 0) > 0.5, timeout=60)
    client = robot.create_client(ChangeState, "planner/change_state")
    spinner.until(client.service_is_ready)
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
    future = client.call_async(request)
    spinner.until(future.done)
    assert future.result().success
    spinner.until(lambda: robot.stopped)
    spinner.until(lambda: robot.state == PlannerState.UNCONFIGURED)
    assert robot.states[-1].reason.startswith("shut down: to go on, start the planner")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0


@pytest.mark.parametrize("parameter", ["threads:=0", "deadline:=soon"])
def test_a_refused_parameter_ends_the_process_with_one_line(parameter):
    command = [sys.executable, "-m", "tc_mmwm_ros.planner", "--ros-args", "-p", parameter]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("planner: ") and parameter.split(":")[0] in line


def test_without_autostart_it_says_how_to_go_on():
    command = [sys.executable, "-m", "tc_mmwm_ros.planner", "--ros-args", "-r", "__ns:=/left"]
    child = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True)
    try:
        line = child.stderr.readline()
    finally:
        child.terminate()
        child.communicate(timeout=20)
    assert "waiting to be configured: ros2 lifecycle set /left/planner configure" in line


def test_a_failed_autostart_ends_the_process(robot):
    command = [sys.executable, "-m", "tc_mmwm_ros.planner", "--ros-args", "-p", "autostart:=true"]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "parameter 'model' is empty" in result.stderr
