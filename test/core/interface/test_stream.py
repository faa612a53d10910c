"""The stream-to-step path: what a tick sees, and every fault of the contract."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from robot_messages import SECOND, boolean, header, image, odometry, scan, types

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.interface.action import read_action, write_action
from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.path import parse_path
from tc_mmwm_core.interface.robot import RobotInterface, SensorSpec
from tc_mmwm_core.interface.stream import Step, StepStream

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
RANGES = np.linspace(0.1, 2.9, 24)


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


def feed(stream: StepStream, seconds: float, **changes) -> None:
    messages = {
        "camera/image_raw": image(seconds, PIXELS),
        "odom": odometry(seconds, x=1.5, y=-0.5, speed=0.4, turn=0.2),
        "scan": scan(seconds, RANGES),
        "bumper": boolean(False),
    } | {topic.replace("camera", "camera/image_raw"): message for topic, message in changes.items()}
    for topic, message in messages.items():
        if message is not None:
            stream.add(topic, message, ns(seconds))


def fault(stream: StepStream, seconds: float) -> Fault:
    result = stream.step(ns(seconds))
    assert isinstance(result, Fault), result
    return result


def test_step_holds_every_field_in_order(navigation):
    stream = StepStream(navigation)
    half = math.radians(30) / 2
    feed(stream, 2.0, odom=odometry(2.0, 1.5, -0.5, (0, 0, math.sin(half), math.cos(half)), 0.4, 0.2))
    step = stream.step(ns(2.1))
    assert isinstance(step, Step) and step.stamp_ns == ns(2.1)
    expected = [1.5, -0.5, math.cos(math.radians(30)), 0.5, 0.4, 0.2, *RANGES, 0.0]
    np.testing.assert_allclose(step.sensor, expected, rtol=1e-6)
    assert step.sensor.dtype == np.float32 and step.sensor.shape == (navigation.sensor_size,)
    np.testing.assert_array_equal(step.images["overhead"], PIXELS)
    assert step.ages["odom"] == pytest.approx(0.1)


def test_waits_until_every_topic_was_heard(navigation):
    stream = StepStream(navigation)
    assert fault(stream, 1.0) == Fault(
        FaultKind.WAITING, "overhead", "camera/image_raw: nothing heard yet (sensor_msgs/msg/Image)"
    )
    feed(stream, 1.0, bumper=None)
    assert fault(stream, 1.0).field == "bumper"


def test_newest_message_at_or_before_the_tick_even_if_newer_ones_arrived(navigation):
    stream = StepStream(navigation)
    for seconds in (1.0, 1.1, 1.2):
        feed(stream, seconds, odom=odometry(seconds, x=seconds))
    assert stream.step(ns(1.0)).sensor[0] == np.float32(1.0)
    assert stream.step(ns(1.15)).sensor[0] == np.float32(1.1)
    assert stream.step(ns(1.2)).sensor[0] == np.float32(1.2)


def test_a_message_that_is_still_on_its_way_is_not_seen_yet(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0)
    stream.add("odom", odometry(1.1, x=9.0), ns(1.25))
    assert stream.step(ns(1.2)).sensor[0] == np.float32(1.5)
    assert stream.step(ns(1.25)).sensor[0] == np.float32(9.0)


def test_stale_input_and_recovery(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0)
    assert isinstance(stream.step(ns(1.35)), Step)
    stale = fault(stream, 1.4)
    assert stale.kind is FaultKind.STALE and "0.400 s old, allowed are 0.35 s" in stale.reason
    feed(stream, 1.4)
    assert isinstance(stream.step(ns(1.4)), Step)


def test_unset_stamp_is_explained(navigation):
    stream = StepStream(navigation)
    feed(stream, 1000.0, scan=scan(0.0, RANGES))
    assert "header.stamp is 0" in fault(stream, 1000.0).reason


def test_a_stamp_before_0_is_a_fault_like_any_other(navigation):
    stream = StepStream(navigation)
    feed(stream, 1000.0, scan=scan(-5.0, RANGES))
    assert fault(stream, 1000.0).reason.startswith("scan: newest message is 1005.000 s old, allowed are 0.35 s")
    feed(stream, 1000.1)
    assert isinstance(stream.step(ns(1000.1)), Step)
    stream.add("scan", scan(-5.0, RANGES), ns(1000.1))
    assert fault(stream, 1000.1).reason == "scan: a message 1005.100 s older than the one before it was refused"


def test_out_of_order_is_refused_reported_once_and_recovers(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0)
    stream.add("odom", odometry(0.95, x=9.0), ns(1.01))
    refused = fault(stream, 1.1)
    assert refused.kind is FaultKind.OUT_OF_ORDER and refused.field == "odometry" and "0.050 s older" in refused.reason
    assert stream.step(ns(1.1)).sensor[0] == np.float32(1.5)


def test_message_from_the_future_is_refused(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0)
    stream.add("odom", odometry(1.2), ns(1.0))  # within the tolerance: clocks over a network
    assert isinstance(stream.step(ns(1.1)), Step)
    stream.add("odom", odometry(5.0), ns(1.1))
    refused = fault(stream, 1.1)
    assert refused.kind is FaultKind.FUTURE and "3.900 s after it was received" in refused.reason
    assert isinstance(stream.step(ns(1.1)), Step)


def test_a_fast_sensor_whose_clock_is_ahead_is_seen_once_its_stamps_are_due(navigation):
    stream = StepStream(navigation)
    for tick in range(400):
        feed(stream, 1 + tick / 1000, odom=odometry(1.2 + tick / 1000, x=tick / 1000))
    assert stream.step(ns(1.399)).sensor[0] == np.float32(0.199)
    assert max(len(part.entries) for part in stream._parts) <= 201, "what is due, and what is ahead of it"


def test_of_what_is_stamped_ahead_it_says_so_until_it_is_due(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0, odom=odometry(1.2))
    ahead = fault(stream, 1.1)
    assert ahead.kind is FaultKind.WAITING and ahead.field == "odometry" and "0.100 s or more ahead" in ahead.reason
    assert isinstance(stream.step(ns(1.2)), Step)


def test_what_is_stamped_ahead_is_as_old_as_its_reception(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0, odom=odometry(1.2))
    assert stream.ahead == {"camera/image_raw": 0.0, "odom": pytest.approx(0.2), "scan": 0.0, "bumper": 0.0}
    step = stream.step(ns(1.3))
    assert step.ages["odom"] == pytest.approx(0.3) and step.stamps_ns["odom"] == ns(1.2)
    feed(stream, 1.3, odom=None)
    old = fault(stream, 1.36)
    assert old.kind is FaultKind.STALE and "odom: newest message is 0.360 s old, allowed are 0.35 s" in old.reason


def test_clock_set_back_starts_afresh(navigation):
    stream = StepStream(navigation)
    feed(stream, 50.0)
    feed(stream, 0.5)
    assert isinstance(stream.step(ns(0.5)), Step)


def test_what_is_latched_outlives_a_clock_that_is_set_back(robot):
    robot["sensors"][2] |= {"latched": True, "max_age": 1000.0}
    stream = StepStream(RobotInterface.from_dict(robot, "mine"))
    feed(stream, 50.0, bumper=boolean(True))
    assert stream.step(ns(50.0)).sensor[-1] == 1.0
    feed(stream, 0.5, bumper=None)
    step = stream.step(ns(0.6))
    assert step.sensor[-1] == 1.0 and step.ages["bumper"] == pytest.approx(0.1)


def test_what_is_latched_anew_replaces_what_outlived_the_clock(robot):
    """Though stamped before the first message that told of the new time."""
    odom = next(sensor for sensor in robot["sensors"] if sensor["topic"] == "odom")
    odom |= {"latched": True, "max_age": 1000.0}
    stream = StepStream(RobotInterface.from_dict(robot, "mine"))
    feed(stream, 50.0, odom=odometry(50.0, x=1.0))
    feed(stream, 0.5, odom=None)
    stream.add("odom", odometry(0.1, x=2.0), ns(0.55))
    step = stream.step(ns(0.6))
    assert step.sensor[0] == 2.0 and step.ages["odom"] == pytest.approx(0.5)
    stream.add("odom", odometry(0.05, x=3.0), ns(0.6))
    assert stream.step(ns(0.6)).kind == FaultKind.OUT_OF_ORDER


@pytest.mark.parametrize(
    ("changes", "kind", "field", "says"),
    [
        ({"odom": odometry(1.0, x=math.nan)}, FaultKind.NON_FINITE, "odometry.x", "pose.pose.position.x is nan"),
        ({"odom": odometry(1.0, speed=math.inf)}, FaultKind.NON_FINITE, "odometry.forward_speed", "is inf"),
        ({"odom": odometry(1.0, y=11.0)}, FaultKind.OUT_OF_LIMITS, "odometry.y", "11 m, allowed are [-10.0, 10.0]"),
        ({"odom": odometry(1.0, quaternion=(0, 0, 0, 0))}, FaultKind.OUT_OF_LIMITS, "odometry.cos_yaw", "no heading"),
        ({"odom": odometry(1.0, quaternion=(0, 0, math.nan, 1))}, FaultKind.NON_FINITE, "odometry.cos_yaw", "finite"),
        ({"scan": scan(1.0, RANGES[:7])}, FaultKind.WRONG_SIZE, "lidar.ranges", "7 elements, 24 are needed"),
        ({"scan": scan(1.0, [math.nan] * 24)}, FaultKind.NON_FINITE, "lidar.ranges", "ranges[0] is nan"),
        ({"scan": boolean(True)}, FaultKind.WRONG_TYPE, "lidar.ranges", "is it really sensor_msgs/msg/LaserScan?"),
        ({"camera": image(1.0, PIXELS, "yuv422")}, FaultKind.WRONG_ENCODING, "overhead", "'yuv422'"),
        ({"camera": image(1.0, PIXELS[:60])}, FaultKind.WRONG_SIZE, "overhead", "64x60"),
        ({"bumper": types["std_msgs/msg/String"](data="on")}, FaultKind.WRONG_TYPE, "bumper.pressed", "on"),
    ],
)
def test_bad_messages_become_faults_and_the_next_good_one_recovers(navigation, changes, kind, field, says):
    stream = StepStream(navigation)
    feed(stream, 1.0, **changes)
    found = fault(stream, 1.0)
    assert (found.kind, found.field) == (kind, field) and says in found.reason
    feed(stream, 1.1)
    assert isinstance(stream.step(ns(1.1)), Step)


def test_lidar_without_return_reads_the_end_of_its_range(navigation):
    stream = StepStream(navigation)
    feed(stream, 1.0, scan=scan(1.0, [math.inf, -math.inf, 7.0, 0.5] + [1.0] * 20))
    np.testing.assert_array_equal(stream.step(ns(1.0)).sensor[6:10], np.float32([3.0, 0.0, 3.0, 0.5]))


def test_discarding_keeps_the_message_that_a_step_needs(navigation):
    stream, plain = StepStream(navigation), StepStream(navigation)
    for seconds in (1.0, 1.1, 1.2, 1.3):
        feed(stream, seconds)
        feed(plain, seconds)
        stream.discard(ns(seconds - 0.05))
    assert {len(part.entries) for part in stream._parts} == {2}  # the newest at 1.25 s, and one after it
    for seconds in (1.25, 1.35):
        np.testing.assert_array_equal(stream.step(ns(seconds)).sensor, plain.step(ns(seconds)).sensor)


def test_what_was_refused_long_before_the_first_step_is_no_fault_of_it(navigation):
    """A node that is not active hears and discards; a late frame in an hour of good ones is over by its first step."""
    stream = StepStream(navigation)
    feed(stream, 1.0)
    stream.add("odom", odometry(0.5), ns(1.05))
    stream.add("odom", odometry(9.0), ns(1.06))
    feed(stream, 1.1)
    stream.discard(ns(1.1))
    assert isinstance(stream.step(ns(1.1)), Step)
    stream.add("odom", odometry(0.5), ns(1.15))
    stream.discard(ns(1.14))  # what came later is still told
    assert fault(stream, 1.2).kind == FaultKind.OUT_OF_ORDER


def test_unknown_topic_is_a_wiring_mistake(navigation):
    with pytest.raises(KeyError):
        StepStream(navigation).add("front_camera", image(1.0, PIXELS), 0)


def _sensor(robot: dict, message_type: str, *fields: dict) -> StepStream:
    robot["images"] = []
    robot["sensors"] = [{"name": "s", "topic": "s", "type": message_type, "max_age": 1.0, "fields": list(fields)}]
    return StepStream(RobotInterface.from_dict(robot, "test"))


def test_joints_are_read_by_name_whatever_their_order(robot):
    elbow = {"name": "elbow", "path": "position['elbow']", "unit": "rad"}
    stream = _sensor(robot, "sensor_msgs/msg/JointState", elbow, {"name": "first", "path": "effort[0]", "unit": "N*m"})
    joints = types["sensor_msgs/msg/JointState"]

    def add(seconds, names, positions):
        stream.add("s", joints(header(seconds), names, np.array(positions), np.zeros(0), np.ones(2)), ns(seconds))

    add(1.0, ["shoulder", "elbow"], [0.1, 0.2])
    assert stream.step(ns(1.0)).sensor.tolist() == pytest.approx([0.2, 1.0])
    add(1.1, ["elbow", "shoulder"], [0.3, 0.1])
    assert stream.step(ns(1.1)).sensor[0] == np.float32(0.3)


def test_of_drivers_that_share_a_topic_each_is_read_for_its_own_joints(robot):
    fields = [{"name": name, "path": f"position['{name}']", "unit": "rad"} for name in ("elbow", "wrist")]
    stream = _sensor(robot, "sensor_msgs/msg/JointState", *fields)
    joints = types["sensor_msgs/msg/JointState"]

    def add(seconds, names):
        positions = np.full(len(names), seconds)
        stream.add("s", joints(header(seconds), names, positions, np.zeros(0), np.zeros(0)), ns(seconds))

    add(0.9, ["finger"])
    waiting = "nothing heard yet (sensor_msgs/msg/JointState with position['elbow']); the last message names ['finger']"
    assert waiting in fault(stream, 0.9).reason
    add(1.0, ["elbow", "wrist"])
    add(1.1, ["finger"])
    assert stream.step(ns(1.1)).sensor[0] == np.float32(1.0)
    add(2.1, ["finger"])
    assert fault(stream, 2.1).kind is FaultKind.STALE
    add(2.2, ["wrist", "finger"])
    missing = fault(stream, 2.2)
    assert missing.kind is FaultKind.STALE and "newest message with position['elbow'] is 1.200 s old" in missing.reason


def test_joints_of_one_sensor_may_come_from_several_drivers(robot):
    """An arm's and a gripper's, both on joint_states: each field is the newest of its own, the oldest tells the age."""
    paths = ("position['elbow']", "position['finger']", "velocity['elbow']")
    fields = [{"name": f"f{index}", "path": path, "unit": "1"} for index, path in enumerate(paths)]
    stream = _sensor(robot, "sensor_msgs/msg/JointState", *fields)

    def add(stamped, heard, name, value):
        values = (np.full(1, value), np.full(1, 10 * value), np.full(1, 100 * value))
        stream.add("s", types["sensor_msgs/msg/JointState"](header(stamped), [name], *values), ns(heard))

    add(1.0, 1.0, "finger", 0.5)
    assert "with position['elbow'], velocity['elbow']" in fault(stream, 1.0).reason
    add(1.2, 1.2, "elbow", 0.25)
    add(1.1, 1.25, "finger", 0.75)  # each driver's stamps are in order, though not those of both
    add(1.3, 1.3, "elsewhere", 9.0)
    step = stream.step(ns(1.5))
    np.testing.assert_array_equal(step.sensor, np.float32([0.25, 0.75, 2.5]))
    assert step.ages["s"] == pytest.approx(0.4)
    assert stream.step(ns(2.15)).field == "s", "the finger, though the elbow is not too old"
    add(2.2, 2.2, "finger", 1.0)
    assert "elbow" in fault(stream, 2.21).reason


def test_slices_and_nan_stand_ins(robot):
    ranges = {"name": "ranges", "path": "ranges[0:24:8]", "size": 3, "unit": "m", "clip": [0.0, 3.0], "nan_as": 3.0}
    stream = _sensor(robot, "sensor_msgs/msg/LaserScan", ranges)
    values = RANGES.copy()
    values[8] = math.nan
    stream.add("s", scan(1.0, values), ns(1.0))
    np.testing.assert_allclose(stream.step(ns(1.0)).sensor, [RANGES[0], 3.0, RANGES[16]], rtol=1e-6)


def test_too_large_for_a_float32(robot):
    stream = _sensor(robot, "nav_msgs/msg/Odometry", {"name": "x", "path": "pose.pose.position.x", "unit": "m"})
    stream.add("s", odometry(1.0, x=1e300), ns(1.0))
    assert fault(stream, 1.0).kind is FaultKind.NON_FINITE


@pytest.mark.parametrize(
    ("message_type", "path"),
    [
        ("sensor_msgs/msg/Imu", "angular_velocity.z"),
        ("sensor_msgs/msg/Imu", "orientation_covariance[4]"),
        ("sensor_msgs/msg/Range", "range"),
        ("geometry_msgs/msg/PoseStamped", "pose.position.x"),
        ("geometry_msgs/msg/TwistStamped", "twist.linear.x"),
        ("geometry_msgs/msg/WrenchStamped", "wrench.force.z"),
        ("geometry_msgs/msg/Pose", "position.x"),
        ("std_msgs/msg/Float32", "data"),
        ("std_msgs/msg/Float64", "data"),
        ("std_msgs/msg/Float64MultiArray", "data[2]"),
        ("sensor_msgs/msg/JointState", "velocity['wrist']"),
    ],
)
def test_common_messages_pass(message_type, path):
    SensorSpec(name="s", topic="s", type=message_type, max_age=1.0, fields=[{"name": "f", "path": path, "unit": "1"}])


def test_actions_write_and_read_back(navigation, robot):
    vector = types["geometry_msgs/msg/Vector3"]
    twist = types["geometry_msgs/msg/Twist"](linear=vector(x=0.0, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=0.0))
    message = types["geometry_msgs/msg/TwistStamped"](header=header(0.0), twist=twist)
    write_action(message, navigation.action, np.float32([0.5, -1.25]))
    assert message.header.frame_id == "base_link" and message.twist.angular.z == -1.25
    np.testing.assert_array_equal(read_action(message, navigation.action), np.float32([0.5, -1.25]))
    message.twist.linear.x = math.nan
    assert read_action(message, navigation.action).kind is FaultKind.NON_FINITE


@pytest.mark.parametrize(
    ("path", "names", "says"),
    [
        ("velocity['elbow']", ["elbow", "wrist"], "s: no velocity['elbow']: the array is empty, and 2 joints are"),
        ("velocity[1]", ["elbow"], "s: no velocity[1]: the array is empty"),
        ("position[3]", ["elbow"], "s: no position[3]: the array has 1 values"),
    ],
)
def test_of_an_array_that_is_too_short_it_says_which_and_how_many_joints_are_named(robot, path, names, says):
    stream = _sensor(robot, "sensor_msgs/msg/JointState", {"name": "f", "path": path, "unit": "1"})
    joints, nothing = types["sensor_msgs/msg/JointState"], np.zeros(0)
    stream.add("s", joints(header(1.0), names, np.zeros(len(names)), nothing, nothing), ns(1.0))
    found = fault(stream, 1.0)
    assert (found.kind, found.field) == (FaultKind.WRONG_TYPE, "s.f")
    assert found.reason.startswith(says) and "is it really" not in found.reason


def joint_command(robot: dict, *paths: str) -> RobotInterface:
    fields = [
        {"name": f"a{index}", "path": path, "unit": "rad/s", "limits": [-1.0, 1.0], "safe": 0.0}
        for index, path in enumerate(paths)
    ]
    robot["action"] = {"topic": "cmd", "type": "sensor_msgs/msg/JointState", "fields": fields}
    return RobotInterface.from_dict(robot, "arm.yaml")


def test_joints_are_commanded_by_name_and_read_back(robot):
    paths = ("velocity['wrist']", "velocity['elbow']", "effort['wrist']", "effort['elbow']")
    action = joint_command(robot, *paths).action
    message = types["sensor_msgs/msg/JointState"](header(0.0), [], [], [], [])  # lists, as a new message of rclpy has
    write_action(message, action, np.float32([0.25, -0.5, 0.75, 1.0]))
    assert (message.name, message.position) == (["wrist", "elbow"], [])
    assert (message.velocity, message.effort) == ([0.25, -0.5], [0.75, 1.0])
    message.name.reverse()  # whoever recorded it may order them otherwise
    np.testing.assert_array_equal(read_action(message, action), np.float32([-0.5, 0.25, 1.0, 0.75]))
    message.name[0] = "finger"
    missing = read_action(message, action)
    assert missing.kind is FaultKind.WRONG_TYPE and "there is no 'elbow' among ['finger', 'wrist']" in missing.reason


def test_joint_jog_names_its_joints_in_another_field():
    jog = SimpleNamespace(joint_names=[], velocities=[], displacements=[])  # of control_msgs, which not everybody has
    path = parse_path("velocities['elbow']")
    path.set(jog, 0.5)
    assert jog == SimpleNamespace(joint_names=["elbow"], velocities=[0.5], displacements=[]) and path.get(jog) == 0.5


def test_joints_are_not_commanded_without_their_names(robot):
    action = joint_command(robot, "velocity[0]").action
    message = types["sensor_msgs/msg/JointState"](header(0.0), [], [], [], [])
    with pytest.raises(ValueError, match=r"it names its joints, so write velocity\['<joint>'\]"):
        write_action(message, action, np.float32([0.5]))


def test_every_array_commands_the_same_joints(robot):
    says = "'velocity' is commanded for elbow, but not for wrist"
    with pytest.raises(ConfigError, match=says):
        joint_command(robot, "position['elbow']", "position['wrist']", "velocity['elbow']")


def test_a_step_takes_well_below_a_millisecond(navigation):
    stream = StepStream(navigation)
    durations = []
    for tick in range(300):
        feed(stream, 1.0 + tick / 10)
        begin = time.perf_counter()
        assert isinstance(stream.step(ns(1.0 + tick / 10)), Step)
        durations.append(time.perf_counter() - begin)
    assert np.median(durations) < 0.5e-3, f"{np.median(durations) * 1e3:.3f} ms"
    print(f"StepStream.step p50 {np.median(durations) * 1e6:.0f} us")
