"""Attribute paths into messages: ``pose.pose.position.x``, ``ranges[0:720:30]``, ``data[2]``, ``position['elbow']``."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter
from typing import Any

# What reading a number at a path of a message raises where the message is not as it should be.
UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError)
NAMES = ("name", "joint_names")  # fields that name the joints: of sensor_msgs/JointState, and of control_msgs/JointJog
_STEP = re.compile(
    r"""(?:^|\.)(?P<attribute>[A-Za-z_]\w*)      # a field of the message
      | \[(?P<index>\d+)\]                        # one element of an array
      | \[(?P<slice>\d*:\d*(?::[1-9]\d*)?)\]      # a stretch of an array, Python's start:stop:stride
      | \[(?P<quote>['"])(?P<key>[^'"]+)(?P=quote)\]  # the element that belongs to this joint
    """,
    re.VERBOSE,
)


class FieldPath:
    """One parsed path. ``get`` and ``set`` work on any object with the right attributes, so on rclpy's and on rosbags'.

    ``position['elbow']`` is the element of ``position`` at the index of "elbow" in the list ``name`` (or another of
    ``NAMES``) of the same message, whatever order the driver publishes its joints in.
    """

    def __init__(self, text: str):
        """Raises ValueError where ``text`` is not a path."""
        self.text = text
        self.steps: list[str | int | slice | tuple[str]] = []
        position = 0
        while position < len(text):
            match = _STEP.match(text, position)
            if match is None or (position == 0 and match["attribute"] is None):
                break
            if match["attribute"] is not None:
                self.steps.append(match["attribute"])
            elif match["index"] is not None:
                self.steps.append(int(match["index"]))
            elif match["slice"] is not None:
                self.steps.append(slice(*(int(part) if part else None for part in match["slice"].split(":"))))
            else:
                self.steps.append((match["key"],))
            position = match.end()
        if not text or position < len(text):
            raise ValueError(
                f"'{text}' is not a field path; write e.g. pose.pose.position.x, ranges[0:720:30], data[2] "
                "or position['elbow'] (a JointState joint by name)"
            )
        self.joint: str | None = next((step[0] for step in self.steps if isinstance(step, tuple)), None)
        self._attributes = attrgetter(text) if all(isinstance(step, str) for step in self.steps) else None

    def get(self, message: Any) -> Any:
        """Value at the path. Raises one of UNREADABLE where the message has none."""
        if self._attributes is not None:
            return self._attributes(message)
        parent, value = None, message
        for step in self.steps:
            if isinstance(step, str):
                parent, value = value, getattr(value, step)
            elif isinstance(step, slice):
                value = value[step]
            else:
                value = value[_index(step, parent, value)]
        return value

    def set(self, message: Any, value: float) -> None:
        """Write ``value``; an array too short for the path's index is filled up with zeros.

        A joint that is not named yet is added to the names. Raises ValueError where a message that names its joints
        is written to by index: whoever hears it would not know which joints are meant.
        """
        *parents, last = self.steps
        parent, target = None, message
        for step in parents:
            parent, target = target, getattr(target, step) if isinstance(step, str) else target[step]
        if isinstance(last, str):
            setattr(target, last, value)
            return
        if isinstance(last, tuple):
            names = joint_names(parent)
            if last[0] not in names:
                names.append(last[0])
            last = names.index(last[0])
        elif any(isinstance(getattr(parent, field, None), list) for field in NAMES):
            raise ValueError(f"it names its joints, so write {self.text[: self.text.rindex('[')]}['<joint>']")
        while len(target) <= last:
            target.append(type(value)(0))
        target[last] = value


def _index(step: int | tuple[str], parent: Any, array: Any) -> int:
    """Where in ``array``, a field of ``parent``, the element is. Raises IndexError where there is none."""
    index, named = step, ""
    if isinstance(step, tuple):
        names = joint_names(parent)
        if step[0] not in names:
            raise IndexError(f"there is no '{step[0]}' among {names}")
        index, named = names.index(step[0]), f", and {len(names)} joints are named: {names}"
    if index >= len(array):
        raise IndexError(f"the array {f'has {len(array)} values' if len(array) else 'is empty'}{named}")
    return index


def joint_names(message: Any) -> list[str]:
    """The list in ``message`` that names its joints. Raises AttributeError where it has none."""
    for field in NAMES:
        if isinstance(names := getattr(message, field, None), list):
            return names
    raise AttributeError(f"{type(message).__name__} has no list {' or '.join(NAMES)} to find a joint by")


@cache
def parse_path(text: str) -> FieldPath:
    """The parsed path of ``text``, parsed once."""
    return FieldPath(text)
