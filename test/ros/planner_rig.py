"""A robot to test the planner node against: real rclpy over DDS, synthetic sensors that a test can break."""

from __future__ import annotations

import array
import time
from collections.abc import Callable

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, LaserScan
from std_msgs.msg import Bool, String
from tc_mmwm_ros.msg import CandidateActions
from tc_mmwm_ros.msg import PlannerState as PlannerStateMessage

from tc_mmwm_core.runtime.planner import PlannerState

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SENSOR_PERIOD = 0.05


class Robot(Node):
    """Publishes what ``config/robots/navigation.yaml`` asks for, at 20 Hz, and writes down what it is commanded.

    A test breaks a sensor by changing ``messages``: None silences it.
    """

    def __init__(self) -> None:
        super().__init__("robot")
        self.messages = {
            "camera/image_raw": image(64, 64, "rgb8"),
            "odom": Odometry(),
            "scan": LaserScan(ranges=[float("inf")] * 24),
            "bumper": Bool(data=False),
        }
        self.messages["odom"].pose.pose.orientation.w = 1.0
        self.commands: list[tuple[float, float, float]] = []  # time of reception, forward, turn
        self.states: list[PlannerStateMessage] = []
        self.diagnostics: list[DiagnosticArray] = []
        self._sensors = {
            topic: self.create_publisher(type(message), topic, 5) for topic, message in self.messages.items()
        }
        self._instructions = self.create_publisher(String, "instruction", LATCHED)
        self._candidates = self.create_publisher(CandidateActions, "candidate_actions", 1)
        self.create_subscription(TwistStamped, "cmd_vel", self._on_command, 100)
        every_one = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # also where two come at once
        self.create_subscription(PlannerStateMessage, "planner/state", self.states.append, every_one)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.create_timer(SENSOR_PERIOD, self.sense)

    def sense(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for topic, message in self.messages.items():
            if message is not None:
                if hasattr(message, "header"):
                    message.header.stamp = stamp
                self._sensors[topic].publish(message)

    def latch(self, text: str) -> None:
        """Somebody else's latched instruction: a publisher of its own."""
        self.create_publisher(String, "instruction", LATCHED).publish(String(data=text))

    def instruct(self, text: str) -> None:
        self._instructions.publish(String(data=text))

    def propose(self, actions: np.ndarray, age: float = 0.0, **fields: object) -> None:
        """Publish candidates [N, K, A], made for an observation ``age`` seconds ago."""
        message = CandidateActions(
            source="test", fields=["forward", "turn"], count=len(actions), horizon=actions.shape[1]
        )
        message.header.stamp = (self.get_clock().now() - rclpy.duration.Duration(seconds=age)).to_msg()
        message.actions = array.array("f", actions.astype(np.float32).tobytes())
        for name, value in fields.items():
            setattr(message, name, value)
        self._candidates.publish(message)

    def _on_command(self, message: TwistStamped) -> None:
        self.commands.append((time.monotonic(), message.twist.linear.x, message.twist.angular.z))

    @property
    def speed(self) -> float | None:
        return self.commands[-1][1] if self.commands else None

    @property
    def state(self) -> PlannerState | None:
        return PlannerState(self.states[-1].state) if self.states else None

    @property
    def stopped(self) -> bool:
        """The last command was the safe action."""
        return bool(self.commands) and self.commands[-1][1:] == (0.0, 0.0)


def image(height: int, width: int, encoding: str, grey: int = 127, contrast: int = 10) -> Image:
    pixels = np.full(height * width * 3, grey, np.uint8)
    pixels[: len(pixels) // 2] += contrast
    return Image(height=height, width=width, encoding=encoding, step=width * 3, data=array.array("B", pixels.tobytes()))


class Spinner:
    """Spins nodes in the thread of the test."""

    def __init__(self, *nodes: Node) -> None:
        self.executor = SingleThreadedExecutor()
        for node in nodes:
            self.executor.add_node(node)

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> float:
        """Spin until ``condition()`` holds; the seconds it took. AssertionError after ``timeout``."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < timeout, f"not within {timeout} s"
            self.executor.spin_once(timeout_sec=0.02)
        return time.monotonic() - started

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
