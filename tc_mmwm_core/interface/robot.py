"""The robot interface: which topics, of which type, map to which named model inputs and outputs (contract 1).

One YAML file per robot, read by the recorder, the converter and the planner. ``config/robots/navigation.yaml`` is a
commented example.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from tc_mmwm_core.config import Config, did_you_mean, load, parse
from tc_mmwm_core.interface.messages import check_path, check_type
from tc_mmwm_core.interface.path import parse_path


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"'{name}' must be letters, digits and underscores, beginning with a letter")
    return name


def _check_topic(topic: str) -> str:
    if not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", topic, re.ASCII) or "__" in topic:
        raise ValueError(f"'{topic}' is not a topic name; write e.g. camera/image_raw (relative: a namespace applies)")
    return topic


def _check_span(span: list[float]) -> list[float]:
    if span[0] >= span[1]:
        raise ValueError(f"{span} must be [lower, upper] with lower < upper" + (", swap them" * (span[0] > span[1])))
    return span


def _check_path_text(text: str) -> str:
    parse_path(text)
    return text


Name = Annotated[str, AfterValidator(_check_name)]
Topic = Annotated[str, AfterValidator(_check_topic)]
MessageType = Annotated[str, AfterValidator(check_type)]
PathText = Annotated[str, AfterValidator(_check_path_text)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Span = Annotated[list[Finite], Field(min_length=2, max_length=2), AfterValidator(_check_span)]

TRANSFORMS = ("cos_yaw", "sin_yaw")
LASTING = 1.0  # s: a sensor whose messages hold for longer may speak on change only
CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


class _Section(Config):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ImageSpec(_Section):
    """One camera."""

    name: Name = Field(description="name of the image in the dataset and the model")
    topic: Topic = Field(description="topic name; relative names take the node's namespace")
    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"] = Field(description="message type")
    height: int = Field(ge=8, le=4096, description="rows that the model sees")
    width: int = Field(ge=8, le=4096, description="columns that the model sees")
    encoding: Literal["rgb8", "bgr8", "mono8"] = Field("rgb8", description="encoding that the model sees")
    max_age: Positive = Field(description="s: older than this and the input is stale")

    @property
    def channels(self) -> int:
        return CHANNELS[self.encoding]


class FieldSpec(_Section):
    """One number, or one array of numbers, of a sensor message."""

    name: Name = Field(description="name of the field within its sensor")
    path: PathText = Field(description="where it stands in the message, e.g. pose.pose.position.x or position['elbow']")
    size: int | None = Field(None, ge=1, description="number of elements where the path is an array; unset: one number")
    unit: str = Field(min_length=1, description="SI unit (REP-103), '1' for none")
    transform: Literal[TRANSFORMS] | None = Field(
        None, description="cos_yaw, sin_yaw: of a quaternion, about z upwards (REP-103)"
    )
    limits: Span | None = Field(None, description="[lower, upper]: a value outside is a fault")
    clip: Span | None = Field(None, description="[lower, upper]: a value outside is moved to the nearer end")
    non_finite: Literal["refuse", "clip"] = Field(
        "refuse", description="+inf, -inf (LaserScan: no return, too close, REP-117): a fault, or the end of 'clip'"
    )
    nan_as: Finite | None = Field(None, description="what NaN stands for; unset: NaN is a fault (REP-117: erroneous)")

    @model_validator(mode="after")
    def _consistent(self) -> FieldSpec:
        if self.clip and self.limits:
            raise ValueError("has 'clip' and 'limits': clipped values never leave their limits, keep one of the two")
        if self.non_finite == "clip" and not self.clip:
            raise ValueError("has 'non_finite: clip' without 'clip'; add e.g. clip: [0.0, 10.0]")
        if self.transform and (self.size or self.clip):
            raise ValueError(f"has transform {self.transform}, one number in [-1, 1]: drop 'size' and 'clip'")
        return self

    @property
    def names(self) -> list[str]:
        return [self.name] if self.size is None else [f"{self.name}[{index}]" for index in range(self.size)]


class SensorSpec(_Section):
    """One topic with numbers."""

    name: Name = Field(description="name of the sensor; its fields are called <sensor>.<field>")
    topic: Topic = Field(description="topic name; relative names take the node's namespace")
    type: MessageType = Field(description="message type, package/msg/Name")
    max_age: Positive = Field(description="s: older than this and the input is stale")
    latched: bool | None = Field(  # unset, not False: the digest of an interface without it stays what it was
        None,
        description="true: its publisher is transient local, and may publish once, or on change. What it said last "
        "counts for max_age, however late somebody listens",
    )
    fields: list[FieldSpec] = Field(min_length=1, description="what of the message the model sees, in this order")

    @model_validator(mode="after")
    def _consistent(self) -> SensorSpec:
        _unique("field names", [field.name for field in self.fields])
        for field in self.fields:
            check_path(self.type, parse_path(field.path), field.size is not None, number=field.transform is None)
        return self


class ActionField(_Section):
    """One number that the robot is commanded with."""

    name: Name = Field(description="name of the action field")
    path: PathText = Field(description="where it stands in the message, e.g. data[0] or velocity['elbow']")
    unit: str = Field(min_length=1, description="SI unit (REP-103), '1' for none")
    limits: Span = Field(description="[lower, upper]: never commanded beyond; [-1, 1] for the model")
    max_rate: Positive | None = Field(None, description="largest change, units per second; unset: no limit")
    safe: Finite | None = Field(
        None,
        description="of a speed, an effort or a change: the value that stops. Commanded at once, beyond max_rate, when "
        "there is nothing better",
    )
    hold: str | None = Field(
        None,
        description="of a position, in place of 'safe': the sensor field that tells where it is, e.g. arm.shoulder or "
        "arm.joints[0]. What stops is held; give it a max_rate too, so that commands stay near it",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ActionField:
        if (self.safe is None) == (self.hold is None):
            has = "neither 'safe' nor 'hold'" if self.safe is None else "'safe' and 'hold'"
            raise ValueError(
                f"'{self.name}' has {has}: give 'safe', the value that stops, or, where it is a position, 'hold', the "
                "sensor field that tells where it is"
            )
        if self.safe is not None and not self.limits[0] <= self.safe <= self.limits[1]:
            raise ValueError(f"'{self.name}': safe value {self.safe} is outside its limits {self.limits}")
        *parents, last = parse_path(self.path).steps
        if isinstance(last, slice) or any(not isinstance(step, str | int) for step in parents):
            raise ValueError(
                f"path '{self.path}' cannot be written to; use attributes and indices, e.g. data[0], or a joint's "
                "name, e.g. velocity['elbow']"
            )
        return self


class ActionSpec(_Section):
    """The command topic."""

    topic: Topic = Field(description="topic name; relative names take the node's namespace")
    type: MessageType = Field(description="message type, e.g. geometry_msgs/msg/TwistStamped")
    frame_id: str = Field("", description="frame of the command where the message has a header (REP-105)")
    fields: list[ActionField] = Field(min_length=1, description="what is commanded, in this order")

    @model_validator(mode="after")
    def _consistent(self) -> ActionSpec:
        _unique("field names", [field.name for field in self.fields])
        paths = [parse_path(field.path) for field in self.fields]
        joints: dict[str, list[str]] = {}  # by array
        for path in paths:
            check_path(self.type, path, many=False)
            if path.joint is not None:
                joints.setdefault(path.text.rpartition("[")[0], []).append(path.joint)
        everyone = {joint for named in joints.values() for joint in named}
        for array, named in joints.items():
            if missing := sorted(everyone - set(named)):
                raise ValueError(
                    f"'{array}' is commanded for {', '.join(named)}, but not for {', '.join(missing)}: all joints "
                    "stand in one message, and what is not commanded there would be 0; give every array the same joints"
                )
        return self


class InstructionSpec(_Section):
    """Where the instruction is heard."""

    topic: Topic = Field("instruction", description="topic name; reliable, transient local")
    type: Literal["std_msgs/msg/String"] = Field("std_msgs/msg/String", description="message type")


class EventSpec(_Section):
    """Who cuts episodes and judges them."""

    topic: Topic = Field("episode_event", description="topic name; reliable, transient local")
    type: Literal["tc_mmwm_ros/msg/EpisodeEvent"] = Field("tc_mmwm_ros/msg/EpisodeEvent", description="message type")


class RobotInterface(_Section):
    """A robot as the model sees it."""

    schema_version: Literal[1] = Field(alias="schema", description="version of this file's format")
    name: Name = Field(description="name of the robot")
    rate: float = Field(gt=0, le=1000, description="Hz: control rate, and rate of the dataset")
    images: list[ImageSpec] = Field([], description="cameras")
    sensors: list[SensorSpec] = Field([], description="everything else that is sensed")
    action: ActionSpec = Field(description="what is commanded")
    instruction: InstructionSpec = Field(InstructionSpec(), description="what the robot is told")
    events: EventSpec | None = Field(None, description="episode boundaries and judgements, where somebody gives them")

    @model_validator(mode="after")
    def _consistent(self) -> RobotInterface:
        if not self.images and not self.sensors:
            raise ValueError("neither 'images' nor 'sensors' has an entry: the robot must sense something")
        _unique("names of images and sensors", [spec.name for spec in self.observations])
        topics = [spec.topic.lstrip("/") for spec in (*self.observations, self.action, self.instruction)]
        _unique("topics", topics + ([self.events.topic.lstrip("/")] if self.events else []))
        units = [field.unit for sensor in self.sensors for field in sensor.fields for _ in field.names]
        for field in self.action.fields:
            if field.hold is None:
                continue
            if field.hold not in self.sensor_names:
                mend = did_you_mean(field.hold, self.sensor_names)
                raise ValueError(f"action '{field.name}': 'hold' names {field.hold}, which is no sensor field{mend}")
            if (unit := units[self.sensor_names.index(field.hold)]) != field.unit:
                raise ValueError(
                    f"action '{field.name}' is in {field.unit}; {field.hold}, which it is to hold, in {unit}"
                )
        return self

    @classmethod
    def load(cls, path: str | Path) -> RobotInterface:
        """Read a robot interface YAML. Raises ConfigError that names the file and every wrong field."""
        return load(path, cls)

    @classmethod
    def from_dict(cls, content: dict[str, Any], origin: str) -> RobotInterface:
        """The interface that ``to_dict`` wrote, e.g. into dataset.json; ``origin`` names it in a ConfigError."""
        return parse(content, cls, origin)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, JSON-able, without unset values; ``from_dict`` reads it back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """sha256 of everything in the interface, comments and key order aside."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def sensor_names(self) -> list[str]:
        return [f"{sensor.name}.{name}" for sensor in self.sensors for field in sensor.fields for name in field.names]

    @property
    def sensor_size(self) -> int:
        return len(self.sensor_names)

    @cached_property
    def action_names(self) -> list[str]:
        return [field.name for field in self.action.fields]

    @property
    def action_size(self) -> int:
        return len(self.action_names)

    @cached_property
    def action_limits(self) -> np.ndarray:
        """float32 [A, 2], lower and upper, in units."""
        return _constant([field.limits for field in self.action.fields])

    def safe_action(self, sensor: np.ndarray | None = None) -> np.ndarray | None:
        """What stops a robot that senses ``sensor`` [Ds]: float32 [A], in units, within the limits.

        Positions that are to be held are those that ``sensor`` tells; without one, None where there are any.
        """
        held = [None if field.hold is None else self.sensor_names.index(field.hold) for field in self.action.fields]
        if sensor is None and any(index is not None for index in held):
            return None
        fields = zip(self.action.fields, held, strict=True)
        action = [field.safe if index is None else sensor[index] for field, index in fields]
        return np.clip(np.array(action, np.float32), *self.action_limits.T)

    @cached_property
    def action_max_rate(self) -> np.ndarray:
        """float32 [A], units per second, inf where there is no limit."""
        return _constant([field.max_rate or np.inf for field in self.action.fields])

    def beyond_limits(self, action: np.ndarray) -> np.ndarray:
        """bool [..., A]: what of ``action`` [..., A], in units, is beyond its limits by more than rounding makes."""
        lower, upper = self.action_limits[:, 0], self.action_limits[:, 1]
        rounding = 1e-4 * (upper - lower)
        return (action < lower - rounding) | (action > upper + rounding)

    def normalise_action(self, action: np.ndarray) -> np.ndarray:
        """Units to [-1, 1] by the limits (beyond them where ``action`` is): float32 [..., A]."""
        lower, upper = self.action_limits[:, 0], self.action_limits[:, 1]
        return ((np.asarray(action, np.float32) - lower) / (upper - lower) * 2 - 1).astype(np.float32)

    def denormalise_action(self, action: np.ndarray) -> np.ndarray:
        """[-1, 1] to units by the limits: float32 [..., A]."""
        lower, upper = self.action_limits[:, 0], self.action_limits[:, 1]
        return ((np.asarray(action, np.float32) + 1) / 2 * (upper - lower) + lower).astype(np.float32)

    @property
    def observations(self) -> list[ImageSpec | SensorSpec]:
        """What makes up a step."""
        return [*self.images, *self.sensors]

    def observation_topics(self) -> dict[str, str]:
        """{topic: type} of what makes up a step."""
        return {spec.topic: spec.type for spec in self.observations}

    @cached_property
    def latched_topics(self) -> frozenset[str]:
        """Of the observations, those that may be published once."""
        return frozenset(sensor.topic for sensor in self.sensors if sensor.latched)

    @property
    def lasting_topics(self) -> frozenset[str]:
        """Of the observations, those that a new episode need not hear anew: latched, or perhaps said on change only."""
        brief = [spec.topic for spec in self.sensors if not spec.latched and spec.max_age <= LASTING]
        return frozenset(spec.topic for spec in self.sensors) - {*brief, *(spec.topic for spec in self.images)}

    def topics(self) -> dict[str, str]:
        """{topic: type} of everything that the recorder must record."""
        others = [self.action, self.instruction] + ([self.events] if self.events else [])
        return self.observation_topics() | {spec.topic: spec.type for spec in others}

    def differences(self, other: RobotInterface) -> list[str]:
        """All that would change what a model trained for ``self`` sees or means on ``other``, one line per field.

        Topic names, message types and paths, maximum ages, sensor limits, safe values and rate limits may differ from
        robot to robot without changing the meaning of any number, so they are not compared.
        """
        ours, theirs = _meaning(self), _meaning(other)
        lines = []
        for key in dict.fromkeys((*ours, *theirs)):
            if ours.get(key) != theirs.get(key):
                here, there = (str(side[key]) if key in side else "missing" for side in (ours, theirs))
                lines.append(f"{key}: {here} in '{self.name}', {there} in '{other.name}'")
        return lines


def _meaning(interface: RobotInterface) -> dict[str, Any]:
    """Flat {what: value} of all that gives the model's inputs and outputs their meaning."""
    meaning: dict[str, Any] = {"rate": interface.rate}
    meaning["images"] = [image.name for image in interface.images]
    for image in interface.images:
        meaning |= {f"images.{image.name}.{key}": getattr(image, key) for key in ("height", "width", "encoding")}
    meaning["sensors"] = [f"{sensor.name}.{field.name}" for sensor in interface.sensors for field in sensor.fields]
    for sensor in interface.sensors:
        for field in sensor.fields:
            keys = ("size", "unit", "transform", "clip", "non_finite", "nan_as")
            meaning |= {f"sensors.{sensor.name}.{field.name}.{key}": getattr(field, key) for key in keys}
    meaning["action"] = interface.action_names
    for field in interface.action.fields:
        meaning |= {f"action.{field.name}.{key}": getattr(field, key) for key in ("unit", "limits")}
    return meaning


def _constant(values: list) -> np.ndarray:
    array = np.array(values, np.float32)
    array.flags.writeable = False
    return array


def _unique(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        mend = "; put all fields of one topic under one sensor" if what == "topics" else ""
        raise ValueError(f"{what} must differ, found twice: {', '.join(twice)}{mend}")
