"""Attribute paths into messages: ``pose.pose.position.x``, ``ranges[0:720:30]``, ``data[2]``, ``position['elbow']``."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter
from typing import Any

# What reading a number at a path of a message raises where the message is not as it should be.
UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError)
_STEP = re.compile(
    r"""(?:^|\.)(?P<attribute>[A-Za-z_]\w*)      # a field of the message
      | \[(?P<index>\d+)\]                        # one element of an array
      | \[(?P<slice>\d*:\d*(?::[1-9]\d*)?)\]      # a stretch of an array, Python's start:stop:stride
      | \[(?P<quote>['"])(?P<key>[^'"]+)(?P=quote)\]  # the element that belongs to this entry of the message's `name`
    """,
    re.VERBOSE,
)


class FieldPath:
    """One parsed path. ``get`` and ``set`` work on any object with the right attributes, so on rclpy's and on rosbags'.

    ``position['elbow']`` reads the element of ``position`` at the index of "elbow" in the list ``name`` of the same
    message (sensor_msgs/JointState), whatever order the driver publishes its joints in.
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
        self.keyed = any(isinstance(step, tuple) for step in self.steps)
        self._attributes = attrgetter(text) if all(isinstance(step, str) for step in self.steps) else None

    def get(self, message: Any) -> Any:
        """Value at the path. Raises AttributeError, IndexError, KeyError or TypeError where the message has none."""
        if self._attributes is not None:
            return self._attributes(message)
        parent, value = None, message
        for step in self.steps:
            if isinstance(step, str):
                parent, value = value, getattr(value, step)
            elif isinstance(step, tuple):
                names = list(parent.name)
                if step[0] not in names:
                    raise KeyError(f"no '{step[0]}' among {names}")
                value = value[names.index(step[0])]
            else:
                value = value[step]
        return value

    def set(self, message: Any, value: float) -> None:
        """Write ``value``; an array too short for the path's index is filled up with zeros."""
        *parents, last = self.steps
        target = message
        for step in parents:
            target = getattr(target, step) if isinstance(step, str) else target[step]
        if isinstance(last, str):
            setattr(target, last, value)
        else:
            while len(target) <= last:
                target.append(type(value)(0))
            target[last] = value


@cache
def parse_path(text: str) -> FieldPath:
    """The parsed path of ``text``, parsed once."""
    return FieldPath(text)
