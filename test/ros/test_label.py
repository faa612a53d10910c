"""The labeller as a process on a terminal of its own, over real DDS."""

import contextlib
import itertools
import os
import pty
import subprocess
import termios
import time

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from tc_mmwm_ros.msg import EpisodeEvent

from tc_mmwm_core.resources import robot_file
from tc_mmwm_ros.processes import die_with_parent, executable

NAMESPACES = itertools.count()
ROBOT = robot_file("navigation.yaml")
START, BEGIN, OVER, END, INSTRUCTION = range(5)


class Bystander(Node):
    """Hears what is labelled and told, and may tell something too."""

    def __init__(self, namespace, context):
        super().__init__("bystander", context=context, namespace=namespace)
        self.events, self.told = [], []
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(EpisodeEvent, "episode_event", self.events.append, latched)
        self.create_subscription(String, "instruction", lambda message: self.told.append(message.data), latched)
        self.instruction = self.create_publisher(String, "instruction", 10)


class Terminal:
    """A labeller on a pseudo-terminal, and who hears it."""

    def __init__(self, robot):
        namespace = f"labelled{next(NAMESPACES)}"
        self.context = Context()
        rclpy.init(context=self.context)
        self.bystander = Bystander(namespace, self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.bystander)
        self.ours, self.its = pty.openpty()
        self.mode = termios.tcgetattr(self.its)
        command = [executable("label"), "--ros-args", "-r", f"__ns:=/{namespace}", "-p", f"robot:={robot}"]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self.its)
        self.process = subprocess.Popen(command, **streams, preexec_fn=die_with_parent)
        os.set_blocking(self.ours, False)
        self.shown = ""

    def type(self, keys):
        os.write(self.ours, keys.encode())

    def wait(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; shown:\n{self.shown}"
            self.executor.spin_once(timeout_sec=0.02)
            with contextlib.suppress(BlockingIOError):
                self.shown += os.read(self.ours, 65536).decode(errors="replace")

    def wait_for(self, text):
        self.wait(lambda: text in self.shown)

    def kinds(self):
        return [event.kind for event in self.bystander.events]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.its)
        self.executor.shutdown()
        self.bystander.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def terminal():
    started = Terminal(ROBOT)
    yield started
    started.close()


def test_an_episode_is_labelled_with_single_keys(terminal):
    terminal.wait_for("q quit")
    terminal.type("sv")
    terminal.wait_for("no episode runs")
    assert "press i" in terminal.shown and not terminal.bystander.events
    terminal.type("idrive to the grün\x7fn päd\n")
    terminal.wait(lambda: terminal.bystander.told == ["drive to the grün päd"])
    terminal.wait_for("told 'drive to the grün päd'")
    terminal.type("sv")
    terminal.wait(lambda: terminal.kinds() == [START, BEGIN])
    terminal.type("v\x1b[A")  # an arrow key is no Escape, nor three keys
    terminal.type("y")
    terminal.wait(lambda: terminal.kinds() == [START, BEGIN, OVER, END])
    start, *_, end = terminal.bystander.events
    assert start.instruction == "drive to the grün päd" and start.success == EpisodeEvent.UNKNOWN
    assert end.success == end.reached == EpisodeEvent.TRUE
    assert len({event.episode for event in terminal.bystander.events}) == 1
    stamps = [event.header.stamp.sec + 1e-9 * event.header.stamp.nanosec for event in terminal.bystander.events]
    assert stamps == sorted(stamps) and abs(stamps[-1] - time.time()) < 30
    assert "no recorder hears" in terminal.shown
    terminal.type("sn")
    terminal.wait(lambda: terminal.kinds()[4:] == [START, END])
    assert terminal.bystander.events[-1].success == EpisodeEvent.FALSE
    assert terminal.bystander.events[-1].episode != end.episode


def test_another_instruction_ends_a_violation_and_is_said_in_the_events(terminal):
    terminal.wait(lambda: terminal.bystander.count_subscribers("instruction") >= 3)
    terminal.bystander.instruction.publish(String(data="drive to the dock"))
    terminal.wait_for("told 'drive to the dock'")
    terminal.type("sv")
    terminal.wait(lambda: terminal.kinds() == [START, BEGIN])
    terminal.bystander.instruction.publish(String(data="drive to the dock"))  # nothing new
    terminal.bystander.instruction.publish(String(data="stop"))
    terminal.wait(lambda: terminal.kinds() == [START, BEGIN, OVER, INSTRUCTION])
    assert [event.instruction for event in terminal.bystander.events] == ["drive to the dock"] * 3 + ["stop"]
    terminal.type("y")
    terminal.wait(lambda: terminal.kinds()[-1] == END)
    assert terminal.bystander.events[-1].instruction == ""  # of the drive to the dock, not of the stop


@pytest.mark.parametrize("quit", ["q", "\x03"], ids=["q", "Ctrl-C"])
def test_quitting_ends_the_episode_as_unknown_and_gives_the_terminal_back(terminal, quit):
    terminal.wait_for("q quit")
    terminal.type("idrive\n")
    terminal.wait_for("told 'drive'")
    terminal.type("s")
    terminal.wait(lambda: terminal.kinds() == [START])
    if quit == "q":
        terminal.type("q")
    else:
        terminal.process.send_signal(2)
    terminal.wait(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == 0
    terminal.wait(lambda: terminal.kinds() == [START, END])
    assert terminal.bystander.events[-1].success == EpisodeEvent.UNKNOWN
    assert termios.tcgetattr(terminal.its)[3] == terminal.mode[3]  # echo and lines again


@pytest.mark.parametrize("typed", ["", "inever mind"])
def test_a_terminal_that_is_gone_ends_the_episode_too(terminal, typed):
    terminal.wait_for("q quit")
    terminal.type("idrive\n")
    terminal.wait_for("told 'drive'")
    terminal.type(f"s{typed}")
    terminal.wait(lambda: terminal.kinds() == [START] and typed[1:] in terminal.shown)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, terminal.ours)  # closes our end
    os.close(nowhere)
    terminal.wait(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == 0
    terminal.wait(lambda: terminal.kinds() == [START, END])


def test_what_is_typed_after_q_counts_for_nothing(terminal):
    terminal.wait_for("q quit")
    terminal.type("idrive\n")
    terminal.wait_for("told 'drive'")
    terminal.type("qs")
    terminal.wait(lambda: terminal.process.poll() is not None)
    terminal.wait_for("q quit")
    assert terminal.process.returncode == 0 and "START" not in terminal.shown and not terminal.bystander.events


def test_what_it_cannot_work_with_is_refused(tmp_path):
    mute = tmp_path / "mute.yaml"
    content = yaml.safe_load(ROBOT.read_text(encoding="utf-8"))
    del content["events"]
    mute.write_text(yaml.safe_dump(content), encoding="utf-8")
    refused = Terminal(mute)
    refused.wait(lambda: refused.process.poll() is not None)
    refused.wait_for("has no 'events'")
    refused.close()
    no_terminal = subprocess.run([executable("label")], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert no_terminal.returncode == 2 and "standard input is not a terminal" in no_terminal.stderr
