"""A node's parameters: name, default, description and range are written down once, for ROS and for ``--help``.

Those of a pydantic configuration stand there. The others are a list of :data:`Declaration` in the node's module.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from tc_mmwm_core.config import Config

INTEGER_MAX = 2**53  # what YAML, JSON and doubles carry without loss
TYPES = {bool: "bool", int: "integer", float: "double", str: "string", list: "string_array"}  # as ROS calls them

# Name, default, and the rest; for Node.declare_parameters("", [...]).
Declaration = tuple[str, Any, ParameterDescriptor]


def helped(arguments: list[str] | None, node: str, manual: str, declarations: Sequence[Declaration], run: str) -> bool:
    """Whether ``arguments`` (None: the command line's) ask for help; then it is printed, and ROS need not be started.

    ``manual`` is the docstring of the module of ``node``, and ``run`` how it is run, after ``--ros-args``.
    """
    if not {"-h", "--help"} & set(sys.argv[1:] if arguments is None else arguments):
        return False
    usage = f"usage: ros2 run tc_mmwm_ros {node} --ros-args [-p NAME:=VALUE ...] [--params-file FILE] [-r OLD:=NEW ...]"
    lines = [usage, "", manual.strip().replace("``", ""), "", "Parameters:", ""]
    for name, default, descriptor in declarations:
        allowed = descriptor.additional_constraints or _range(descriptor)
        about = [TYPES[type(default)], *([allowed] if allowed else []), f"default {json.dumps(default)}"]
        lines.append(f"    {name}  ({'; '.join(about)})")
        lines.append(textwrap.fill(descriptor.description, 116, initial_indent=" " * 8, subsequent_indent=" " * 8))
    lines += ["", "For example:", "", f"    ros2 run tc_mmwm_ros {node} --ros-args {run}"]
    print("\n".join(lines))
    return True


def config_parameters(
    model: type[Config], prefix: str = "", leave_out: frozenset[str] = frozenset()
) -> Iterator[Declaration]:
    """A parameter for every field of ``model``; fields of nested models get dotted names."""
    for name, field in model.model_fields.items():
        full = prefix + name
        if full in leave_out:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from config_parameters(field.annotation, f"{full}.", leave_out)
        else:
            yield full, field.default, _descriptor(field)


def read_config(node: Node, model: type[Config], prefix: str = "", leave_out: frozenset[str] = frozenset()) -> dict:
    """The values of :func:`config_parameters`, which ``node`` has declared, nested as ``model`` is."""
    content: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        full = prefix + name
        if full in leave_out:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            content[name] = read_config(node, field.annotation, f"{full}.", leave_out)
        else:
            content[name] = node.get_parameter(full).value
    return content


def describe(
    description: str, low: float | None = None, high: float | None = None, *, read_only: bool = False
) -> ParameterDescriptor:
    """A descriptor with an inclusive range; its type (int or float) is that of ``low``."""
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if isinstance(low, int):
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    elif isinstance(low, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _range(descriptor: ParameterDescriptor) -> str:
    """What a number may be; empty where it may be anything."""
    for span in (*descriptor.integer_range, *descriptor.floating_point_range):
        low, high = span.from_value, span.to_value
        least = "above 0" if 0 < low < sys.float_info.min else f"{low:.9g}"
        if high < INTEGER_MAX:
            return f"{least} to {high:.9g}"
        if low > -INTEGER_MAX:
            return least if least.startswith("above") else f"at least {least}"
    return ""


def _descriptor(field: FieldInfo) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=field.description or "")
    if field.annotation in (int, float):
        whole = field.annotation is int
        low, high = (-INTEGER_MAX, INTEGER_MAX) if whole else (-math.inf, math.inf)
        for rule in field.metadata:  # ROS ranges are inclusive: an open end is moved to the next number
            match rule:
                case Ge(ge):
                    low = ge
                case Gt(gt):
                    low = gt + 1 if whole else math.nextafter(gt, math.inf)
                case Le(le):
                    high = le
                case Lt(lt):
                    high = lt - 1 if whole else math.nextafter(lt, -math.inf)
        descriptor = describe(descriptor.description, low if whole else float(low), high if whole else float(high))
    elif choices := get_args(field.annotation):
        descriptor.additional_constraints = f"one of: {', '.join(map(str, choices))}"
    return descriptor
