"""The closed loop as separate processes over DDS, and an operator that runs episodes in it; for demo and bench_loop.

The simulated robot, the planner and the recorder are the executables and the parameter file of
``launch/planner.launch.py``, started without ``launch``. The operator is a node in our own process: it drives the
planner's lifecycle, resets the robot, and writes down what happened.

Threads: one. Nothing runs beside the calls below, which spin the operator's node while they wait.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from tc_mmwm_core.domains.navigation import instructions, oracle
from tc_mmwm_core.domains.navigation.instructions import Instruction
from tc_mmwm_core.domains.navigation.scene import Scene, draw_scene
from tc_mmwm_core.evaluation.pictures import DecisionPicture
from tc_mmwm_core.resources import resource
from tc_mmwm_ros.markers import unicycle_paths
from tc_mmwm_ros.msg import EpisodeEvent, PlannerState, Screening
from tc_mmwm_ros.processes import ProcessDied, Processes, executable
from tc_mmwm_ros.srv import ResetEpisode

LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
CONFIGURE = Transition(id=Transition.TRANSITION_CONFIGURE, label="configure")
ACTIVATE = Transition(id=Transition.TRANSITION_ACTIVATE, label="activate")
DEACTIVATE = Transition(id=Transition.TRANSITION_DEACTIVATE, label="deactivate")
START_TIMEOUT = 60.0  # s, for nodes to start and for the planner to load its model
PATIENCE = 3.0  # times an episode's longest duration: on a busy machine the world runs slower than real time
CONTROL_PERIOD = 0.1  # s
SEEDS_TO_TRY = 100_000
TABLE_HEADER = " layout  reached  rules kept  steps  violations  decisions/s  p50 ms  p99 ms  rejected  candidates"


class LoopError(RuntimeError):
    """A node did not do what was asked of it."""


@dataclass
class EpisodeRecord:
    """What happened in one episode."""

    seed: int
    instruction: str
    scene: dict[str, Any]
    reached: bool = False
    success: bool = False
    reason: str = ""
    steps: int = 0  # control steps
    violations: int = 0  # of them violating
    rules: list[str] = field(default_factory=list)  # what was broken
    decisions: int = 0
    decisions_per_second: float = 0.0  # over the intervals between decisions
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    deadline_misses: int = 0
    candidates: int = 0  # in each decision
    rejected: float = 0.0  # share of all candidates of the episode
    path: list[tuple[float, float, float, float, float]] = field(default_factory=list)  # the oracle's states
    moment: DecisionPicture | None = None  # the decision that was nearest to accepting one half and rejecting the other

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the moment is for pictures."""
        content = asdict(self)
        del content["moment"]
        return content

    def row(self) -> str:
        """One line under :data:`TABLE_HEADER`."""
        reached, kept = ("yes" if yes else "no" for yes in (self.reached, not self.violations))
        return (
            f"{self.seed:7}  {reached:>7}  {kept:>10}  {self.steps:5}  {self.violations:10}"
            f"  {self.decisions_per_second:11.1f}  {self.p50_ms:6.1f}  {self.p99_ms:6.1f}"
            f"  {self.rejected:8.0%}  {self.candidates:10}"
        )


def in_own_domain(program: str, work: Callable[[], None]) -> int:
    """Do ``work`` in a ROS domain of its own. Exit codes: 0 done, 1 something died or refused, 130 interrupted."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the children are stopped then too
    try:
        with take_domain():
            work()
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started is stopped", file=sys.stderr)
        return 130
    except (ProcessDied, LoopError, subprocess.CalledProcessError) as error:
        print(f"\n{program}: {error}", file=sys.stderr)
        return 1
    return 0


def take_domain() -> socket.socket:
    """Set ROS_DOMAIN_ID to a domain that nobody else on this machine took this way, for as long as the socket lives.

    The way of ROS 2's own domain_coordinator: one port of the loopback interface stands for each domain.
    """
    for domain in range(1, 102):  # above 101 DDS ports run into the ephemeral ones of Linux
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", 22119 + domain))
        except OSError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return lock
    raise LoopError("all 101 ROS domains are taken on this machine")


def find_layouts(count: int, first: int, texts: Sequence[str], across: bool = True) -> list[int]:
    """Seeds from ``first`` on whose layouts have every goal and forbidden zone that ``texts`` name.

    With ``across`` the straight way to the first text's goal leads through one of its forbidden zones, so that obeying
    costs a detour.

    Raises:
        ValueError: a text cannot be read.
        LoopError: there are not enough such layouts.
    """
    meanings = [instructions.parse(text) for text in texts]
    seeds: list[int] = []
    for seed in range(first, first + SEEDS_TO_TRY):
        scene = draw_scene(seed)
        named = all(scene.pad(m.goal) and all(map(scene.zone, m.keep_out)) for m in meanings)
        if named and (not across or not meanings[0].keep_out or _blocked(scene, meanings[0])):
            seeds.append(seed)
            if len(seeds) == count:
                return seeds
    raise LoopError(f"only {len(seeds)} of {SEEDS_TO_TRY} layouts from seed {first} on have what is named: {texts}")


def _blocked(scene: Scene, meaning: Instruction) -> bool:
    """Whether the straight way from the start to the goal breaks the instruction."""
    goal, start = scene.pad(meaning.goal), np.array(scene.start[:2])
    states = np.zeros((50, 5))
    states[:, :2] = start + np.linspace(0, 1, 50)[:, None] * (np.array([goal.x, goal.y]) - start)
    return bool((oracle.margin(states, scene, meaning) > 0).any())


class Loop:
    """Simulated robot, planner and recorder, each a process. Leave the ``with`` block to stop them.

    Raises (everywhere):
        ProcessDied: a node ended by itself; the message holds the end of its log.
        LoopError: a node did not answer or refused, e.g. the planner the bundle.
    """

    def __init__(self, bundle: Path, logs: Path, bag: Path | None = None, max_steps: int = 200) -> None:
        """Plan with ``bundle``, record to ``bag`` if given, and let an episode last ``max_steps`` control steps."""
        self._bundle = bundle
        self._bag = bag
        self._max_steps = max_steps
        self._processes = Processes(logs)

    def __enter__(self) -> Loop:
        shared = ["--params-file", resource("config", "planner", "default.yaml")]
        robot = resource("config", "robots", "navigation.yaml")
        self._processes.__enter__()
        try:
            self._start("sim_robot", *shared, max_steps=self._max_steps, auto_reset=False)
            if self._bag:
                self._start("recorder", *shared, robot=robot, output=self._bag)
            self._start("planner", *shared, robot=robot, model=self._bundle)
            self._listen()
            self._change_state(CONFIGURE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._processes.__exit__()
        if hasattr(self, "_node"):
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def _start(self, name: str, *arguments: str | Path, **parameters: object) -> None:
        command = [executable(name), "--ros-args", *arguments]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        self._processes.start(name, command)

    def _listen(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("operator", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._odometry: Odometry | None = None
        self._image: Image | None = None
        self._state: PlannerState | None = None
        self._events: list[EpisodeEvent] = []
        self._record: EpisodeRecord | None = None
        self._telling = -1.0
        self._rejected: list[float] = []
        self._decided: list[float] = []  # s, when decisions were made
        subscribe = self._node.create_subscription
        subscribe(Odometry, "odom", self._on_odometry, SENSOR)
        subscribe(Image, "camera/image_raw", self._on_image, SENSOR)
        subscribe(TwistStamped, "cmd_vel", self._on_command, QoSProfile(depth=100))
        subscribe(EpisodeEvent, "episode_event", self._events.append, LATCHED)
        subscribe(PlannerState, "planner/state", self._on_state, LATCHED)
        subscribe(Screening, "planner/screening", self._on_screening, SENSOR)
        self._reset_client = self._node.create_client(ResetEpisode, "reset_episode")
        self._lifecycle_client = self._node.create_client(ChangeState, "planner/change_state")

    # --- episodes

    def drive(self, seeds: Sequence[int], instruction: str) -> list[EpisodeRecord]:
        """One episode in each layout; prints a table of them as they end."""
        print(f"\n{TABLE_HEADER}")
        records = []
        for seed in seeds:
            records.append(self.run(seed, instruction))
            print(records[-1].row(), flush=True)
        return records

    def run(self, seed: int, instruction: str = "") -> EpisodeRecord:
        """One episode in the layout of ``seed``; an empty instruction is drawn for the layout."""
        request = ResetEpisode.Request(seed=seed, instruction=instruction)
        answer = self._call(self._reset_client, request, "sim_robot")
        if not answer.success:
            raise LoopError(f"sim_robot refuses layout {seed}: {answer.message}")
        self._events.clear()
        self._rejected, self._decided, self._telling = [], [], -1.0
        record = EpisodeRecord(seed, answer.instruction, json.loads(answer.scene))
        self._record = record
        self._change_state(ACTIVATE)
        limit = self._max_steps * CONTROL_PERIOD * PATIENCE
        self._wait(lambda: self._ended(seed), limit, f"the end of the episode in layout {seed}")
        self._record = None
        self._change_state(DEACTIVATE)
        self._wait(lambda: self._state.state == PlannerState.INACTIVE, START_TIMEOUT, "the planner to be inactive")
        end = self._ended(seed)
        record.reached, record.success = end.reached == EpisodeEvent.TRUE, end.success == EpisodeEvent.TRUE
        record.reason, record.steps, record.violations = end.reason, end.steps, end.violations
        record.rules = list(dict.fromkeys(e.rule for e in self._events if e.kind == EpisodeEvent.VIOLATION_BEGIN))
        record.decisions, record.deadline_misses = self._state.decisions, self._state.deadline_misses
        record.decisions_per_second = rate(self._decided)
        record.p50_ms, record.p99_ms = self._state.latency_p50, self._state.latency_p99
        record.candidates = self._state.candidates
        record.rejected = float(np.mean(self._rejected)) if self._rejected else 0.0
        return record

    def stop_recorder(self) -> None:
        """Finish the bag. LoopError: the recorder did not end well."""
        code = self._processes.stop("recorder")
        if code:
            raise LoopError(f"recorder ended with {code}:\n{self._processes.tail('recorder')}")

    def _ended(self, seed: int) -> EpisodeEvent | None:
        return next((e for e in self._events if e.kind == EpisodeEvent.END and e.seed == seed), None)

    def _change_state(self, transition: Transition) -> None:
        request = ChangeState.Request(transition=transition)
        if not self._call(self._lifecycle_client, request, "planner").success:
            log = self._processes.tail("planner")
            raise LoopError(f"the planner refuses to {transition.label}; its log says:\n{log}")

    def _call(self, client, request, node: str):
        self._wait(client.service_is_ready, START_TIMEOUT, f"{node} to offer {client.srv_name}")
        future = client.call_async(request)
        self._wait(future.done, START_TIMEOUT, f"{node} to answer {client.srv_name}")
        return future.result()

    def _wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._processes.check()
            if time.monotonic() > deadline:
                raise LoopError(f"waited {seconds:.0f} s for {what} in vain; logs: {self._processes.logs}")
            self._executor.spin_once(timeout_sec=0.1)

    # --- what is heard

    def _on_odometry(self, message: Odometry) -> None:
        self._odometry = message
        if self._record is not None:
            twist = message.twist.twist
            self._record.path.append((*_pose(message), twist.linear.x, twist.angular.z))

    def _on_image(self, message: Image) -> None:
        self._image = message

    def _on_command(self, message: TwistStamped) -> None:
        if self._record is not None:  # one per decision, even if it is the safe action
            self._decided.append(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)

    def _on_state(self, message: PlannerState) -> None:
        self._state = message

    def _on_screening(self, message: Screening) -> None:
        if self._record is None or self._odometry is None or self._image is None:
            return
        accepted = np.frombuffer(message.verdict, np.uint8) == Screening.ACCEPTED
        rejected = 1.0 - float(accepted.mean())
        self._rejected.append(rejected)
        telling = min(rejected, 1.0 - rejected)
        if telling > self._telling:
            self._telling = telling
            self._record.moment = _moment(message, accepted, _pose(self._odometry), self._image)


def rate(stamps: Sequence[float]) -> float:
    """Decisions per second over the intervals between them; ``stamps`` in s. Of fewer than two: 0."""
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 0.0


def _pose(message: Odometry) -> tuple[float, float, float]:
    pose = message.pose.pose
    return pose.position.x, pose.position.y, 2 * math.atan2(pose.orientation.z, pose.orientation.w)


def _moment(
    message: Screening, accepted: np.ndarray, pose: tuple[float, float, float], image: Image
) -> DecisionPicture:
    actions = np.frombuffer(message.actions, np.float32).reshape(message.count, message.horizon, len(message.fields))
    forward, turn = (actions[..., message.fields.index(name)].astype(float) for name in ("forward", "turn"))
    x, y, yaw = pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    paths = unicycle_paths(forward, turn, message.step_duration) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
    return DecisionPicture(pixels, paths, accepted, message.chosen)
