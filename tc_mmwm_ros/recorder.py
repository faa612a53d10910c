"""Record what a robot senses, is told and does, so that it can be learned from.

Subscribes to every topic of the robot interface and to ``extra_topics``, and writes the raw CDR to an MCAP bag in small
chunks: a recorder that is killed has lost at most its last second.

QoS: asks for reliable with a deep queue (best effort lost half of a 30 Hz VGA camera on one machine), and for best
effort as soon as a publisher turns up that offers no more (sensor data often). A ``latched`` sensor is heard as the
planner hears it, by a transient-local subscription. Instruction, events and extra topics (/tf_static, /map) may be
latched: they have two subscriptions, as in ``instructions.py``. A transient-local one hears what was published before
it came, a volatile one hears every publisher, the one of ``ros2 topic pub --once`` too; what both hear is recorded
once.

Threads: one. Messages are not deserialized; subscriptions, the flush and the report all run in the thread that spins.

Time: bag times are those of the node's clock, so of /clock with ``use_sim_time``: what is heard before the first of
it waits, and is recorded at that time. Where the clock is set back by more than a second (a simulation was restarted)
it goes on in another bag, ``<output>_1``, ``_2``, ...: by time, the messages of before and after would lie interleaved.
That bag begins with the instruction and what latched sensors said last: nobody may say it again. Flushing goes by the
steady clock.

Publishes ``/diagnostics`` (diagnostic_msgs/DiagnosticArray, 1 Hz): messages, rate, lost messages and size of the bag;
WARN while an observation or the command of the robot interface is silent, with what the ROS graph knows of it, or the
disk nearly full, or messages were lost. Silent is what was not heard at all, or not for 5 s and its ``max_age``: what
is said on change only has a long one.

What is lost, on the way or in a queue that overflowed while the disk was busy, is missing in the numbers that each
publisher gives its messages, from the first that was heard. Where the middleware, or rclpy before Kilted, does not tell
them or whose they are, what is reported as lost is counted, which leaves out the queues.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidTopicNameException, ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.validate_topic_name import validate_topic_name

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.interface.messages import check_type
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import SECOND
from tc_mmwm_ros import signals
from tc_mmwm_ros.bag_writer import BagWriter, new_folder
from tc_mmwm_ros.graph import unheard
from tc_mmwm_ros.message_definition import MissingTypeError, message_class, message_definition
from tc_mmwm_ros.parameters import describe, helped

QUEUE = 200
STAMP = slice(4, 12)  # header.stamp in the CDR of a message that begins with its header
LIVE = (DurabilityPolicy.VOLATILE,)
LATCHED = (DurabilityPolicy.TRANSIENT_LOCAL,)  # what the planner hears of a sensor that is latched
EITHER = LIVE + LATCHED
REPORT_PERIOD = 5.0  # s between lines in the log
LOW_DISK_BYTES = 1 << 30
RESTART_PERIOD = 5.0  # s: a clock that is set back again within it comes from two nodes, not from a restart
SILENCE = 5.0  # s without a message after which an observation or the command is missed, if its max_age is not longer

PARAMETERS = (
    ("robot", "", describe("path of the robot interface YAML (required)", read_only=True)),
    (
        "output",
        "",
        describe(
            "folder of the bag, which must not hold anything yet; empty: rosbag2_<date>-<time> in the working "
            "directory (with _1, ... where that is taken)",
            read_only=True,
        ),
    ),
    (
        "extra_topics",
        ["planner/state:tc_mmwm_ros/msg/PlannerState"],
        describe(
            "further topics to record, each as name:package/msg/Name, or as a bare name, which is recorded as soon as "
            "it has a publisher",
            read_only=True,
        ),
    ),
    (
        "chunk_seconds",
        0.5,
        describe(
            "most that is lost if the recorder is killed, s; smaller chunks compress less", 0.05, 10.0, read_only=True
        ),
    ),
    (
        "max_bag_size",
        0,
        describe("size at which the bag is split into another file, bytes; 0: never", 0, 2**62, read_only=True),
    ),
)


class Recorder(Node):
    """See the module's docstring.

    Raises:
        ConfigError: the robot interface cannot be read, or an extra topic is none.
        MissingTypeError: a message package is not installed.
        FileExistsError: ``output`` already holds something.
    """

    def __init__(self, **node_arguments) -> None:
        super().__init__("recorder", **node_arguments)
        self.declare_parameters("", PARAMETERS)
        robot, output, extra, chunk_seconds, split_bytes = (self.get_parameter(name).value for name, *_ in PARAMETERS)
        if not robot:
            raise ConfigError("parameter 'robot' is empty; give the path of a robot interface, e.g. robot:=mine.yaml")
        self.interface = RobotInterface.load(robot)
        heard_as = dict.fromkeys(self.interface.latched_topics, LATCHED)
        heard_as |= {spec.topic: EITHER for spec in (self.interface.instruction, self.interface.events) if spec}
        topics = {
            self.resolve_topic_name(name): (kind, heard_as.get(name, LIVE))
            for name, kind in self.interface.topics().items()
        }
        awaited = [*self.interface.observations, self.interface.action]
        self._awaited = {self.resolve_topic_name(spec.topic): spec.type for spec in awaited}
        self._heard_at = dict.fromkeys(self._awaited, time.monotonic())
        self._patience = dict.fromkeys(self._awaited, SILENCE)  # s, of each: longer, once it was heard, as it counts
        self._max_age = {self.resolve_topic_name(spec.topic): spec.max_age for spec in self.interface.observations}
        self._silent: dict[str, str] = {}  # why, where the graph knows
        self._unknown: set[str] = set()
        for entry in filter(None, extra):
            topic, kind = self._extra(entry)
            if topic in topics:  # it would be recorded twice
                continue
            if kind:
                topics[topic] = (kind, EITHER)
            else:
                self._unknown.add(topic)
        self._unknown -= topics.keys()  # listed twice, with and without its type
        prepared = [  # before anything is written: a missing package leaves no bag
            (topic, message_class(kind, topic), message_definition(kind, topic), kind, durabilities)
            for topic, (kind, durabilities) in topics.items()
        ]

        kept = [self.interface.instruction.topic, *self.interface.latched_topics]
        self._kept = {self.resolve_topic_name(name) for name in kept}
        self._last: dict[tuple[str, bytes | None], bytes] = {}  # of these, what each publisher said last, by when
        events = self.interface.events
        self._events = self.resolve_topic_name(events.topic) if events else None
        self._unstamped = False  # an event without a stamp was warned of
        self._unplaced = 0  # messages that were heard before time began, and are not in the bag
        self._newest_ns = 0
        self._begun_at = -math.inf  # when the clock was set back last, on the steady one

        self.folder = Path(output).absolute()
        if not output:
            self.folder = new_folder(Path(time.strftime("rosbag2_%Y_%m_%d-%H_%M_%S")).absolute())
        self._first = self.folder
        self.writer = BagWriter(self.folder, chunk_seconds, split_bytes)
        self._lost: Counter[str] = Counter()  # by topic
        self._lost_told = 0  # in the log
        self._numbered = False  # the middleware numbers messages
        self._early: dict[str, deque[bytes]] = {}  # by topic, what was heard before time began
        self._asked: dict[tuple[str, DurabilityPolicy], tuple[Subscription, QoSProfile]] = {}
        self._refused: dict[tuple[str, DurabilityPolicy], QoSPolicyKind] = {}  # what a publisher does not offer
        self._reported = (time.monotonic(), 0)
        for each in prepared:
            self._record(*each)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(min(chunk_seconds / 2, 0.2), self._flush, clock=steady)
        self.create_timer(1.0, self._look_after, clock=steady)
        self.create_timer(REPORT_PERIOD, self._report, clock=steady)
        self.get_logger().info(f"recording {', '.join(self.writer.counts)} to {self.folder}")

    def close(self) -> bool:
        """Finish the bag. False: of all that was heard, nothing could be recorded."""
        self.writer.close()
        counts = self.writer.counts
        silent = [name for name, count in counts.items() if not count and name not in self._early]
        size = self.writer.size / 1e6
        self.get_logger().info(f"{sum(counts.values())} messages, {self._losses()}, {size:.1f} MB in {self.folder}")
        if silent:
            self.get_logger().warning(f"nothing was heard on {', '.join(silent)}")
        if self._unplaced:
            self.get_logger().error(
                f"{self._unplaced} messages were heard before the first /clock and are not recorded (use_sim_time)"
            )
        return not self._unplaced or any(counts.values())

    def _extra(self, entry: str) -> tuple[str, str]:
        """Resolved name and type, '' where it is not given, of an entry of ``extra_topics``."""
        name, _, kind = entry.partition(":")
        try:
            validate_topic_name(name)
            return self.resolve_topic_name(name), check_type(kind) if kind else ""
        except (InvalidTopicNameException, ValueError) as error:
            raise ConfigError(
                f"parameter 'extra_topics': '{entry}': {error}; give name:package/msg/Name or a name alone"
            ) from None

    def _record(
        self, topic: str, cls: type, definition: str, kind: str, durabilities: tuple[DurabilityPolicy, ...]
    ) -> None:
        latched = DurabilityPolicy.TRANSIENT_LOCAL in durabilities
        self.writer.add_topic(topic, kind, definition, [_playback_qos(latched)])
        heard = partial(self._on_message, topic, deque(maxlen=2 * QUEUE))
        numbers: dict[bytes, int] | None = {}
        for durability in durabilities:
            self._subscribe(topic, cls, partial(heard, numbers), QoSProfile(depth=QUEUE, durability=durability))
            numbers = None  # a second one does not count what it misses: the first heard it

    def _subscribe(self, topic: str, cls: type, heard: Callable[[bytes, dict], None], qos: QoSProfile) -> None:
        asked = (topic, qos.durability)
        events = SubscriptionEventCallbacks(
            message_lost=partial(self._on_lost, topic),
            incompatible_qos=lambda event: self._refused.update({asked: event.last_policy_kind}),
        )
        subscription = self.create_subscription(cls, topic, heard, qos, raw=True, event_callbacks=events)
        self._asked[asked] = (subscription, qos)

    def _on_message(
        self, topic: str, recent: deque[int], numbers: dict[bytes, int] | None, data: bytes, information: dict
    ) -> None:
        """``recent``: stamps of what was heard on the topic lately, by any of its subscriptions.

        ``numbers``: of the last message that this subscription heard, by publisher; None: it does not count.
        """
        number, publisher = information.get("publication_sequence_number"), information.get("publisher_gid")
        publisher = publisher and publisher["data"]  # rclpy of Jazzy does not tell
        if numbers is not None and number is not None and publisher is not None:
            self._numbered = True
            before = numbers.get(publisher, number - 1)
            if number > before + 1:
                self._lost[topic] += number - before - 1
            numbers[publisher] = max(number, before)
        if topic in self._heard_at:
            self._heard_at[topic] = time.monotonic()
            self._patience[topic] = max(SILENCE, self._max_age.get(topic, 0.0))
        stamp_ns = information["source_timestamp"]
        if stamp_ns not in recent:
            recent.append(stamp_ns)
            if topic == self._events and not any(data[STAMP]) and not self._unstamped:
                self._unstamped = True
                self.get_logger().warning(
                    f"{topic}: an event has no stamp (header.stamp is 0) and will count from when it was received; "
                    "does its sender fill it in (header: auto)?"
                )
            self._write(topic, self.get_clock().now().nanoseconds, data)
            if topic in self._kept:
                self._last.pop((topic, publisher), None)  # so that what was said last stays the last of them
                self._last[topic, publisher] = data

    def _write(self, topic: str, now_ns: int, data: bytes) -> None:
        if not now_ns:  # use_sim_time, and no /clock yet
            self._early.setdefault(topic, deque(maxlen=QUEUE)).append(data)
            self._unplaced += 1
            return
        if now_ns < self._newest_ns - SECOND:
            self._begin_anew(now_ns)
        self._newest_ns = max(self._newest_ns, now_ns)
        for early, messages in self._early.items():
            for message in messages:
                self.writer.write(early, now_ns, message)
                self._unplaced -= 1
        self._early.clear()
        self.writer.write(topic, now_ns, data)

    def _begin_anew(self, now_ns: int) -> None:
        """Go on in a bag beside the first: the clock was set back. OSError: it is so again and again."""
        fall, now = (self._newest_ns - now_ns) / SECOND, time.monotonic()
        if now - self._begun_at < RESTART_PERIOD:
            raise OSError(f"the clock was set back by {fall:.1f} s again; does /clock come from more than one node?")
        before, recorded = self.folder, sum(self.writer.counts.values())
        self.folder = new_folder(self._first)
        self.writer = self.writer.beside(self.folder)
        self._newest_ns, self._begun_at, self._reported = now_ns, now, (now, 0)
        for (topic, _), data in self._last.items():
            self.writer.write(topic, now_ns, data)
        self.get_logger().warning(
            f"the clock was set back by {fall:.1f} s (a simulation restarted?): {recorded} messages are in {before}, "
            f"and what comes now goes to {self.folder}"
        )

    def _flush(self) -> None:
        self.writer.flush(due=True)
        while self._refused:  # not within the event: that would destroy what is being handled
            asked, kind = self._refused.popitem()
            subscription, qos = self._asked[asked]
            if kind == QoSPolicyKind.RELIABILITY and qos.reliability == ReliabilityPolicy.RELIABLE:
                self.get_logger().info(
                    f"{subscription.topic_name}: a publisher offers best effort only, recorded as such"
                )
                qos.reliability = ReliabilityPolicy.BEST_EFFORT
                self.destroy_subscription(subscription)
                self._subscribe(asked[0], subscription.msg_type, subscription.callback, qos)
            elif kind != QoSPolicyKind.DURABILITY:  # a volatile one: see above, or told as silent
                self.get_logger().error(f"{subscription.topic_name}: a publisher's QoS does not match: {kind.name}")

    def _on_lost(self, topic: str, event: QoSMessageLostInfo) -> None:
        if not self._numbered:
            self._lost[topic] += event.total_count_change

    def _losses(self) -> str:
        by_topic = ", ".join(f"{topic} {count}" for topic, count in self._lost.most_common())
        return f"{self._lost.total()} lost" + (f" ({by_topic})" if by_topic else "")

    def _silence(self, reasons: dict[str, str]) -> str:
        topics: dict[float, list[str]] = {}  # by how long they have been silent at least
        for topic, reason in reasons.items():
            topics.setdefault(self._patience[topic], []).append(f"{topic} ({reason})" if reason else topic)
        return "nothing was heard " + "; ".join(f"for {s:g} s on {', '.join(those)}" for s, those in topics.items())

    def _look_after(self) -> None:
        """Each second: record topics whose type is now known, and tell how it goes."""
        if self._unknown:
            found = {name: kinds[0] for name, kinds in self.get_topic_names_and_types() if name in self._unknown}
            for name, kind in found.items():
                self._unknown.discard(name)
                offered = [each.qos_profile.durability for each in self.get_publishers_info_by_topic(name)]
                durabilities = EITHER if DurabilityPolicy.TRANSIENT_LOCAL in offered else LIVE
                try:
                    self._record(name, message_class(kind, name), message_definition(kind, name), kind, durabilities)
                    self.get_logger().info(f"recording {name} ({kind}) too")
                except MissingTypeError as error:
                    self.get_logger().error(str(error))
        known, now = self._silent, time.monotonic()
        silent = [topic for topic, heard_at in self._heard_at.items() if now - heard_at > self._patience[topic]]
        self._silent = {topic: unheard(self, topic, self._awaited[topic]) for topic in silent}
        if missed := {
            topic: reason
            for topic, reason in self._silent.items()
            if topic not in known or (reason and reason != known[topic])
        }:
            self.get_logger().warning(self._silence(missed))
        free = shutil.disk_usage(self.folder).free
        status = DiagnosticStatus(hardware_id=self.interface.name, level=DiagnosticStatus.OK, message="recording")
        status.name = f"{self.get_fully_qualified_name().lstrip('/')}: bag"
        if free < LOW_DISK_BYTES:
            status.level, status.message = DiagnosticStatus.WARN, f"{free / 1e6:.0f} MB of disk left"
        elif self._early:
            status.level, status.message = DiagnosticStatus.WARN, "use_sim_time is true: waits for the first /clock"
        elif self._silent:
            status.level, status.message = DiagnosticStatus.WARN, self._silence(self._silent)
        elif self._lost:
            status.level, status.message = DiagnosticStatus.WARN, f"messages: {self._losses()}"
        counts, lost = self.writer.counts, self._lost.total()
        values = {"bag": self.folder, "bytes": self.writer.size, "messages": sum(counts.values()), "lost": lost}
        values |= {f"messages {name}": count for name, count in counts.items()}
        values |= {f"lost {name}": count for name, count in self._lost.items()}
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _report(self) -> None:
        now, total = time.monotonic(), sum(self.writer.counts.values())
        rate = (total - self._reported[1]) / (now - self._reported[0])
        self._reported = (now, total)
        line = f"{total} messages, {rate:.0f}/s, {self._losses()}, {self.writer.size / 1e6:.1f} MB"
        lost = self._lost.total()
        if self._early:
            self.get_logger().warning(
                f"{line}; {self._unplaced} messages wait for the first /clock: use_sim_time is true; is it published?"
            )
        elif lost > self._lost_told:
            self.get_logger().warning(line)
        else:
            self.get_logger().info(line)
        self._lost_told = lost


def _playback_qos(latched: bool) -> dict:
    """What ``ros2 bag play`` publishes a topic with, in the numbers of rmw: heard by best-effort subscribers too."""
    unset = {"sec": 9223372036, "nsec": 854775807}
    return {
        "history": 1,  # keep last
        "depth": 100 if latched else 10,
        "reliability": 1,  # reliable
        "durability": 1 if latched else 2,  # transient local, volatile
        "deadline": dict(unset),
        "lifespan": dict(unset),
        "liveliness": 1,  # automatic
        "liveliness_lease_duration": dict(unset),
        "avoid_ros_namespace_conventions": False,
    }


def main(arguments: list[str] | None = None) -> int:
    """Record until SIGINT, SIGTERM or SIGHUP. Exit codes: 0 stopped, 1 nothing could be recorded, 2 refused."""
    if helped(arguments, "recorder", __doc__, PARAMETERS, "-p robot:=my_robot.yaml -p output:=bags/monday"):
        return 0
    stop = signals.init(arguments)
    try:
        recorder = Recorder()
    except (ConfigError, MissingTypeError, ParameterException, OSError) as error:
        print(f"recorder: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    status = 0
    try:
        signals.spin(recorder, stop)
        status = 0 if recorder.close() else 1
    except OSError as error:
        print(f"recorder: {recorder.folder}: {error}; what was flushed before can be converted", file=sys.stderr)
        status = 1
    recorder.destroy_node()
    rclpy.try_shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
