"""The planner: a lifecycle node that never publishes an action that it cannot justify.

Threads: one. Everything below runs in the thread that spins. Subscriptions only cache what was heard; the control
timer, at the robot interface's rate, does the work: it makes a step of the cached messages, decides, publishes the
command, and only then reports. It runs on the steady clock, so that setting the system's clock does not hold it up, or
with ``use_sim_time`` on the node's clock; stamps are always the node's clock. A second timer, on the steady clock at
1 Hz, repeats state and diagnostics, and stops the robot if the control timer has stopped ticking (``/clock``
stands still). It also asks the ROS graph whether anybody else sends commands, whether the robot hears ours, and why an
input that we wait for is not heard (``graph.py``). SIGINT, SIGTERM and SIGHUP (a closed terminal) set a flag that this
thread looks at between callbacks only: no decision is torn in two, and the safe action is the last thing published.

Lifecycle: ``configure`` loads bundle and robot interface, checks them against one another and warms the model up;
whatever does not fit fails the transition, with the field in the log and, until a transition succeeds, in ``~/state``.
``activate`` begins to publish: the safe action with state WAITING until instruction and observation are there (with
``require_instruction``, activation waits some seconds for an instruction and fails without one); where a position is to
be held, nothing before it was sensed.
``cleanup`` forgets what was said on the topic, unless it was to stop; the parameter ``instruction`` stays.
``deactivate``, ``shutdown``, a signal and an error of the planner's own all publish the safe action last. After an
error it deactivates itself; activate it again to go on. After a crash of the whole process there is only silence: the
robot's watchdog must stop it.

Publishes (topics relative, command topic and type as the robot interface says):

    <action topic>      as in the interface          reliable, depth 1; stamped with the tick that it was decided for
    ~/state             PlannerState                 reliable, transient local; on change and at 1 Hz
    ~/screening         Screening                    best effort; only while somebody listens
    ~/latent_state      LatentState                  best effort; only while somebody listens
    ~/candidates        visualization_msgs/MarkerArray   reliable, as RViz asks; only while somebody listens; robots
                                                     commanded by a twist; gone from RViz when they are not replaced
    /diagnostics        diagnostic_msgs/DiagnosticArray  1 Hz

Subscribes to the observation topics of the interface (best effort, depth 5; what is ``latched``: reliable, transient
local), to its instruction topic (reliable, latched or not: ``instructions.py``) and to ``candidate_actions``
(CandidateActions, reliable): sequences of any other policy, or of several (the newest of each counts), which take
precedence over the planner's own if they are accepted. If an instruction cannot be parsed, or is nothing but a word for
stopping (``tc_mmwm_core.interface.stopping``: "stop", "wait", ...), the previous one is dropped and the robot stops
until a valid one arrives. And to the interface's topic of events, if it names one (EpisodeEvent, reliable): at an
episode's START it forgets what was seen before, as training does.
"""

from __future__ import annotations

import array
import math
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.subscription import Subscription
from rclpy.time import Time
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from tc_mmwm_core import config
from tc_mmwm_core.interface.action import write_action
from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.image import is_blank
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stopping import tells_to_stop
from tc_mmwm_core.interface.stream import SECOND, Step, StepStream, message_time
from tc_mmwm_core.runtime.bundle import Bundle, BundleError
from tc_mmwm_core.runtime.candidates import CandidateError, ExternalCandidates, read_candidates
from tc_mmwm_core.runtime.deadline import TOLERATED_PERIODS, Deadline
from tc_mmwm_core.runtime.planner import NOT_PARAMETERS, Decision, Planner, PlannerConfig, PlannerState
from tc_mmwm_core.runtime.screener import Instruction, InstructionError, ProviderError, Screener
from tc_mmwm_ros import signals
from tc_mmwm_ros.graph import command_at_risk, unheard
from tc_mmwm_ros.instructions import Instructions
from tc_mmwm_ros.markers import candidate_markers, twist_fields
from tc_mmwm_ros.message_definition import MissingTypeError, message_class
from tc_mmwm_ros.msg import CandidateActions, EpisodeEvent, LatentState, Screening
from tc_mmwm_ros.msg import PlannerState as PlannerStateMessage
from tc_mmwm_ros.parameters import config_parameters, describe, helped, read_config

SENSOR_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_SENSOR_QOS = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REPORT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
CANDIDATES_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)  # several policies may speak at once
EVENT_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)  # of episodes before, activation has no need
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

POSITIONS = ("m", "rad")  # units of a command that may be a position
REMEMBERED_LATENCIES = 200
MARKER_PERIODS = 5  # that candidates stay in RViz after they were decided on
CLOCK_AHEAD = 0.05  # s that an input may be stamped after its reception before that is told
SILENT_PERIODS = 3  # without a tick of the control timer before that is a fault
INSTRUCTION_PATIENCE = 5.0  # s that activation waits for an instruction, where it requires one
LOG_PERIOD = 1.0  # s: a state that flaps is not logged more often; ~/state has every change
MOVING = (PlannerState.PLANNING, PlannerState.RETREATING)  # in which a candidate is executed
SHUT_DOWN = "shut down: to go on, start the planner again"
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


PARAMETERS = (
    ("model", "", describe("path of the model bundle, the folder that holds bundle.json")),
    ("robot", "", describe("path of the robot interface YAML; empty: the one in the bundle")),
    ("provider", "cpu", describe("execution provider: cpu, cuda, tensorrt or the full ONNX Runtime name")),
    ("threads", 1, describe("ONNX Runtime threads per operator", 1, 64)),
    ("deadline", 0.0, describe("longest time per decision, s; 0: one control period", 0.0, 10.0)),
    ("max_candidate_age", 0.3, describe("external candidates older than this, s, are ignored", 0.0, 10.0)),
    (
        "max_external_candidates",
        512,
        describe("most candidates of all other policies together; a message with more is ignored", 1, 65536),
    ),
    ("marker_candidates", 64, describe("most candidates shown in RViz; 0: no markers", 0, 4096)),
    (
        "require_instruction",
        False,
        describe("if true, activation waits 5 s for a valid instruction and fails without one"),
    ),
    ("instruction", "", describe("instruction until another one arrives on the topic; may be set at any time")),
    ("autostart", False, describe("configure and activate at start-up; exit if that fails", read_only=True)),
    *config_parameters(PlannerConfig, leave_out=NOT_PARAMETERS),
)


class PlannerNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("planner", **node_arguments)
        self.declare_parameters("", PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)

        self._planner: Planner | None = None  # not None: configured
        self._inputs: list[Subscription] = []
        self._outputs: list[LifecyclePublisher] = []
        self._active = False
        self.finalized = False  # shut down, which cannot be asked for twice
        self._state, self._reason, self._instruction_text = PlannerState.UNCONFIGURED, "", ""
        self._said: str | None = self.get_parameter("instruction").value or None  # what we were told last
        self._instructions = Instructions(self._on_instruction)
        self._logged: dict[PlannerState, float] = {}  # when
        self._understood: tuple[str, Instruction | InstructionError] | None = None
        self._period = math.inf
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._begin_counting()
        self._state_publisher = self.create_publisher(PlannerStateMessage, "~/state", LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._publish_state()
        self.create_timer(1.0, self._on_second, clock=self._steady_clock)
        self._warn_of_unknown_parameters()

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, check and warm up everything; FAILURE names the field in the log."""
        try:
            self._configure()
        except (config.ConfigError, BundleError, ProviderError, MissingTypeError, OSError, ValueError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            self._unload(f"cannot configure: {error}")
            return FAILURE
        except Exception as error:  # rclpy would swallow it
            self.get_logger().error(f"cannot configure: {traceback.format_exc()}")
            self._unload(f"cannot configure: {type(error).__name__}: {error}")
            return FAILURE
        self._set_state(PlannerState.INACTIVE, "")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to publish commands."""
        if self.get_parameter("require_instruction").value:
            if self._said is None:  # right after configure: what is latched is still under way
                self._instructions.wait(INSTRUCTION_PATIENCE)
            instruction = self._instruction()
            if not isinstance(instruction, Instruction):
                why = instruction or "instruction: none was given, and require_instruction is true"
                self.get_logger().error(f"cannot activate: {why}")
                self._set_state(PlannerState.INACTIVE, f"cannot activate: {why}")
                return FAILURE
        self._planner.reset()
        self._candidates.clear()  # what was heard while nobody asked for it
        self._begin_counting()
        super().on_activate(state)
        self._active = True
        self._set_state(PlannerState.WAITING, "activated, first decision is due")
        self._timer_clock = self.get_clock() if self.get_parameter("use_sim_time").value else self._steady_clock
        self._last_tick_ns = self._ticked_ns = self._timer_clock.now().nanoseconds
        self._timer = self.create_timer(self._period, self._on_tick, clock=self._timer_clock)
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish the safe action, then nothing any more."""
        self._stop_publishing()
        if self._state != PlannerState.FAILED:
            self._set_state(PlannerState.INACTIVE, "")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unload everything."""
        self._unload()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish the safe action where active, then unload everything."""
        self._stop_publishing()
        self._unload(SHUT_DOWN)
        self.finalized = True
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition broke: stop the robot and go back to unconfigured."""
        self._stop_publishing()
        self._unload()
        return super().on_error(state)

    def _warn_of_unknown_parameters(self) -> None:
        """A misspelt parameter is otherwise never heard of. It may be another node's, in a file for all (``/**``)."""
        declared = self._parameters  # rclpy has no public way to ask for either
        for name in self._parameter_overrides.keys() - declared.keys():
            self.get_logger().warning(f"this node has no parameter '{name}'{config.did_you_mean(name, declared)}")

    def _configure(self) -> None:
        model = self.get_parameter("model").value
        if not model:
            raise BundleError("parameter 'model' is empty; give the folder of a model bundle")
        content = read_config(self, PlannerConfig, leave_out=NOT_PARAMETERS)
        settings = config.parse(content, PlannerConfig, "parameters")
        bundle = Bundle.load(model)
        robot = self.get_parameter("robot").value
        interface = RobotInterface.load(robot) if robot else bundle.interface
        bundle.check(interface)
        types = {name: message_class(name, topic) for topic, name in interface.topics().items()}
        _check_command(types[interface.action.type], interface)
        screener = Screener(bundle, self.get_parameter("provider").value, self.get_parameter("threads").value)
        planner = Planner(screener, interface, settings)
        planner.warm_up()

        self._interface, self._bundle = interface, bundle
        self._period = 1 / interface.rate
        self._stream = StepStream(interface)
        self._candidates: dict[tuple, ExternalCandidates] = {}  # the newest by publisher and source
        self._action_type = types[interface.action.type]
        self._command_publisher = self._advertise(self._action_type, interface.action.topic, COMMAND_QOS)
        self._screening_publisher = self._advertise(Screening, "~/screening", REPORT_QOS)
        self._latent_publisher = self._advertise(LatentState, "~/latent_state", REPORT_QOS)
        self._marker_publisher = self._advertise(MarkerArray, "~/candidates", COMMAND_QOS)
        for topic, type_name in interface.observation_topics().items():
            qos = LATCHED_SENSOR_QOS if topic in interface.latched_topics else SENSOR_QOS
            self._subscribe(types[type_name], topic, partial(self._on_input, topic), qos)
        self._inputs += self._instructions.subscribe(self, interface.instruction.topic)
        self._subscribe(CandidateActions, "candidate_actions", self._on_candidates, CANDIDATES_QOS)
        if interface.events:
            self._subscribe(EpisodeEvent, interface.events.topic, self._on_event, EVENT_QOS)
        self._planner = planner
        self.get_logger().info(
            f"configured: bundle {bundle.identity}, robot {interface.name}, {screener.provider}, "
            f"{interface.rate:g} Hz, threshold {planner.threshold:g}"
            + ("" if bundle.manifest.calibration else " (not calibrated)")
        )
        if not bundle.manifest.progress_taught:
            self.get_logger().warning(
                "nothing taught the model progress towards the goal: what it ranks accepted candidates by means "
                "little. Raise 'trust', or have another policy propose them on candidate_actions"
            )
        if places := [field.name for field in interface.action.fields if field.unit in POSITIONS and not field.hold]:
            self.get_logger().warning(
                f"robot interface: action {', '.join(places)}: a command in {' or '.join(POSITIONS)}. If that is a "
                "position, not a change of position, its safe value does not stop the robot: it is driven there at "
                "once when an input is late. Give it 'hold', the sensor field that tells where it is, not 'safe'"
            )

    def _advertise(self, message_type: type, topic: str, qos: QoSProfile) -> LifecyclePublisher:
        self._outputs.append(self.create_lifecycle_publisher(message_type, topic, qos))
        return self._outputs[-1]

    def _subscribe(self, message_type: type, topic: str, heard: Callable, qos: QoSProfile) -> None:
        self._inputs.append(self.create_subscription(message_type, topic, heard, qos))

    def _stop_publishing(self) -> None:
        """The safe action, as the last command; nothing where not active."""
        if not self._active:
            return
        self._active = False
        self.destroy_timer(self._timer)
        self._publish_command(self._planner.safe_action(), self.get_clock().now().nanoseconds)
        self._command_publisher.wait_for_all_acked(Duration(seconds=0.2))

    def _unload(self, why: str = "") -> None:
        """All that configuring has made, also where it failed halfway; ``why``: where not because of ``cleanup``."""
        while self._inputs:
            self.destroy_subscription(self._inputs.pop())
        while self._outputs:
            self.destroy_lifecycle_publisher(self._outputs.pop())
        self._planner = self._understood = None
        if not tells_to_stop(self._said or ""):  # a stop holds until something else is said
            self._said = self.get_parameter("instruction").value or None
            self._instructions.forget()
        self._set_state(PlannerState.UNCONFIGURED, why)

    # --- what comes in: only cached

    def _on_input(self, topic: str, message: object) -> None:
        self._heard[topic] = self._heard.get(topic, 0) + 1
        now_ns = self.get_clock().now().nanoseconds
        self._stream.add(topic, message, now_ns)
        if not self._active:
            self._stream.discard(now_ns)  # nobody steps

    def _on_instruction(self, text: str, _: int) -> None:
        self._said = text

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind != EpisodeEvent.START:
            return
        now_ns = self.get_clock().now().nanoseconds
        begun_ns = message_time(message, now_ns) or now_ns  # without a stamp: when it was received
        if begun_ns < 0 or begun_ns > now_ns + self._stream.clock_tolerance_ns:
            off = "before 0" if begun_ns < 0 else f"{(begun_ns - now_ns) / SECOND:.3f} s ahead"
            self.get_logger().warning(
                f"{self._interface.events.topic}: START is stamped {begun_ns / SECOND:.3f} s, {off}, and taken to be "
                "now; do the clocks or use_sim_time differ?"
            )
            begun_ns = now_ns  # a time that may never come, or that never was
        self._begun_ns = begun_ns

    def _on_candidates(self, message: CandidateActions, information: dict) -> None:
        publisher = information.get("publisher_gid")
        publisher = publisher and publisher["data"]  # rclpy of Jazzy does not tell
        try:
            candidates = read_candidates(
                message.source,
                message_time(message, 0),
                message.fields,
                message.count,
                message.horizon,
                message.actions,
                self._interface,
                self._bundle.manifest.horizon,
                self.get_parameter("max_external_candidates").value,
            )
        except CandidateError as error:
            self._ignore_candidates(f"from '{message.source}': {error}")
        else:
            if self._active:  # else nobody lets go of them
                self._candidates[publisher, message.source] = candidates

    def _on_parameters(self, parameters: list) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "instruction":
                continue
            if parameter.name == "use_sim_time":
                if self._active:
                    reason = "use_sim_time is read when the planner is activated: deactivate it first"
                    return SetParametersResult(successful=False, reason=reason)
            elif self._planner is not None:
                reason = f"{parameter.name} is read when the planner is configured: clean it up first"
                return SetParametersResult(successful=False, reason=reason)
        for parameter in parameters:
            if parameter.name == "instruction":
                self._said = parameter.value or None
                self._instructions.overtake(parameter.value)
        return SetParametersResult(successful=True)

    # --- the decision

    def _on_tick(self) -> None:
        """One control period. Whatever goes wrong in here, the last command is the safe action."""
        started = time.perf_counter()
        tick_ns, now_ns = self._timer_clock.now().nanoseconds, self.get_clock().now().nanoseconds
        try:
            decision = self._decide(now_ns)
            screened = decision.screening is not None
            decision = self._in_time(decision, tick_ns, started)
            self._publish_command(decision.action, now_ns)
            if screened:
                self._latencies.append((time.perf_counter() - started) * 1e3)
            self._report(decision, now_ns)
            self._ticked_ns = self._timer_clock.now().nanoseconds
        except Exception as error:
            self._stop_publishing()
            self.get_logger().error(traceback.format_exc())
            self._set_state(PlannerState.FAILED, f"{type(error).__name__}: {error}")
            self.trigger_deactivate()

    def _decide(self, now_ns: int) -> Decision:
        self._step = self._stream.step(now_ns)
        if self._begun_ns is not None and isinstance(self._step, Step):
            lasting = self._interface.lasting_topics  # not said again for an episode
            stamps = (stamp for topic, stamp in self._step.stamps_ns.items() if topic not in lasting)
            if min(stamps, default=now_ns) >= self._begun_ns:  # not before all that is seen is of the new episode
                self._planner.begin_episode()
                self._begun_ns = None
        return self._planner.decide(self._step, self._instruction(), *self._fresh_candidates(now_ns))

    def _in_time(self, decision: Decision, tick_ns: int, started: float) -> Decision:
        """``decision``, or the safe action where it is too late: twice running, by much, or its inputs by now too old.

        Late is what began late (on the control timer's clock) and what took long taken together. Where a decision may
        take longer than a period, the next one may begin as much later.
        """
        took = time.perf_counter() - started
        last_ns, self._last_tick_ns = self._last_tick_ns, tick_ns
        since_last = (tick_ns - last_ns) * 1e-9 if last_ns else self._period  # 0: simulated time had not begun
        elapsed = max(0.0, since_last - max(self._period, self._deadline.period)) + took
        too_late, late = self._deadline.missed(elapsed), elapsed > self._deadline.period
        outdated = self._outdated(took) if late or decision.state in MOVING else ""
        if not too_late and not outdated:
            return decision
        if not late:
            return self._planner.stop(PlannerState.STALE_INPUT, f"{outdated}; the decision took {took:.3f} s of that")
        phases = ", ".join(f"{name} {duration:.1f}" for name, duration in decision.timings.items())
        return self._planner.stop(
            PlannerState.DEADLINE_MISSED,
            f"deadline: ready {elapsed:.3f} s after its tick was due, allowed are {self._deadline.period:g} s, once up "
            f"to {TOLERATED_PERIODS} times that{outdated and '; '}{outdated}; ms: {phases or 'nothing was screened'}",
        )

    def _outdated(self, took: float) -> str:
        """Which input got too old while the decision ``took`` its seconds; empty: none."""
        if isinstance(self._step, Fault):
            return ""
        for spec in self._interface.observations:
            age = self._step.ages[spec.topic] + took
            if age > spec.max_age:
                return f"{spec.topic} is {age:.3f} s old by now, allowed are {spec.max_age:g} s"
        return ""

    def _instruction(self) -> Instruction | InstructionError | None:
        """What we were told last as the model hears it, or why it cannot be read; None where nothing was said."""
        if self._said is None:
            return None
        if self._understood is None or self._understood[0] != self._said:
            try:
                self._understood = (self._said, self._planner.screener.instruct(self._said))
            except InstructionError as error:
                self._understood = (self._said, error)
        return self._understood[1]

    def _fresh_candidates(self, now_ns: int) -> list[ExternalCandidates]:
        """The newest of each policy, without those that are too old, or too many together; these are let go of."""
        allowed = self.get_parameter("max_candidate_age").value
        most = room = self.get_parameter("max_external_candidates").value
        fresh: list[ExternalCandidates] = []
        for key, candidates in list(self._candidates.items()):
            source, count = candidates.source, len(candidates.actions)
            age = (now_ns - candidates.stamp_ns) / SECOND
            if abs(age) > allowed:
                why = f"{age:.3f} s old" if age > 0 else f"stamped {-age:.3f} s ahead"
                why += f", allowed are {allowed:g} s"
                self._silent_policies.add(source)
            elif count > room:
                why = f"count: {count}, allowed are {most} with those of all other policies, {most - room}"
            else:
                fresh.append(candidates)
                room -= count
                self._silent_policies.discard(source)
                continue
            del self._candidates[key]
            self._ignore_candidates(f"from '{source}': {why}")
        return fresh

    def _ignore_candidates(self, why: str) -> None:
        self._ignored += 1
        self._ignored_why = why
        self.get_logger().warning(f"candidate_actions ignored, {why}", throttle_duration_sec=5.0)

    # --- what goes out

    def _publish_command(self, action: np.ndarray | None, stamp_ns: int) -> None:
        """Nothing where there is none: what a position is to be held at was not sensed yet."""
        if action is None:
            return
        message = self._action_type()
        write_action(message, self._interface.action, action)
        if hasattr(message, "header"):
            message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        self._command_publisher.publish(message)

    def _report(self, decision: Decision, now_ns: int) -> None:
        if decision.screening is not None:
            self._decisions += 1
            self._phases.append(decision.timings)
            self._candidate_count = len(decision.screening.verdict)
            self._accepted_count = decision.screening.accepted
            self._followed += decision.screening.chosen in decision.screening.external
        why = self._why_unheard(decision)
        self._set_state(decision.state, f"{decision.reason}; {why}" if why else decision.reason)
        if decision.screening is None:
            return
        if self._screening_publisher.get_subscription_count():
            self._screening_publisher.publish(self._screening_message(decision, now_ns))
        if self._latent_publisher.get_subscription_count():
            self._latent_publisher.publish(
                LatentState(
                    header=self._header(now_ns),
                    latent=_floats(decision.scene.latent),
                    modalities=self._bundle.manifest.modalities,
                    weights=_floats(decision.scene.weights),
                )
            )
        drawn = self.get_parameter("marker_candidates").value
        fields = twist_fields(self._interface.action)
        if drawn and fields and self._marker_publisher.get_subscription_count():
            header, lifetime = self._header(now_ns), MARKER_PERIODS * self._period
            self._marker_publisher.publish(
                candidate_markers(decision.screening, fields, self._bundle.step_duration, header, lifetime, drawn)
            )

    def _why_unheard(self, decision: Decision) -> str:
        """What the graph told last of the input that ``decision`` waits for; empty: of none, or nothing."""
        if self._said is None:
            return self._unheard.get(self._interface.instruction.topic, "")
        if not isinstance(self._step, Fault) or decision.reason != str(self._step):
            return ""
        topics = [spec.topic for spec in self._interface.observations if spec.name == self._step.field]
        return self._unheard.get(topics[0], "") if topics else ""

    def _header(self, stamp_ns: int) -> Header:
        return Header(stamp=Time(nanoseconds=stamp_ns).to_msg(), frame_id=self._interface.action.frame_id)

    def _screening_message(self, decision: Decision, now_ns: int) -> Screening:
        screening = decision.screening
        count, horizon = screening.violation.shape
        return Screening(
            header=self._header(now_ns),
            instruction=self._said,
            count=count,
            horizon=horizon,
            step_duration=self._bundle.step_duration,
            threshold=screening.threshold,
            fields=screening.fields,
            actions=_floats(screening.actions),
            violation=_floats(screening.violation),
            progress=_floats(screening.progress),
            source=[source for source, proposed in screening.sources for _ in range(proposed)],
            verdict=array.array("B", screening.verdict.tobytes()),
            reason=[screening.reason(index) for index in range(count)],
            chosen=screening.chosen,
        )

    def _set_state(self, state: PlannerState, reason: str) -> None:
        changed, refused = state != self._state, not self._active and reason != self._reason
        self._state, self._reason = state, reason
        told = self._instruction() if self._planner is not None else None
        instruction = told.text if isinstance(told, Instruction) else ""
        if changed or refused or instruction != self._instruction_text:
            self._instruction_text = instruction
            self._publish_state()
        if changed and time.monotonic() - self._logged.get(state, -math.inf) > LOG_PERIOD:
            self._logged[state] = time.monotonic()
            line = state.name + (f": {reason}" if reason else "")
            if _level(state, reason) == DiagnosticStatus.OK or state == PlannerState.WAITING:
                self.get_logger().info(line)
            else:
                self.get_logger().warning(line)

    def _publish_state(self) -> None:
        p50, p99 = self._latency()
        configured = self._planner is not None
        self._state_publisher.publish(
            PlannerStateMessage(
                header=Header(stamp=self.get_clock().now().to_msg()),
                state=int(self._state),
                reason=self._reason,
                instruction=self._instruction_text,
                bundle=self._bundle.identity if configured else "",
                provider=self._planner.screener.provider if configured else "",
                decisions=self._decisions,
                deadline_misses=self._deadline.misses,
                latency_p50=p50,
                latency_p99=p99,
                candidates=self._candidate_count,
                accepted=self._accepted_count,
                followed=self._followed,
            )
        )

    # --- once a second

    def _on_second(self) -> None:
        if self._active:
            self._watch_timer()
        self._publish_state()
        seconds = time.perf_counter() - self._heard_since
        rates = {topic: count / seconds for topic, count in self._heard.items()}
        self._heard, self._heard_since = {}, time.perf_counter()
        level, message = _level(self._state, self._reason), self._state.name
        message += f": {self._reason}" if self._reason else ""
        if self._active:
            self._ahead = {
                topic: self._ahead.get(topic, ahead)
                for topic, ahead in self._stream.ahead.items()
                if ahead > CLOCK_AHEAD
            }
            self._ask_graph(rates)
            for line in filter(self._told.__contains__, self._at_risk()):
                level = max(level, DiagnosticStatus.WARN)
                message += f"; {line}"
        self._diagnostics_publisher.publish(
            DiagnosticArray(
                header=Header(stamp=self.get_clock().now().to_msg()),
                status=[
                    DiagnosticStatus(
                        level=level,
                        name=f"{self.get_fully_qualified_name().lstrip('/')}: planner",
                        message=message,
                        hardware_id=self._interface.name if self._planner is not None else "",
                        values=[KeyValue(key=key, value=value) for key, value in self._diagnose(rates).items()],
                    )
                ],
            )
        )

    def _watch_timer(self) -> None:
        """Stop the robot, and say why, where the control timer has fallen silent: only this timer is left to."""
        now_ns = self._timer_clock.now().nanoseconds
        silent = (now_ns - self._ticked_ns) * 1e-9 if self._ticked_ns else 0.0
        allowed = SILENT_PERIODS * self._period
        if now_ns == self._last_second_ns:
            why = f"/clock stands still at {now_ns * 1e-9:.3f} s: use_sim_time is true; is the simulation running?"
        elif silent > allowed:
            why = f"no tick for {silent:.3f} s, allowed are {allowed:g} s"
        else:
            why = ""
        self._last_second_ns = now_ns
        if why:
            decision = self._planner.stop(PlannerState.DEADLINE_MISSED, f"control timer: {why}")
            self._publish_command(decision.action, self.get_clock().now().nanoseconds)
            self._set_state(decision.state, decision.reason)

    def _ask_graph(self, rates: dict[str, float]) -> None:
        """Why what we wait for is not heard, and whether it is us who command; logged once, when it is found twice."""
        action = self._interface.action
        self._command_at_risk = command_at_risk(self, action.topic, action.type)
        awaited = [self._interface.instruction] if self._said is None else []
        if isinstance(self._step, Fault):
            lasting = self._interface.lasting_topics  # silent, but for the one that the fault names, for good reason
            awaited += [
                spec
                for spec in self._interface.observations
                if spec.topic not in rates and (spec.topic not in lasting or spec.name == self._step.field)
            ]
        reasons = {spec.topic: unheard(self, spec.topic, spec.type) for spec in awaited}
        self._unheard = {topic: reason for topic, reason in reasons.items() if reason}

        found = {f"{topic}: {reason}" for topic, reason in self._unheard.items()}
        found |= set(self._at_risk())
        again = found & self._found  # discovery takes its time: what is gone within a second is nothing
        for line in sorted(again - self._told):
            self.get_logger().warning(line)
        self._found, self._told = found, again

    def _at_risk(self) -> list[str]:
        """What else is not as it should be while we command."""
        lines = [f"{self._interface.action.topic}: {self._command_at_risk}"] if self._command_at_risk else []
        if self._state in MOVING:
            instead = "" if self._candidates else "; the planner's own candidates are executed"
            for source in sorted(self._silent_policies):
                lines.append(f"candidate_actions: nothing fresh from '{source}'{instead}")
        lines += [
            f"{topic}: stamped {ahead:.3f} s after it was received, from when its age counts; do the clocks differ?"
            for topic, ahead in self._ahead.items()
        ]
        images = self._step.images if isinstance(self._step, Step) else {}
        lines += [
            f"{spec.topic}: the image is all of one colour, as with the lens cap on: nothing is seen in it"
            for spec in self._interface.images
            if spec.name in images and is_blank(images[spec.name])
        ]
        return lines

    def _diagnose(self, rates: dict[str, float]) -> dict[str, str]:
        """What ``/diagnostics`` says, beside state and reason."""
        if self._planner is None:
            return {}
        p50, p99 = self._latency()
        values = {
            "bundle": self._bundle.identity,
            "provider": self._planner.screener.provider,
            "instruction": self._instruction_text,
            "decisions": str(self._decisions),
            "deadline misses": str(self._deadline.misses),
            "decision p50 (ms)": f"{p50:.2f}",
            "decision p99 (ms)": f"{p99:.2f}",
        }
        if self._phases:
            names = self._phases[-1]
            medians = {name: np.median([phases[name] for phases in self._phases]) for name in names}
            values |= {f"{name} p50 (ms)": f"{median:.2f}" for name, median in medians.items()}
        values |= {"candidates": str(self._candidate_count), "accepted": str(self._accepted_count)}
        values["decisions that followed another policy"] = str(self._followed)
        ages = self._step.ages if isinstance(self._step, Step) else {}
        for topic in self._interface.observation_topics():
            values[f"{topic} rate (Hz)"] = f"{rates.get(topic, 0.0):.1f}"
            if topic in ages:
                values[f"{topic} age (s)"] = f"{ages[topic]:.3f}"
        if self._active:
            values |= {f"{topic} is not heard": reason for topic, reason in self._unheard.items()}
        if self._ignored:
            values["candidate_actions ignored"] = f"{self._ignored}; the last {self._ignored_why}"
        return values

    def _begin_counting(self) -> None:
        """Everything that is counted since activation."""
        self._deadline = Deadline(self.get_parameter("deadline").value or self._period)
        self._latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)  # ms, tick to command, where screened
        self._phases: deque[dict[str, float]] = deque(maxlen=REMEMBERED_LATENCIES)
        self._decisions = self._candidate_count = self._accepted_count = self._followed = 0
        self._ignored, self._ignored_why = 0, ""
        self._last_tick_ns = 0  # when the last one began, on the control timer's clock, as the next two
        self._ticked_ns = 0  # when it was done: however long a decision takes is for the deadline to judge
        self._last_second_ns = -1
        self._begun_ns: int | None = None  # when the episode began of which nothing was decided yet
        self._step: Step | Fault = Fault(FaultKind.WAITING, "all", "no decision yet")
        self._unheard: dict[str, str] = {}  # by topic that we wait for, why
        self._command_at_risk = ""  # by whom else on the command topic
        self._ahead: dict[str, float] = {}  # by topic, s by which it was stamped after reception, when that was found
        self._silent_policies: set[str] = set()  # whose candidates are no longer fresh
        self._found: set[str] = set()  # what of this the graph told last,
        self._told: set[str] = set()  # and what of it is in the log
        self._heard: dict[str, int] = {}
        self._heard_since = time.perf_counter()

    def _latency(self) -> tuple[float, float]:
        """Median and 99th percentile of the last decisions, ms."""
        return tuple(map(float, np.percentile(self._latencies, [50, 99]))) if self._latencies else (0.0, 0.0)


def _level(state: PlannerState, reason: str) -> bytes:
    match state:
        case PlannerState.INACTIVE | PlannerState.UNCONFIGURED:
            # The reason why it refuses to go on, unless it was told to end.
            return DiagnosticStatus.ERROR if reason not in ("", SHUT_DOWN) else DiagnosticStatus.OK
        case PlannerState.PLANNING:
            return DiagnosticStatus.OK
        case PlannerState.WAITING | PlannerState.ALL_REJECTED | PlannerState.RETREATING | PlannerState.GOAL_NOT_FOUND:
            return DiagnosticStatus.WARN
    return DiagnosticStatus.ERROR


def _floats(values: np.ndarray) -> array.array:
    """Row-major float32: the one kind of sequence that rclpy takes without a look at each element."""
    return array.array("f", np.ascontiguousarray(values, np.float32).tobytes())


def _check_command(message_type: type, interface: RobotInterface) -> None:
    """Write each field once. ConfigError: a field cannot be written, which the path alone does not tell."""
    action = interface.action
    for field in action.fields:
        try:
            message = message_type()
            write_action(message, action.model_copy(update={"fields": [field]}), [field.limits[0]])
            serialize_message(message)  # a float in an integer field is only found out here
        except Exception as error:  # whatever a generated class or its C code raises
            raise config.ConfigError(
                f"robot interface: action.{field.name}: {field.path} of a new {action.type} cannot be set to a number: "
                f"{error.__cause__ or error}; a floating-point field, or an element of an array of "
                "floating-point numbers, can, e.g. twist.linear.x or data[0]"
            ) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP. Exit codes: 0 stopped, 1 autostart failed, 2 parameter refused."""
    if helped(arguments, "planner", __doc__, PARAMETERS, "-p model:=bundles/navigation -p autostart:=true"):
        return 0
    stop = signals.init(arguments)
    try:
        node = PlannerNode()
    except ParameterException as error:
        print(f"planner: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        if node.get_parameter("autostart").value and not (
            node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
        ):
            return 1
        if not node.get_parameter("autostart").value:
            name = node.get_fully_qualified_name()
            node.get_logger().info(
                f"waiting to be configured: ros2 lifecycle set {name} configure, then ... activate (or start it with "
                "-p autostart:=true)"
            )
        signals.spin(node, stop)
        return 0
    finally:
        if not node.finalized:
            node.trigger_shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
