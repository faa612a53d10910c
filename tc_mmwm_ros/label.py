"""Label episodes from the keyboard while they are recorded: who watches the robot says when it breaks its instruction.

    ros2 run tc_mmwm_ros label --ros-args -p robot:=my_robot.yaml

    i        tell the robot something: Enter sends it, Escape does not
    s        an episode starts, under what the robot was told last
    v        the instruction is being broken from now on; again: no longer
    y  n  u  the episode ends: it succeeded, it failed, that is not known
    q        quit

Publishes what ``EpisodeEvent`` describes on the interface's ``events`` topic (reliable, transient local), stamped when
the key was pressed, and what is told on its ``instruction`` topic. Where the robot is told something else within an
episode, by anybody, a violation ends and an INSTRUCTION follows: it was a violation of the other instruction.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_ros import signals
from tc_mmwm_ros.graph import RECORDERS
from tc_mmwm_ros.instructions import LATCHED_QOS, Instructions
from tc_mmwm_ros.msg import EpisodeEvent
from tc_mmwm_ros.parameters import describe, helped

KEYS = "i tell the robot   s start   v violation begins/ends   y succeeded  n failed  u unknown   q quit"
ENDINGS = {"y": EpisodeEvent.TRUE, "n": EpisodeEvent.FALSE, "u": EpisodeEvent.UNKNOWN}
NAMES = {EpisodeEvent.TRUE: "succeeded", EpisodeEvent.FALSE: "failed", EpisodeEvent.UNKNOWN: "unknown"}
EVENTS_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ENTER, ESCAPE, BACKSPACE, END_OF_FILE = "\r\n", "\x1b", "\x7f\x08", "\x04"
POLL = 0.02  # s between looks at the topics while no key is pressed
ACKNOWLEDGED = Duration(seconds=2.0)  # most that quitting waits for those who hear

PARAMETERS = (
    (
        "robot",
        "",
        describe("path of the robot interface YAML (required), with the topic of its events", read_only=True),
    ),
)


class Labeller(Node):
    """See the module's docstring.

    Raises:
        ConfigError: the robot interface cannot be read, or has no topic for events.
    """

    def __init__(self, **node_arguments) -> None:
        super().__init__("label", **node_arguments)
        self.declare_parameters("", PARAMETERS)
        robot = self.get_parameter("robot").value
        if not robot:
            raise ConfigError("parameter 'robot' is empty; give the path of a robot interface, e.g. robot:=mine.yaml")
        interface = RobotInterface.load(robot)
        if interface.events is None:
            raise ConfigError(f"{robot}: has no 'events'; name their topic, e.g. events: {{topic: episode_event}}")
        self.quitting = False
        self._instruction = ""
        self._typed: str | None = None  # what is being typed to tell the robot; None: keys are commands
        self._session, self._count = time.strftime("%Y%m%d-%H%M%S"), 0
        self._episode = ""  # the one that runs
        self._violating = False
        self._events = self.create_publisher(EpisodeEvent, interface.events.topic, EVENTS_QOS)
        self._tell = self.create_publisher(String, interface.instruction.topic, LATCHED_QOS)
        Instructions(self._told).subscribe(self, interface.instruction.topic)

    def press(self, key: str) -> None:
        """What one typed character asks for."""
        if self._typed is not None:
            self._type(key)
        elif key == "i":
            self._typed = ""
            self._prompt()
        elif key == "s":
            self._start()
        elif key == "v":
            self._violation()
        elif key in ENDINGS:
            self._end(ENDINGS[key], "labelled")
        elif key in ("q", END_OF_FILE):
            self.close()
        else:
            say(KEYS)

    def close(self) -> None:
        """End what runs, as unknown, and let those who hear get it."""
        if self._episode:
            self._end(EpisodeEvent.UNKNOWN, "the labeller quit")
        self._events.wait_for_all_acked(ACKNOWLEDGED)
        self._tell.wait_for_all_acked(ACKNOWLEDGED)
        self.quitting = True

    def _type(self, key: str) -> None:
        text = self._typed
        if key in ENTER:
            self._typed = None
            print()
            self._tell.publish(String(data=text.strip()))  # heard by ourselves like anybody else's
        elif key == ESCAPE:
            self._typed = None
            say("told nothing")
        elif key in BACKSPACE:
            self._typed = text[:-1]
        elif key.isprintable():
            self._typed += key
        if self._typed is not None:
            self._prompt()

    def _prompt(self) -> None:
        show(f"tell the robot: {self._typed}", end="")

    def _told(self, text: str, stamp_ns: int) -> None:
        changed = text != self._instruction
        if changed and self._episode and self._violating:
            self._violation()
        self._instruction = text
        if changed:
            say(f"told '{text}'" if text else "told nothing: the planner stops")
            if self._episode:
                self._publish(EpisodeEvent.INSTRUCTION)
        if self._typed is not None:
            self._prompt()

    def _start(self) -> None:
        if self._episode:
            return say(f"episode {self._episode} has not ended: y succeeded, n failed, u unknown")
        if not self._instruction:
            return say("the robot has not been told anything yet: press i")
        if not self.get_clock().now().nanoseconds:
            return say("use_sim_time is true: wait for the first /clock")
        listeners = self.get_subscriptions_info_by_topic(self._events.topic_name)
        if not any(each.node_name in RECORDERS for each in listeners):
            say(f"no recorder hears {self._events.topic_name}: nothing is recorded until one does")
        self._count += 1
        self._episode = f"{self._session}-{self._count}"
        self._publish(EpisodeEvent.START)
        say(f"START {self._episode}: '{self._instruction}'")

    def _violation(self) -> None:
        if not self._episode:
            return say("no episode runs: s starts one")
        self._violating = not self._violating
        self._publish(EpisodeEvent.VIOLATION_BEGIN if self._violating else EpisodeEvent.VIOLATION_END)
        say("VIOLATION begins" if self._violating else "VIOLATION ends")

    def _end(self, success: int, reason: str) -> None:
        if not self._episode:
            return say("no episode runs: s starts one")
        reached = EpisodeEvent.TRUE if success == EpisodeEvent.TRUE else EpisodeEvent.UNKNOWN
        # No instruction: the outcome is of the last that there was to reach, also where it has been told to stop since.
        self._publish(EpisodeEvent.END, success=success, reached=reached, reason=reason, instruction="")
        say(f"END {self._episode}: {NAMES[success]}")
        self._episode, self._violating = "", False

    def _publish(self, kind: int, **content) -> None:
        event = EpisodeEvent(kind=kind, episode=self._episode, instruction=self._instruction)
        event.success = event.reached = EpisodeEvent.UNKNOWN
        event.header.stamp = self.get_clock().now().to_msg()
        for name, value in content.items():
            setattr(event, name, value)
        self._events.publish(event)


def say(text: str) -> None:
    """One line with the time of day."""
    show(f"{time.strftime('%H:%M:%S')} {text}")


def show(text: str, end: str = "\n") -> None:
    """Print ``text`` in place of what is being typed; where the terminal is gone, what is printed goes nowhere."""
    try:
        print(f"\r\x1b[K{text}", end=end, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def keyboard() -> Iterator[int]:
    """The terminal hands over each key as it is pressed, unechoed, and is put back in the end, if it is still there."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield terminal
    finally:
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def main(arguments: list[str] | None = None) -> int:
    """Label until q or a signal. Exit codes: 0 quit, 2 refused."""
    if helped(arguments, "label", __doc__, PARAMETERS, "-p robot:=my_robot.yaml"):
        return 0
    stop = signals.init(arguments)
    try:
        if not sys.stdin.isatty():
            raise ConfigError("standard input is not a terminal: start it in one, not from a launch file")
        labeller = Labeller()
    except (ConfigError, ParameterException) as error:
        print(f"label: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(labeller)
    decode = codecs.getincrementaldecoder("utf-8")(errors="ignore").decode
    with keyboard() as terminal:
        say(KEYS)
        while not labeller.quitting:
            if stop.is_set():
                labeller.close()
            elif select.select([terminal], [], [], POLL)[0]:
                read = b""
                with suppress(OSError):
                    read = os.read(terminal, 1024)
                if not read:  # the terminal is gone
                    labeller.close()
                keys = decode(read)
                if keys == ESCAPE or not keys.startswith(ESCAPE):  # longer ones: arrows and the like
                    for key in keys:
                        if not labeller.quitting:
                            labeller.press(key)
            executor.spin_once(timeout_sec=0.0)
    executor.shutdown()
    labeller.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
