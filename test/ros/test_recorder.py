"""The recorder as a process over real DDS: what it writes, what a kill costs, and that live and offline agree."""

import itertools
import math
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Imu
from std_msgs.msg import Bool, String
from tc_mmwm_ros.msg import EpisodeEvent

from tc_mmwm_core.data.bag import Bag
from tc_mmwm_core.data.convert import convert
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.interface.fault import Fault
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import SECOND, Step, StepStream, message_time
from tc_mmwm_core.resources import robot_file
from tc_mmwm_ros.bag_writer import BagWriter, new_folder
from tc_mmwm_ros.message_definition import message_class
from tc_mmwm_ros.processes import Processes, executable
from tc_mmwm_ros.recorder import Recorder

NAMESPACES = itertools.count()
ROBOT = robot_file("navigation.yaml")
SHIPPED_BAG = Path(__file__).parents[1] / "data" / "navigation_bag"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Driver:
    """Drives at twice the control rate, for a late timer must not leave a period without a command, and hears every
    observation deserialized, as the planner does."""

    def __init__(self, namespace: str, interface: RobotInterface):
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("driver", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.camera = self.node.resolve_topic_name("camera/image_raw")
        self.heard = []
        self.diagnostics = []
        for topic, kind in interface.observation_topics().items():
            self.node.create_subscription(message_class(kind, topic), topic, self._hear(topic), 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.command = self.node.create_publisher(TwistStamped, "cmd_vel", 10)
        self.node.create_timer(0.05, self._drive)

    def _hear(self, topic):
        return lambda message: self.heard.append((topic, message, self.node.get_clock().now().nanoseconds))

    def _drive(self):
        message = TwistStamped()
        now = self.node.get_clock().now()
        message.header.stamp = now.to_msg()
        message.twist.linear.x, message.twist.angular.z = 0.3, math.sin(now.nanoseconds * 1e-9)
        self.command.publish(message)

    def wait_until_recorded(self, images):
        """Until the recorder says so: machines differ in how long discovery and recording take."""
        self.wait(lambda: int(self.told().get(f"messages {self.camera}", 0)) >= images, seconds=60.0)

    def told(self):
        """The newest that the recorder told in its diagnostics."""
        return {value.key: value.value for value in self.diagnostics[-1].status[0].values} if self.diagnostics else {}

    def wait(self, condition, seconds=15.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def scene(tmp_path):
    """A simulated robot, a driver, and a function that starts a recorder of the two."""
    namespace = f"recorded{next(NAMESPACES)}"
    bag = tmp_path / "bag"

    def record(**parameters):
        command = [executable("recorder"), "--ros-args", "-r", f"__ns:=/{namespace}"]
        for name, value in ({"robot": ROBOT, "output": bag} | parameters).items():
            command += ["-p", f"{name}:={value}"]
        started = processes.start("recorder", command)
        driver.wait(lambda: any(bag.glob("*.mcap")) or started.poll() is not None)
        return bag

    with Processes(tmp_path / "logs") as processes:
        robot = ["-r", f"__ns:=/{namespace}", "-p", "max_steps:=50", "-p", "auto_reset_delay:=0.3"]
        processes.start("sim_robot", [executable("sim_robot"), "--ros-args", *robot])
        driver = Driver(namespace, RobotInterface.load(ROBOT))
        try:
            driver.wait(lambda: driver.heard)
            yield driver, processes, record
        finally:
            driver.close()


def assert_same_steps(dataset: Dataset, stream: StepStream, unstamped: str = "") -> int:
    """Every step of the dataset is, bit for bit, what ``stream`` gives for its tick; the number compared.

    Steps for which ``unstamped``, heard at another moment by each process, is not there in time are passed over.
    """
    compared = 0
    for trajectory in dataset:
        period = 1e9 / dataset.interface.rate
        for index in np.flatnonzero(trajectory.valid):
            step = stream.step(trajectory.provenance["start_ns"] + round(index * period))
            if isinstance(step, Fault) and step.field == unstamped:
                continue
            assert isinstance(step, Step), str(step)
            np.testing.assert_array_equal(step.sensor, trajectory.sensor[index])
            for name, image in step.images.items():
                np.testing.assert_array_equal(image, trajectory.images[name][index])
            compared += 1
    return compared


def test_live_and_offline_agree_bit_for_bit(scene, tmp_path):
    driver, processes, record = scene
    bag = record()
    driver.wait_until_recorded(140)
    assert processes.stop("recorder") == 0
    report = convert(bag, tmp_path / "dataset", RobotInterface.load(ROBOT))
    dataset = Dataset.open(tmp_path / "dataset")
    assert report.valid_steps > 30 and dataset.trajectories[0].scene is not None, report.table()

    # Each process hears a message at a moment of its own: when the recorder did counts for both.
    recorded = Bag(bag)
    topics = {driver.node.resolve_topic_name(topic): topic for topic in dataset.interface.observation_topics()}
    received = {
        (topics[raw.topic], message_time(recorded.deserialize(raw), -1)): raw.log_ns
        for raw in recorded.messages(set(topics))
    }
    stream = StepStream(dataset.interface, history=10_000)
    for topic, message, received_ns in driver.heard:
        stream.add(topic, message, received.get((topic, message_time(message, received_ns)), received_ns))
    assert assert_same_steps(dataset, stream, unstamped="bumper") > 0.8 * report.valid_steps

    told = driver.told()
    assert int(told["messages"]) > 4 * 140 and told["bag"] == str(bag)


def test_rosbag2_can_read_what_was_recorded(scene):
    driver, processes, record = scene
    bag = record(extra_topics="['/rosout', 'nothing_here']", max_bag_size=20_000, chunk_seconds=0.2)
    driver.wait_until_recorded(60)
    assert processes.stop("recorder", signal.SIGTERM) == 0
    files = sorted(bag.glob("*.mcap"))
    assert len(files) > 1
    with Reader(bag) as reader:
        topics = {name.rsplit("/", 1)[-1]: topic for name, topic in reader.topics.items()}
        assert topics["image_raw"].msgtype == "sensor_msgs/msg/Image" and topics["image_raw"].msgcount >= 50
        assert topics["episode_event"].msgcount >= 1 and topics["instruction"].msgcount >= 1  # latched, heard late
        assert "rosout" in topics and "nothing_here" not in topics
        counted = sum(1 for _ in reader.messages())
        assert counted == reader.message_count == sum(topic.msgcount for topic in topics.values())
        qos = topics["instruction"].connections[0].ext.offered_qos_profiles[0]
        assert qos.durability.name == "TRANSIENT_LOCAL" and qos.reliability.name == "RELIABLE"
    for raw in Bag(bag).messages({"/rosout"}):  # a type that the interface does not name
        assert raw.type == "rcl_interfaces/msg/Log"


def test_hears_publishers_that_offer_less(scene):
    """Best-effort sensors, and an instruction that is not latched, as `ros2 topic pub` sends it."""
    driver, processes, record = scene
    weak = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    imu = driver.node.create_publisher(Imu, "imu", weak)
    said = driver.node.create_publisher(String, "said", 5)
    talk = driver.node.create_timer(0.05, lambda: (imu.publish(Imu()), said.publish(String(data="go"))))
    robot = yaml.safe_load(ROBOT.read_text())
    robot["instruction"]["topic"] = "said"
    mine = processes.logs / "mine.yaml"
    mine.write_text(yaml.safe_dump(robot))
    bag = record(robot=mine, extra_topics="['imu:sensor_msgs/msg/Imu']")
    topics = [driver.node.resolve_topic_name(name) for name in ("imu", "said")]
    driver.wait(lambda: all(int(driver.told().get(f"messages {topic}", 0)) > 20 for topic in topics), seconds=60.0)
    driver.node.destroy_timer(talk)
    assert processes.stop("recorder") == 0
    counts = {name.rsplit("/", 1)[-1]: topic.messages for name, topic in Bag(bag).topics.items()}
    assert counts["imu"] > 20 and counts["said"] > 20, processes.tail("recorder")


def test_what_is_published_once_as_soon_as_anybody_listens_is_recorded(scene):
    """As ``ros2 topic pub --once`` does: volatile, and gone as soon as the planner, say, is matched."""
    driver, processes, record = scene
    robot = yaml.safe_load(ROBOT.read_text())
    robot["instruction"]["topic"] = "said"
    mine = processes.logs / "mine.yaml"
    mine.write_text(yaml.safe_dump(robot))
    bag = record(robot=mine)
    driver.node.create_subscription(String, "said", lambda _: None, 1)
    topic = driver.node.resolve_topic_name("said")
    there = driver.node.get_subscriptions_info_by_topic
    driver.wait(lambda: "recorder" in [each.node_name for each in there(topic)])
    said = driver.node.create_publisher(String, "said", 1)
    driver.wait(said.get_subscription_count)
    said.publish(String(data="go"))
    driver.wait(lambda: int(driver.told().get(f"messages {topic}", 0)))
    assert processes.stop("recorder") == 0
    assert Bag(bag).topics[topic].messages == 1


def test_a_camera_that_is_missing_is_warned_of(scene):
    driver, processes, record = scene
    robot = yaml.safe_load(ROBOT.read_text())
    robot["images"][0]["topic"] = "camera/unplugged"
    mine = processes.logs / "mine.yaml"
    mine.write_text(yaml.safe_dump(robot))
    record(robot=mine)
    driver.wait(lambda: driver.diagnostics and driver.diagnostics[-1].status[0].level == DiagnosticStatus.WARN)
    status = driver.diagnostics[-1].status[0]
    camera = driver.node.resolve_topic_name("camera/unplugged")
    assert status.message == f"nothing was heard for 5 s on {camera} (no publisher)"
    assert status.name == driver.node.resolve_topic_name("recorder").lstrip("/") + ": bag"
    driver.diagnostics.clear()
    driver.wait(lambda: len(driver.diagnostics) > 1)
    assert processes.tail("recorder").count(status.message) == 1
    driver.node.create_publisher(CompressedImage, "camera/unplugged", 1)
    words = f"{camera} (published as sensor_msgs/msg/CompressedImage by {driver.node.get_fully_qualified_name()})"
    driver.wait(lambda: words in driver.diagnostics[-1].status[0].message)


@pytest.fixture
def recorder(tmp_path):
    """A recorder in the thread of the test, so that a test can hold it up, as a slow disk does."""
    context = Context()
    rclpy.init(context=context)
    values = {"robot": str(ROBOT), "output": str(tmp_path / "bag")}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    namespace = f"recorded{next(NAMESPACES)}"
    node = Recorder(context=context, namespace=namespace, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def record(topic, messages):
        """Until so many were recorded and no more come."""
        deadline = time.monotonic() + 15
        while node.writer.counts[topic] < messages:
            assert time.monotonic() < deadline, node.writer.counts
            executor.spin_once(timeout_sec=0.05)
        for _ in range(10):
            executor.spin_once(timeout_sec=0.02)

    yield node, record
    node.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_what_its_own_queue_loses_is_counted(recorder, reliability):
    node, record = recorder
    publishers = [node.create_publisher(Odometry, "odom", QoSProfile(depth=10, reliability=reliability)) for _ in "ab"]
    topic = node.resolve_topic_name("odom")
    # With best effort it subscribes anew, once it was told that reliable is not offered.
    deadline = time.monotonic() + 15
    while not node.writer.counts[topic] and time.monotonic() < deadline:
        for publisher in publishers:
            publisher.publish(Odometry())
        record(topic, 0)
    heard = node.writer.counts[topic]
    for index in range(300):
        publishers[index % 2].publish(Odometry())
        time.sleep(0.0005)
    record(topic, heard + 200)
    assert node.writer.counts[topic] == heard + 200
    assert node._lost == {topic: 100}
    assert node._losses() == f"100 lost ({topic} 100)"


def test_where_rclpy_does_not_tell_whose_a_number_is_what_the_middleware_reports_is_counted(recorder):
    """As before Kilted."""
    node, _ = recorder
    topic = node.resolve_topic_name("odom")
    for number in (1, 9):
        information = {"source_timestamp": number, "received_timestamp": number, "publication_sequence_number": number}
        node._on_message(topic, deque(), {}, serialize_message(Odometry()), information)
    node._on_lost(topic, SimpleNamespace(total_count_change=3))
    assert node.writer.counts[topic] == 2 and node._lost == {topic: 3}


def test_what_is_heard_before_simulated_time_begins_is_recorded_when_it_does(scene):
    driver, processes, record = scene
    bag = record(use_sim_time=True)
    driver.wait(lambda: driver.diagnostics and "waits for the first /clock" in driver.diagnostics[-1].status[0].message)
    assert driver.told()["messages"] == "0"
    clock, now = driver.node.create_publisher(Clock, "/clock", 1), itertools.count(5_000_000_000, 50_000_000)
    tick = driver.node.create_timer(0.05, lambda: clock.publish(Clock(clock=Time(nanoseconds=next(now)).to_msg())))
    driver.wait_until_recorded(20)
    driver.node.destroy_timer(tick)
    assert processes.stop("recorder") == 0
    stamps = [raw.log_ns for raw in Bag(bag).messages(set(Bag(bag).topics))]
    assert min(stamps) >= 5_000_000_000
    assert Bag(bag).topics[driver.node.resolve_topic_name("episode_event")].messages >= 1  # latched, so heard first


def test_heard_without_any_clock_nothing_is_recorded_and_it_says_so(scene):
    driver, processes, record = scene
    record(use_sim_time=True)
    driver.wait(lambda: "messages wait for the first /clock: use_sim_time is true" in processes.tail("recorder"))
    assert processes.stop("recorder") == 1
    assert "messages were heard before the first /clock and are not recorded" in processes.tail("recorder")


@pytest.fixture
def clocked(recorder):
    """A recorder by /clock; ``drive(seconds, messages)`` sets that and says odometry, and tells how much there was."""
    node, record = recorder
    node.set_parameters([Parameter("use_sim_time", value=True)])
    clock, odom = node.create_publisher(Clock, "/clock", 1), node.create_publisher(Odometry, "odom", 10)
    topic = node.resolve_topic_name("odom")

    def drive(seconds, messages):
        while node.get_clock().now().nanoseconds != seconds * 1_000_000_000:
            clock.publish(Clock(clock=Time(seconds=seconds).to_msg()))
            record(topic, 0)
        heard = node.writer.counts[topic]
        for _ in range(messages):
            odom.publish(Odometry())
        return heard

    return node, record, drive


def test_a_clock_that_is_set_back_begins_another_bag(clocked):
    """As a simulation that is restarted does. Each bag is whole, and what is latched is in both."""
    node, record, drive = clocked
    instruction = node.create_publisher(String, "instruction", LATCHED)
    topics = [node.resolve_topic_name(name) for name in ("odom", "instruction")]
    drive(100, 0)
    instruction.publish(String(data="go"))
    record(topics[1], 1)
    for seconds in (100, 101, 100):  # not by more than a second
        record(topics[0], drive(seconds, 2) + 2)
    first = node.folder
    drive(5, 3)
    record(topics[0], 3)
    assert node.folder == first.with_name("bag_1")
    assert (first / "metadata.yaml").is_file() and Bag(first).setback()[1] == 1_000_000_000
    assert [Bag(first).topics[topic].messages for topic in topics] == [6, 1]
    assert [node.writer.counts[topic] for topic in topics] == [3, 1]
    with pytest.raises(OSError, match=r"set back by 3\.0 s again; does /clock come from more than one node"):
        drive(2, 1)
        record(topics[0], 5)


def test_another_bag_begins_with_the_newest_instruction_last(clocked):
    node, record, drive = clocked
    first, second = (node.create_publisher(String, "instruction", LATCHED) for _ in range(2))
    topic = node.resolve_topic_name("instruction")
    drive(100, 0)
    for heard, (publisher, text) in enumerate([(first, "one"), (second, "two"), (first, "three")], start=1):
        publisher.publish(String(data=text))
        record(topic, heard)
    drive(5, 1)
    record(node.resolve_topic_name("odom"), 1)
    node.writer.flush()
    assert [message.data for _, message in Bag(node.folder).contents({topic})][-1] == "three"


def test_a_bag_of_many_files_is_none_whose_clock_was_set_back(tmp_path):
    writer = BagWriter(tmp_path / "bag", split_bytes=1)
    writer.add_topic("/word", "std_msgs/msg/String", "string data", [])
    for second in range(1, 13):
        writer.write("/word", second * SECOND, serialize_message(String(data="go")))
        writer.flush()
    writer.close()
    bag = Bag(writer.folder)
    assert len(bag.files) > 10 and bag.setback() is None


def test_of_an_event_without_a_stamp_it_is_warned_once(scene):
    driver, processes, record = scene
    record()
    events = driver.node.create_publisher(EpisodeEvent, "episode_event", 10)
    driver.wait(events.get_subscription_count)
    for _ in range(3):
        events.publish(EpisodeEvent(kind=EpisodeEvent.VIOLATION_BEGIN))
    driver.wait(lambda: "an event has no stamp (header.stamp is 0)" in processes.tail("recorder"))
    driver.wait_until_recorded(10)
    assert processes.stop("recorder") == 0
    assert processes.tail("recorder").count("an event has no stamp") == 1


def test_recorders_that_start_at_once_have_a_folder_each(tmp_path):
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(new_folder, [tmp_path / "some" / "bag"] * 4))
    assert sorted(folder.name for folder in folders) == ["bag", "bag_1", "bag_2", "bag_3"]
    assert all(folder.is_dir() for folder in folders)


def test_extra_topics_are_heard_though_latched_before_and_each_once(scene):
    driver, processes, record = scene
    for name in ("robot_description", "map_name"):
        driver.node.create_publisher(String, name, LATCHED).publish(String(data=name))
    bag = record(
        extra_topics="[robot_description, 'robot_description:std_msgs/msg/String', map_name, odom, "
        "'odom:nav_msgs/msg/Odometry']"
    )
    topics = [driver.node.resolve_topic_name(name) for name in ("robot_description", "map_name")]
    driver.wait(lambda: all(int(driver.told().get(f"messages {topic}", 0)) for topic in topics), seconds=60.0)
    driver.wait_until_recorded(20)
    assert processes.stop("recorder") == 0
    recorded = Bag(bag)
    assert [recorded.topics[topic].messages for topic in topics] == [1, 1], processes.tail("recorder")
    odometry = [raw.data for raw in recorded.messages({driver.node.resolve_topic_name("odom")})]
    assert len(odometry) == len(set(odometry)) > 10


@pytest.mark.parametrize(("latched", "max_age"), [(True, 1000.0), (False, 1000.0), (False, 6.0)])
def test_a_sensor_that_speaks_on_change_only_is_recorded_and_may_be_silent_for_as_long_as_it_counts(
    scene, latched, max_age
):
    driver, processes, record = scene
    robot = yaml.safe_load(ROBOT.read_text())
    robot["sensors"][2] |= {"topic": "dock", "latched": latched, "max_age": max_age}
    mine = processes.logs / "mine.yaml"
    mine.write_text(yaml.safe_dump(robot))
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    dock = driver.node.create_publisher(Bool, "dock", QoSProfile(depth=1, durability=durability))
    if latched:
        dock.publish(Bool(data=True))
    bag = record(robot=mine)
    topic = driver.node.resolve_topic_name("dock")
    if not latched:
        driver.wait(dock.get_subscription_count)
        dock.publish(Bool(data=True))
    driver.wait(lambda: driver.told().get(f"messages {topic}") == "1")
    driver.diagnostics.clear()
    told = [f"for 6 s on {topic}"] if max_age == 6.0 else []
    driver.wait(lambda: len(driver.diagnostics) > (8 if told else 6))
    messages = [message.status[0].message for message in driver.diagnostics]
    assert not any(topic in message for message in messages[:4])  # as one that is silent
    assert all(expected in messages[-1] for expected in told)
    assert told or topic not in messages[-1]
    assert processes.stop("recorder") == 0
    assert Bag(bag).topics[topic].messages == 1
    with Reader(bag) as reader:
        (connection,) = reader.topics[topic].connections
        assert connection.ext.offered_qos_profiles[0].durability.name == durability.name


def test_a_killed_recording_loses_at_most_its_last_second(scene, tmp_path):
    driver, processes, record = scene
    bag = record()
    driver.wait_until_recorded(80)
    killed_ns = driver.node.get_clock().now().nanoseconds
    assert processes.stop("recorder", signal.SIGKILL) == -signal.SIGKILL
    assert not (bag / "metadata.yaml").exists()
    report = convert(bag, tmp_path / "dataset", RobotInterface.load(ROBOT))
    heard_ns = max(received_ns for *_, received_ns in driver.heard if received_ns < killed_ns - 1_000_000_000)
    assert Bag(bag).end_ns >= heard_ns
    assert report.valid_steps > 10 and any("cut off after" in note for note in report.notes), report.table()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"extra_topics": "['x:no_such_msgs/msg/Y']"}, "needs package no_such_msgs, which is not installed"),
        (
            {"extra_topics": "['x:std_msgs/msg/Strin']"},
            "'extra_topics': 'x:std_msgs/msg/Strin': std_msgs has no message",
        ),
        ({"extra_topics": "['x:tc_mmwm_ros/msg/Strin']"}, "package tc_mmwm_ros has no message Strin"),
        (
            {"extra_topics": "['x:sensor_msgs/Image']"},
            "'extra_topics': 'x:sensor_msgs/Image': 'sensor_msgs/Image' is not",
        ),
        ({"extra_topics": "['two words']"}, "'extra_topics': 'two words'"),
        ({"robot": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"robot": "''"}, "parameter 'robot' is empty"),
    ],
)
def test_refuses_to_start(tmp_path, parameters, says):
    command = [executable("recorder"), "--ros-args"]
    for name, value in ({"robot": ROBOT, "output": tmp_path / "bag"} | parameters).items():
        command += ["-p", f"{name}:={value}"]
    with Processes(tmp_path / "logs") as processes:
        assert processes.start("recorder", command).wait(20) == 2
        assert says in processes.tail("recorder") and "Traceback" not in processes.tail("recorder")
    assert not (tmp_path / "bag").exists()


def test_never_writes_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "precious").write_text("data")
    command = [executable("recorder"), "--ros-args", "-p", f"robot:={ROBOT}", "-p", f"output:={tmp_path}"]
    with Processes(tmp_path / "logs") as processes:
        assert processes.start("recorder", command).wait(20) == 2
        assert "already holds something" in processes.tail("recorder")


def test_shipped_bag_gives_the_same_from_rclpy_and_from_rosbags(tmp_path):
    """rclpy deserializes the recorded CDR, as it would have come live; rosbags does in the converter."""
    interface = RobotInterface.load(ROBOT)
    report = convert(SHIPPED_BAG, tmp_path / "dataset", interface)
    bag = Bag(SHIPPED_BAG)
    topics = {f"/{topic}": topic for topic in interface.observation_topics()}
    stream = StepStream(interface, history=10_000)
    for raw in bag.messages(set(topics)):
        message = deserialize_message(raw.data, message_class(raw.type, raw.topic))
        stream.add(topics[raw.topic], message, raw.log_ns)
    assert assert_same_steps(Dataset.open(tmp_path / "dataset"), stream) == report.valid_steps > 50
