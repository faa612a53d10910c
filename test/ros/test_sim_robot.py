"""The simulated robot, as a process of its own over real DDS."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, LaserScan
from std_msgs.msg import Bool, String
from tc_mmwm_ros.msg import EpisodeEvent
from tc_mmwm_ros.srv import ResetEpisode

from tc_mmwm_core.domains.navigation.scene import Scene, draw_scene
from tc_mmwm_core.domains.navigation.simulator import Simulator
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import Step, StepStream
from tc_mmwm_ros.processes import Processes, executable

LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WORLDS = itertools.count()
TYPES = {"camera/image_raw": Image, "scan": LaserScan, "odom": Odometry, "bumper": Bool}


class Operator:
    """Stands for whoever uses the robot: hears everything, drives, and resets."""

    process: subprocess.Popen  # of the robot

    def __init__(self, processes: Processes, namespace: str):
        self.processes = processes
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("operator", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard = {name: [] for name in (*TYPES, "/clock")}
        self.events, self.instructions = [], []
        for name, kind in TYPES.items():
            self.node.create_subscription(kind, name, self.heard[name].append, 50)
        self.node.create_subscription(Clock, "/clock", self.heard["/clock"].append, 50)
        self.node.create_subscription(EpisodeEvent, "episode_event", self.events.append, LATCHED)
        self.node.create_subscription(String, "instruction", lambda m: self.instructions.append(m.data), LATCHED)
        self.command = self.node.create_publisher(TwistStamped, "cmd_vel", 1)
        self.instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self.service = self.node.create_client(ResetEpisode, "reset_episode")

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def wait(self, condition, seconds=10.0):
        deadline = time.monotonic() + seconds
        while not condition():
            self.processes.check()
            assert time.monotonic() < deadline, "waited in vain"
            self.executor.spin_once(timeout_sec=0.02)

    def reset(self, seed, instruction=""):
        self.wait(self.service.service_is_ready)
        before = len(self.events)
        future = self.service.call_async(ResetEpisode.Request(seed=seed, instruction=instruction))
        self.wait(future.done)
        if future.result().success:  # the answer may overtake the event
            self.wait(lambda: EpisodeEvent.START in self.kinds()[before:])
        return future.result()

    def drive(self, forward, turn, seconds, age=None):
        """Command at 20 Hz for ``seconds``; without a stamp, or with one that is ``age`` seconds old."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = TwistStamped()
            if age is not None:
                message.header.stamp = (self.node.get_clock().now() - Duration(seconds=age)).to_msg()
            message.twist.linear.x, message.twist.angular.z = float(forward), float(turn)
            self.command.publish(message)
            self.commanded = time.time()
            self.spin(0.05)

    @property
    def pose(self):
        pose = self.heard["odom"][-1].pose.pose
        return pose.position.x, pose.position.y, 2 * math.atan2(pose.orientation.z, pose.orientation.w)

    @property
    def speed(self):
        return self.heard["odom"][-1].twist.twist.linear.x

    def kinds(self):
        return [event.kind for event in self.events]

    def drive_to(self, x, y, arrived, seconds=15.0):
        """Turn towards a point and drive until ``arrived()``."""
        deadline = time.monotonic() + seconds
        while not arrived():
            assert time.monotonic() < deadline, f"not there: at {self.pose}"
            here_x, here_y, yaw = self.pose
            error = math.remainder(math.atan2(y - here_y, x - here_x) - yaw, 2 * math.pi)
            self.drive(0.5 * max(0.0, math.cos(error)) ** 3, float(np.clip(3 * error, -2.5, 2.5)), 0.05)


@contextmanager
def world(logs, **parameters):
    namespace = f"world{next(WORLDS)}"
    command = [executable("sim_robot"), "--ros-args", "-r", f"__ns:=/{namespace}"]
    for name, value in ({"auto_reset": False} | parameters).items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    with Processes(logs) as processes:
        process = processes.start("sim_robot", command)
        operator = Operator(processes, namespace)
        operator.process = process
        try:
            operator.wait(lambda: operator.events and operator.heard["odom"])
            yield operator
        finally:
            operator.close()
        assert processes.stop("sim_robot") == 0
        assert "Traceback" not in processes.log("sim_robot").read_text()


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """One robot for the tests that leave it as they found it: at a reset."""
    with world(tmp_path_factory.mktemp("logs")) as operator:
        yield operator


def stamp(message):
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def test_sensors_come_at_their_rate_with_rising_stamps(robot):
    robot.reset(1)
    for messages in robot.heard.values():
        messages.clear()
    robot.spin(2.0)
    for name in TYPES:
        assert 32 <= len(robot.heard[name]) <= 44, f"{name}: {len(robot.heard[name])} in 2 s"
    stamps = np.array([stamp(message) for message in robot.heard["odom"]])
    np.testing.assert_allclose(np.diff(stamps), 0.05, atol=0.011)
    image, scan, odometry = (robot.heard[name][-1] for name in ("camera/image_raw", "scan", "odom"))
    assert (image.encoding, image.height, image.width, image.step) == ("rgb8", 64, 64, 192)
    assert (scan.angle_min, len(scan.ranges), scan.range_max) == (0.0, 24, 3.0)
    assert scan.angle_increment == pytest.approx(2 * math.pi / 24)
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")


def test_what_it_publishes_is_what_its_robot_interface_asks_and_the_simulator_sees(robot, share):
    interface = RobotInterface.load(share / "config" / "robots" / "navigation.yaml")
    robot.reset(6)
    for messages in robot.heard.values():
        messages.clear()
    robot.spin(0.3)
    received = time.time_ns()
    stream = StepStream(interface)
    for name in TYPES:
        for message in robot.heard[name]:
            stream.add(name, message, received)
    step = stream.step(received)
    assert isinstance(step, Step), step
    simulator = Simulator()
    reading = simulator.reset(draw_scene(6))
    simulator.close()
    np.testing.assert_allclose(step.sensor, reading.sensor, atol=0.02)  # it settled on its wheels meanwhile
    assert np.abs(step.images["overhead"].astype(int) - reading.image).mean() < 0.5


def test_a_seed_gives_the_same_scene_and_start(robot):
    first = robot.reset(7, "")
    robot.drive(0.5, 1.0, 0.5)
    again = robot.reset(7, "")
    assert first.success and again.success
    assert first.scene == again.scene and first.instruction == again.instruction
    assert Scene.from_dict(json.loads(again.scene)) == draw_scene(7)
    robot.heard["odom"].clear()
    robot.wait(lambda: robot.heard["odom"])
    assert robot.pose == pytest.approx(draw_scene(7).start, abs=0.01)


def test_start_is_told_with_scene_and_instruction_and_the_planner_is_instructed(robot):
    pad = draw_scene(8).pads[0].colour
    text = f"drive to the {pad} pad, drive slowly"
    robot.events.clear(), robot.instructions.clear()
    assert robot.reset(8, text).success
    # The layout's instruction before, which is latched, may come only now.
    robot.wait(lambda: EpisodeEvent.START in robot.kinds() and text in robot.instructions)
    start = robot.events[-1]
    assert (start.kind, start.seed, start.instruction) == (EpisodeEvent.START, 8, text)
    assert json.loads(start.scene)["seed"] == 8
    assert robot.instructions[-1] == text


def test_an_episode_cut_short_ends_with_unknown_success(robot):
    robot.reset(8)
    robot.events.clear()
    robot.reset(9)
    robot.wait(lambda: len(robot.events) >= 2)
    end, start = robot.events
    assert (end.kind, end.reason, end.success) == (EpisodeEvent.END, "reset", EpisodeEvent.UNKNOWN)
    assert start.kind == EpisodeEvent.START and start.episode != end.episode


def test_stops_by_itself_within_half_a_second_of_silence(robot):
    robot.reset(2)
    robot.drive(0.0, 2.0, 0.6)
    assert robot.heard["odom"][-1].twist.twist.angular.z > 1.0
    robot.wait(lambda: abs(robot.heard["odom"][-1].twist.twist.angular.z) < 0.05, 3.0)
    assert 0.2 < stamp(robot.heard["odom"][-1]) - robot.commanded < 0.5 + 0.05  # odometry comes each 0.05 s


def test_a_command_is_as_old_as_its_stamp(robot):
    robot.reset(2)
    robot.drive(0.0, 2.0, 0.4, age=0.3)
    assert abs(robot.heard["odom"][-1].twist.twist.angular.z) < 0.05
    robot.drive(0.0, 2.0, 0.6, age=0.0)
    assert robot.heard["odom"][-1].twist.twist.angular.z > 1.0


def test_a_robot_that_was_held_up_has_stopped_in_time_all_the_same(robot):
    robot.reset(2)
    robot.drive(0.0, 2.0, 0.6)
    robot.heard["odom"].clear()
    robot.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    robot.process.send_signal(signal.SIGCONT)
    robot.wait(lambda: robot.heard["odom"] and stamp(robot.heard["odom"][-1]) > robot.commanded + 1.5, 3.0)
    late = [message for message in robot.heard["odom"] if stamp(message) > robot.commanded + 0.5]
    assert len(late) >= 10, "the time that it was held up was skipped"
    assert all(abs(message.twist.twist.angular.z) < 0.05 for message in late)


def test_commands_are_clipped_to_the_limits_and_nonsense_stops(robot):
    robot.reset(2)
    simulator = Simulator(render=False)
    simulator.reset(draw_scene(2))
    for _ in range(6):
        simulator.step(np.array([0.0, 2.5]))
    robot.drive(0.0, 50.0, 0.6)
    assert robot.heard["odom"][-1].twist.twist.angular.z == pytest.approx(simulator.read().turn_rate, abs=0.2)
    robot.drive(math.nan, 1.0, 0.4)
    assert abs(robot.heard["odom"][-1].twist.twist.angular.z) < 0.1


def test_driving_into_a_forbidden_zone_is_told_and_so_is_leaving_it(robot):
    layout = draw_scene(3)
    zone = layout.zones[0]
    robot.reset(3, f"go to the {layout.pads[0].colour} pad, keep out of the {zone.colour} area")
    robot.wait(lambda: robot.events[-1].kind == EpisodeEvent.START)
    robot.events.clear()
    robot.drive_to(zone.x, zone.y, lambda: EpisodeEvent.VIOLATION_BEGIN in robot.kinds())
    begin = robot.events[0]
    assert begin.rule == f"keep out of the {zone.colour} zone"
    assert max(abs(robot.pose[0] - zone.x), abs(robot.pose[1] - zone.y)) < zone.half + 0.25
    robot.drive_to(*layout.start[:2], lambda: EpisodeEvent.VIOLATION_END in robot.kinds())
    assert robot.events[1].violations >= 1
    assert stamp(robot.events[1]) > stamp(begin)


def test_a_new_instruction_is_judged_at_once_and_the_old_verdict_ends_with_the_old(robot):
    layout = draw_scene(3)
    zone, goal = layout.zones[0], f"go to the {layout.pads[0].colour} pad"
    forbidden = f"{goal}, keep out of the {zone.colour} area"
    robot.reset(3, forbidden)
    robot.drive_to(zone.x, zone.y, lambda: robot.kinds()[-1] == EpisodeEvent.VIOLATION_BEGIN)
    for text in (goal, forbidden):
        robot.instruction.publish(String(data=text))
        robot.wait(lambda text=text: robot.events[-1].instruction == text)
        robot.spin(0.2)
    end, change, again, begin = robot.events[-4:]
    assert [event.kind for event in (end, change, again, begin)] == [
        *(EpisodeEvent.VIOLATION_END, EpisodeEvent.INSTRUCTION),
        *(EpisodeEvent.INSTRUCTION, EpisodeEvent.VIOLATION_BEGIN),
    ]
    assert [event.instruction for event in (end, change, again, begin)] == [forbidden, goal, forbidden, forbidden]
    assert stamp(end) == stamp(change) and stamp(again) == stamp(begin)
    assert begin.rule == f"keep out of the {zone.colour} zone"


def test_reaching_the_goal_ends_the_episode(robot):
    layout = next(s for s in map(draw_scene, range(100, 200)) if not s.pillars or free_way(s))
    pad = layout.pads[0]
    robot.reset(layout.seed, f"go to the {pad.colour} pad")
    robot.wait(lambda: robot.events[-1].kind == EpisodeEvent.START)
    robot.drive_to(pad.x, pad.y, lambda: robot.kinds()[-1] == EpisodeEvent.END)
    end = robot.events[-1]
    assert (end.reason, end.success, end.reached) == ("goal", EpisodeEvent.TRUE, EpisodeEvent.TRUE)
    assert 0 < end.steps < 200 and end.violations == 0


def free_way(layout):
    """Whether no pillar stands near the straight way from the start to the first pad."""
    start, pad = np.array(layout.start[:2]), np.array([layout.pads[0].x, layout.pads[0].y])
    way = start + np.linspace(0, 1, 50)[:, None] * (pad - start)
    return min(np.hypot(*(way - pillar).T).min() for pillar in layout.pillars) > 0.4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("make me a coffee", "no goal found"),
        ("x" * 10_000, "no goal found"),
        ("drive to the {absent} pad", "there is no {absent} pad in layout 5"),
        ("go to the red pad, do not enter the blue zone", "'do not enter the blue zone' not understood"),
    ],
)
def test_an_instruction_that_cannot_be_judged_is_refused_with_the_reason(robot, text, why):
    present = {pad.colour for pad in draw_scene(5).pads}
    absent = next(colour for colour in ("red", "green", "blue", "yellow") if colour not in present)
    robot.reset(4)
    robot.wait(lambda: robot.events[-1].seed == 4)
    before = len(robot.events)
    answer = robot.reset(5, text.format(absent=absent))
    assert not answer.success and why.format(absent=absent) in answer.message
    robot.spin(0.2)
    assert len(robot.events) == before  # the running episode goes on


@pytest.mark.parametrize("qos", [LATCHED, 10], ids=["latched", "volatile"])
def test_an_instruction_from_others_is_judged_from_then_on(robot, qos):
    speaker = robot.node.create_publisher(String, "instruction", qos)
    robot.wait(lambda: speaker.get_subscription_count() > 0)
    layout = draw_scene(10)
    robot.reset(10)
    robot.wait(lambda: robot.events[-1].seed == 10)
    text = f"head for the {layout.pads[2].colour} disc, no speeding"
    speaker.publish(String(data=text))
    robot.wait(lambda: robot.kinds()[-1] == EpisodeEvent.INSTRUCTION)
    assert robot.events[-1].instruction == text
    speaker.publish(String(data="fly to the moon"))
    robot.wait(lambda: robot.kinds()[-1] == EpisodeEvent.END)
    robot.node.destroy_publisher(speaker)
    assert robot.events[-1].success == EpisodeEvent.UNKNOWN and "fly to the moon" in robot.events[-1].reason


def test_timeout_and_auto_reset_keep_the_instruction_that_was_given(tmp_path):
    text = "drive to the green pad, stay out of the orange zone"
    with world(tmp_path, instruction=text, max_steps=5, auto_reset=True, auto_reset_delay=0.1) as operator:
        operator.wait(lambda: operator.kinds().count(EpisodeEvent.START) >= 3)
        ends = [event for event in operator.events if event.kind == EpisodeEvent.END]
        assert {(end.reason, end.steps, end.success) for end in ends} == {("timeout", 5, EpisodeEvent.FALSE)}
        starts = [event for event in operator.events if event.kind == EpisodeEvent.START]
        assert {start.instruction for start in starts} == {text}
        scenes = [Scene.from_dict(json.loads(start.scene)) for start in starts]
        assert all(scene.pad("green") and scene.zone("orange") for scene in scenes)
        assert len({start.seed for start in starts}) == len(starts)


def test_told_of_a_goal_that_is_not_there_it_goes_on_where_it_is(tmp_path):
    with world(tmp_path, auto_reset=True, auto_reset_delay=0.1) as operator:
        speaker = operator.node.create_publisher(String, "instruction", 10)
        operator.wait(lambda: speaker.get_subscription_count() > 0)
        absent = f"go to the {absent_from(operator.events[-1])} pad"
        operator.node.create_timer(
            0.05, lambda: speaker.publish(String(data=said[-1]))
        )  # faster than the pause is long
        said = [absent]
        operator.wait(lambda: (operator.kinds()[-1], operator.events[-1].instruction) == (EpisodeEvent.START, absent))
        why = next(event.reason for event in reversed(operator.events) if event.kind == EpisodeEvent.END)
        assert why.startswith("cannot be judged: there is no")

        said.append("fly to the moon")  # not to be judged anywhere: it waits
        operator.wait(lambda: operator.kinds()[-1] == EpisodeEvent.END)
        operator.spin(0.5)
        assert operator.kinds()[-1] == EpisodeEvent.END
        said.append(absent)
        operator.wait(lambda: operator.kinds()[-1] == EpisodeEvent.START)


def absent_from(event: EpisodeEvent) -> str:
    """A colour that no pad of the scene has in which an episode began."""
    scene = Scene.from_dict(json.loads(event.scene))
    return next(colour for colour in ("red", "green", "blue", "yellow") if scene.pad(colour) is None)


def test_as_the_source_of_time_it_stamps_in_that_time_and_can_run_fast(tmp_path):
    with world(tmp_path, publish_clock=True, real_time_factor=3.0) as operator:
        operator.wait(lambda: operator.heard["/clock"])
        for messages in operator.heard.values():
            messages.clear()
        began = time.monotonic()
        operator.spin(2.0)
        wall = time.monotonic() - began
        clock = [message.clock.sec + message.clock.nanosec * 1e-9 for message in operator.heard["/clock"]]
        assert clock == sorted(clock) and clock[-1] < 120.0
        assert 1.2 < (clock[-1] - clock[0]) / wall < 3.6  # a busy machine cannot keep up with three times real time
        stamps = np.array([stamp(message) for message in operator.heard["odom"]])
        np.testing.assert_allclose(np.diff(stamps), 0.05, atol=1e-6)
        assert clock[0] - 0.05 <= stamps[0] and stamps[-1] <= clock[-1]


@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [("instruction:='fly'", "no goal found"), ("sensor_rate:=900.0", "sensor_rate")],
)
def test_bad_parameters_are_refused_in_words(parameter, complaint):
    command = [executable("sim_robot"), "--ros-args", "-p", parameter]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, env=dict(os.environ))
    assert ended.returncode == 2
    assert complaint in ended.stderr and "Traceback" not in ended.stderr


def test_is_imported_without_torch():
    code = "import sys, tc_mmwm_ros.sim_robot; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
