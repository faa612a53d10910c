"""From messages to model inputs: the one path, live in the planner and offline in the converter.

Callbacks ``add`` messages, which only stores them; ``step`` reads what one decision needs. A step is a function of the
messages, of when they were received and of the tick, so the planner and the converter make the same arrays, bit for
bit: a message that was still on its way at a tick is not part of the tick's step, whenever the step is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.image import decode_image
from tc_mmwm_core.interface.path import UNREADABLE, joint_names, parse_path
from tc_mmwm_core.interface.robot import FieldSpec, ImageSpec, RobotInterface, SensorSpec

__all__ = ["Fault", "FaultKind", "Step", "StepStream", "message_time"]

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """What the model sees at one tick."""

    stamp_ns: int  # the tick
    images: dict[str, np.ndarray]  # name: uint8 [H, W, C], read-only
    sensor: np.ndarray  # float32 [Ds], in the units of the robot interface
    ages: dict[str, float]  # topic: s from when the message was made, at the latest when it was received, to the tick
    stamps_ns: dict[str, int] = dataclasses.field(default_factory=dict)  # topic: stamp, of several the oldest


class _Entry:
    """A message with its times and, once a step asked for it, what was read from it."""

    __slots__ = ("message", "received_ns", "stamp_ns", "value")

    def __init__(self, stamp_ns: int, received_ns: int, message: Any):
        self.stamp_ns = stamp_ns
        self.received_ns = received_ns
        self.message = message
        self.value: np.ndarray | Fault | None = None

    @property
    def made_ns(self) -> int:
        """Of a clock that is ahead, a stamp may be after the reception, by which the message was made."""
        return min(self.stamp_ns, self.received_ns)

    def known_at(self, now_ns: int) -> bool:
        return self.stamp_ns <= now_ns and self.received_ns <= now_ns


class _Part:
    """What was heard of one image, or of those fields of a sensor that are read from one message.

    What a step may still need of it is kept: everything since the newest message before a tick.

    Args:
        columns: where the fields stand in ``Step.sensor``.
        joints: only messages that name one of these are read; empty: all are.
    """

    def __init__(
        self,
        spec: ImageSpec | SensorSpec,
        history: int,
        columns: list[int] | None = None,
        joints: frozenset[str] = frozenset(),
    ):
        self.spec = spec
        self.columns = columns
        self.joints = joints
        self.max_age_ns = round(spec.max_age * SECOND)
        self.latched = isinstance(spec, SensorSpec) and bool(spec.latched)
        self.history = history
        self.entries: deque[_Entry] = deque()
        self.refused: deque[tuple[int, Fault]] = deque(maxlen=history)  # (when, why)
        self.received_ns: int | None = None
        self.carried = False  # what it holds is of a time that the clock was set back from
        self.others: list[str] = []  # joints in the last message that was passed over
        if isinstance(spec, ImageSpec):
            self.read: Callable[[Any], np.ndarray | Fault] = lambda message: decode_image(message, spec)
        else:
            self.read = _sensor_reader(spec)

    @property
    def what(self) -> str:
        """Which messages it is made of, to be told apart from others on the topic."""
        return f" with {', '.join(field.path for field in self.spec.fields)}" if self.joints else ""

    def discard(self, now_ns: int, keep: int = 1) -> None:
        """All before the newest message that a step of ``now_ns`` knows, as far as more than ``keep`` are there."""
        while len(self.entries) > keep and self.entries[1].known_at(now_ns):
            self.entries.popleft()

    def refusal(self, now_ns: int) -> Fault | None:
        """Why a message was refused until ``now_ns``, the last of several; it is told once."""
        fault = None
        while self.refused and self.refused[0][0] <= now_ns:
            fault = self.refused.popleft()[1]
        return fault


class StepStream:
    """Newest messages of every observation topic, and the step that they make.

    Args:
        interface: which topics and what of them.
        history: messages kept per topic until a step is made from them; more are needed only where steps are made
            long after their ticks. Messages stamped ahead of their reception are kept besides, until their time comes.
        clock_tolerance: s: how far a stamp may be after the time of reception before the clocks are said to differ.
    """

    def __init__(self, interface: RobotInterface, history: int = 64, clock_tolerance: float = 0.25):
        self.interface = interface
        self.clock_tolerance_ns = round(clock_tolerance * SECOND)
        self.ahead: dict[str, float] = {}  # topic: s by which the last message was stamped after it was received
        self._parts = _parts(interface, history)
        self._topics: dict[str, list[_Part]] = {}
        for part in self._parts:
            self._topics.setdefault(part.spec.topic, []).append(part)

    def add(self, topic: str, message: Any, received_ns: int) -> None:
        """Store ``message``. Its time is its header stamp, or ``received_ns`` (node clock) where it has no header.

        Never raises for a bad message; that becomes a Fault of the next step. KeyError: the topic is not an input.
        Several drivers may share a topic: of what is read by a joint's name, each joint is read from the newest message
        that has it, and a message with none of them is passed over.
        """
        stamp_ns, names = message_time(message, received_ns), _joints_in(message)
        parts = self._topics[topic]
        self.ahead[topic] = max(0, stamp_ns - received_ns) / SECOND
        if any(part.received_ns is not None and received_ns < part.received_ns - SECOND for part in parts):
            self._forget(received_ns)  # the clock was set back (simulation reset, bag looped)
        for part in parts:
            if not part.joints or names is None or not part.joints.isdisjoint(names):
                self._hear(part, message, stamp_ns, received_ns)
            else:
                part.others = names

    def _hear(self, heard: _Part, message: Any, stamp_ns: int, received_ns: int) -> None:
        heard.received_ns = received_ns
        topic = heard.spec.topic
        newest_ns = heard.entries[-1].stamp_ns if heard.entries and not heard.carried else None
        if stamp_ns > received_ns + self.clock_tolerance_ns:
            ahead = (stamp_ns - received_ns) / SECOND
            reason = f"{topic}: stamped {ahead:.3f} s after it was received; do the clocks or use_sim_time differ?"
            heard.refused.append((received_ns, Fault(FaultKind.FUTURE, heard.spec.name, reason)))
        elif newest_ns is not None and stamp_ns < newest_ns:
            late = (newest_ns - stamp_ns) / SECOND
            reason = f"{topic}: a message {late:.3f} s older than the one before it was refused"
            heard.refused.append((received_ns, Fault(FaultKind.OUT_OF_ORDER, heard.spec.name, reason)))
        else:
            heard.entries.append(_Entry(stamp_ns, received_ns, message))
            heard.carried = False
            heard.discard(received_ns, heard.history)

    def discard(self, now_ns: int) -> None:
        """Let go of what no step of ``now_ns`` or later needs: for where messages come in, but no steps are made."""
        for heard in self._parts:
            heard.discard(now_ns)
            heard.refusal(now_ns)

    def step(self, now_ns: int) -> Step | Fault:
        """The step of tick ``now_ns``: of each topic the newest message stamped and received at or before it.

        The first thing that is wrong, in the order of the interface, is returned as a Fault instead.
        """
        chosen = [(heard, self._choose(heard, now_ns)) for heard in self._parts]
        images: dict[str, np.ndarray] = {}
        sensor = np.empty(self.interface.sensor_size, np.float32)
        ages: dict[str, float] = {}
        stamps_ns: dict[str, int] = {}
        for heard, entry in chosen:
            if isinstance(entry, Fault):
                return entry
            if entry.value is None:
                entry.value = heard.read(entry.message)
                entry.message = None
            if isinstance(entry.value, Fault):
                return entry.value
            topic, age = heard.spec.topic, (now_ns - entry.made_ns) / SECOND
            ages[topic] = max(age, ages.get(topic, age))
            stamps_ns[topic] = min(entry.stamp_ns, stamps_ns.get(topic, entry.stamp_ns))
            if heard.columns is None:
                images[heard.spec.name] = entry.value
            else:
                sensor[heard.columns] = entry.value
        return Step(now_ns, images, sensor, ages, stamps_ns)

    def _choose(self, heard: _Part, now_ns: int) -> _Entry | Fault:
        heard.discard(now_ns)
        entries = heard.entries
        if (fault := heard.refusal(now_ns)) is not None:
            return fault
        spec = heard.spec
        if entries and entries[0].stamp_ns > now_ns:
            ahead = (entries[0].stamp_ns - now_ns) / SECOND
            reason = f"{spec.topic}: all that was heard is stamped {ahead:.3f} s or more ahead; do the clocks differ?"
            return Fault(FaultKind.WAITING, spec.name, reason)
        if not entries or not entries[0].known_at(now_ns):
            others = f"; the last message names {heard.others}" if heard.others else ""
            reason = f"{spec.topic}: nothing heard yet ({spec.type}{heard.what}){others}"
            return Fault(FaultKind.WAITING, spec.name, reason)
        age_ns = now_ns - entries[0].made_ns
        if age_ns > heard.max_age_ns:
            age = age_ns / SECOND
            reason = f"{spec.topic}: newest message{heard.what} is {age:.3f} s old, allowed are {spec.max_age} s"
            if entries[0].stamp_ns == 0:
                reason += "; its header.stamp is 0: does the driver fill it in?"
            elif (latency_ns := entries[0].received_ns - entries[0].stamp_ns) > heard.max_age_ns:
                reason += f"; it came {latency_ns / SECOND:.3f} s after its stamp: a slow sensor, or clocks that differ"
            return Fault(FaultKind.STALE, spec.name, reason)
        return entries[0]

    def _forget(self, now_ns: int) -> None:
        """What was heard is of the future. But what is latched may not be said again: till it is, it counts as heard
        now."""
        for heard in self._parts:
            while len(heard.entries) > heard.latched:
                heard.entries.popleft()
            for entry in heard.entries:
                entry.stamp_ns = entry.received_ns = now_ns
            heard.carried = bool(heard.entries)
            heard.refused.clear()
            heard.received_ns = None


def _parts(interface: RobotInterface, history: int) -> list[_Part]:
    """In the order of the interface. Of a sensor one for each joint, since each may come in a message of its own."""
    parts = [_Part(spec, history) for spec in interface.images]
    column = 0
    for spec in interface.sensors:
        fields: dict[str | None, list[FieldSpec]] = {}  # by joint; None: not read by a joint's name
        columns: dict[str | None, list[int]] = {}
        for field in spec.fields:
            joint = parse_path(field.path).joint
            fields.setdefault(joint, []).append(field)
            columns.setdefault(joint, []).extend(range(column, column + len(field.names)))
            column += len(field.names)
        for joint in fields:
            joints = frozenset(fields) - {None} if joint is None else frozenset({joint})
            part = spec.model_copy(update={"fields": fields[joint]})
            parts.append(_Part(part, history, columns[joint], joints))
    return parts


def _joints_in(message: Any) -> list[str] | None:
    """None where the message names none; if it should, its reader says what is wrong with it."""
    try:
        return list(joint_names(message))
    except AttributeError:
        return None


def message_time(message: Any, received_ns: int) -> int:
    """ns: the header stamp, or ``received_ns`` where the message has no header."""
    header = getattr(message, "header", None)
    return received_ns if header is None else header.stamp.sec * SECOND + header.stamp.nanosec


def _sensor_reader(spec: SensorSpec) -> Callable[[Any], np.ndarray | Fault]:
    """Compile the fields of a sensor into one function: message -> float32 [fields] or Fault."""
    readers = [_field_reader(field) for field in spec.fields]
    names, paths = [f"{spec.name}.{field.name}" for field in spec.fields], [field.path for field in spec.fields]
    flat_names = [f"{spec.name}.{name}" for field in spec.fields for name in field.names]

    def read(message: Any) -> np.ndarray | Fault:
        parts: list[np.ndarray] = []
        for name, path, read_field in zip(names, paths, readers, strict=True):
            try:
                value = read_field(message)
            except IndexError as error:
                return Fault(FaultKind.WRONG_TYPE, name, f"{spec.topic}: no {path}: {error}")
            except UNREADABLE as error:
                return Fault(FaultKind.WRONG_TYPE, name, f"{spec.topic}: {error}; is it really {spec.type}?")
            if isinstance(value, tuple):
                return Fault(value[0], name, f"{spec.topic}: {value[1]}")
            parts.append(np.atleast_1d(value))
        with np.errstate(over="ignore"):
            values = np.concatenate(parts).astype(np.float32)
        if not np.isfinite(values).all():
            index = int(np.argmin(np.isfinite(values)))
            return Fault(FaultKind.NON_FINITE, flat_names[index], f"{spec.topic}: too large for a 32-bit float")
        values.flags.writeable = False
        return values

    return read


Reading = float | np.ndarray | tuple[FaultKind, str]


def _field_reader(field: FieldSpec) -> Callable[[Any], Reading]:
    get = parse_path(field.path).get
    if field.transform:
        return lambda message: _yaw(get(message), field.transform)
    if field.size is None:
        return lambda message: _number(get(message), field)
    return lambda message: _array(get(message), field)


def _number(raw: Any, field: FieldSpec) -> Reading:
    value = float(raw)
    if not math.isfinite(value):
        if math.isnan(value):
            if field.nan_as is None:
                return FaultKind.NON_FINITE, f"{field.path} is nan"
            value = field.nan_as
        elif field.non_finite == "refuse":
            return FaultKind.NON_FINITE, f"{field.path} is {value}"
    if field.clip:
        return min(max(value, field.clip[0]), field.clip[1])
    if field.limits and not field.limits[0] <= value <= field.limits[1]:
        return FaultKind.OUT_OF_LIMITS, f"{field.path} is {value:g} {field.unit}, allowed are {field.limits}"
    return value


def _array(raw: Any, field: FieldSpec) -> Reading:
    values = np.asarray(raw, np.float64)
    if values.shape != (field.size,):
        return FaultKind.WRONG_SIZE, f"{field.path} has {values.size} elements, {field.size} are needed"
    finite = np.isfinite(values)
    if not finite.all():
        nan = np.isnan(values)
        if field.nan_as is not None:
            values = np.where(nan, field.nan_as, values)
            nan[:] = False
        refused = nan if field.non_finite == "clip" else ~np.isfinite(values)
        if refused.any():
            index = int(np.argmax(refused))
            return FaultKind.NON_FINITE, f"{field.path}[{index}] is {values[index]}"
    if field.clip:
        return np.clip(values, *field.clip)
    if field.limits and not (field.limits[0] <= values.min() and values.max() <= field.limits[1]):
        index = int(np.argmax((values < field.limits[0]) | (values > field.limits[1])))
        return (
            FaultKind.OUT_OF_LIMITS,
            f"{field.path}[{index}] is {values[index]:g} {field.unit}, allowed are {field.limits}",
        )
    return values


def _yaw(quaternion: Any, transform: str) -> Reading:
    """cos or sin of the heading of a quaternion about z upwards (REP-103); its length need not be exactly 1."""
    x, y, z, w = float(quaternion.x), float(quaternion.y), float(quaternion.z), float(quaternion.w)
    cosine = w * w + x * x - y * y - z * z
    sine = 2.0 * (w * z + x * y)
    length = math.hypot(cosine, sine)
    if not math.isfinite(length):
        return FaultKind.NON_FINITE, f"quaternion ({x}, {y}, {z}, {w}) is not finite"
    if length < 1e-6:
        return FaultKind.OUT_OF_LIMITS, f"quaternion ({x:g}, {y:g}, {z:g}, {w:g}) has no heading"
    return cosine / length if transform == "cos_yaw" else sine / length
