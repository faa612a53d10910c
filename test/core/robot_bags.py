"""Bags of a robot that drives, with contents from which a test can tell where each step came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from robot_messages import SECOND, boolean, header, image, odometry, scan
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

MESSAGES = Path(__file__).parents[2] / "msg"
store = get_typestore(Stores.LATEST)
for kind in ("EpisodeEvent", "PlannerState"):
    store.register(get_types_from_msg((MESSAGES / f"{kind}.msg").read_text(), f"tc_mmwm_ros/msg/{kind}"))
START, VIOLATION_BEGIN, VIOLATION_END, END, INSTRUCTION = range(5)
SCENE = '{"pads": ["green"]}'


@dataclass
class Drive:
    """Sensors at 20 Hz from ``start`` on, commands at 10 Hz; x of the odometry is the time since ``start``."""

    start: float = 1000.0
    duration: float = 5.0
    command_phase: float = 0.03  # s after the ticks of 10 Hz that begin at ``start``
    prefix: str = ""
    entries: list[tuple[float, str, Any]] = field(default_factory=list)  # (received, topic, message)

    def __post_init__(self) -> None:
        for tick in range(round(self.duration * 20)):
            seconds = self.start + tick / 20
            self.add(seconds, "camera/image_raw", image(seconds, picture(tick)))
            self.add(seconds, "odom", odometry(seconds, x=tick / 20, speed=0.3))
            self.add(seconds, "scan", scan(seconds, np.full(24, 1.0)))
            self.add(seconds, "bumper", boolean(False))
        for tick in range(round(self.duration * 10)):
            seconds = self.start + tick / 10 + self.command_phase
            self.add(seconds, "cmd_vel", twist(seconds, tick / 100, 0.5))

    def add(self, seconds: float, topic: str, message: Any, latency: float = 0.002) -> None:
        """Receive ``message`` ``latency`` after ``seconds``."""
        self.entries.append((seconds + latency, f"{self.prefix}/{topic}", message))

    def event(
        self,
        after: float,
        kind: int,
        instruction: str = "go",
        success: int = 2,
        scene: str = "",
        episode: str = "e1",
        stamped: float | None = None,
    ) -> None:
        """An EpisodeEvent ``after`` seconds from the start; ``stamped``: after so many instead, or inf: not at all."""
        seconds = self.start + after
        stamp = seconds if stamped is None else self.start + stamped
        message = store.types["tc_mmwm_ros/msg/EpisodeEvent"](
            header=header(stamp if math.isfinite(stamp) else 0.0),
            kind=kind,
            episode=episode,
            instruction=instruction,
            seed=7,
            rule="",
            success=success,
            reached=success,
            steps=0,
            violations=0,
            reason="",
            scene=scene,
        )
        self.add(seconds, "episode_event", message)

    def instruct(self, after: float, text: str) -> None:
        """Say ``text`` on the instruction topic."""
        self.add(self.start + after, "instruction", store.types["std_msgs/msg/String"](data=text))

    def planner_state(self, after: float, instruction: str, state: int = 3) -> None:
        """The planner tells which instruction it obeys."""
        seconds = self.start + after
        nothing = {"reason": "", "bundle": "", "provider": "", "decisions": 0, "deadline_misses": 0, "candidates": 0}
        nothing |= {"latency_p50": 0.0, "latency_p99": 0.0, "accepted": 0, "followed": 0}
        kind = store.types["tc_mmwm_ros/msg/PlannerState"]
        message = kind(header=header(seconds), state=state, instruction=instruction, **nothing)
        self.add(seconds, "planner/state", message)

    def without(self, topic: str, begin: float = 0.0, end: float = 1e9) -> None:
        """Take out what was received on ``topic`` between ``begin`` and ``end`` seconds from the start."""
        self.entries = [
            entry
            for entry in self.entries
            if entry[1] != f"{self.prefix}/{topic}" or not begin <= entry[0] - self.start < end
        ]

    def write(
        self,
        folder: Path,
        storage: StoragePlugin = StoragePlugin.MCAP,
        compression: CompressionMode = CompressionMode.NONE,
        bag_time_offset: float = 0.0,
        as_listed: bool = False,
    ) -> Path:
        """Write the bag with rosbags' own writer, by time, or in the order of ``entries``."""
        writer = Writer(folder, version=9, storage_plugin=storage)
        writer.set_compression(compression, CompressionFormat.ZSTD)
        connections: dict[str, Any] = {}
        with writer:
            for seconds, topic, message in sorted(self.entries, key=lambda entry: as_listed or entry[0]):
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                received = round((seconds + bag_time_offset) * SECOND)
                writer.write(connections[topic], received, store.serialize_cdr(message, kind))
        return folder


def episode(**arguments) -> Drive:
    """A judged drive: broken from 2.0 to 3.0 s, reached after 4.5 s."""
    drive = Drive(**arguments)
    drive.event(0.0, START, scene=SCENE)
    drive.event(2.0, VIOLATION_BEGIN)
    drive.event(3.0, VIOLATION_END)
    drive.event(4.5, END, success=0)
    return drive


def picture(tick: int) -> np.ndarray:
    """uint8 [64, 64, 3] that names its tick."""
    return np.full((64, 64, 3), tick % 256, np.uint8)


def twist(seconds: float, forward: float, turn: float) -> Any:
    """TwistStamped."""
    vector = store.types["geometry_msgs/msg/Vector3"]
    message = store.types["geometry_msgs/msg/Twist"](vector(x=forward, y=0.0, z=0.0), vector(x=0.0, y=0.0, z=turn))
    return store.types["geometry_msgs/msg/TwistStamped"](header(seconds), message)
