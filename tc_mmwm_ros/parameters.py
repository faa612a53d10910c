"""ROS parameters from a pydantic configuration: name, default, description and range are written down once, there."""

from __future__ import annotations

import math
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from tc_mmwm_core.config import Config

INTEGER_MAX = 2**53  # what YAML, JSON and doubles carry without loss


def declare_config(node: Node, model: type[Config], prefix: str = "", leave_out: frozenset[str] = frozenset()) -> None:
    """Declare a parameter for every field of ``model``; fields of nested models get dotted names."""
    for name, field in model.model_fields.items():
        full = prefix + name
        if full in leave_out:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            declare_config(node, field.annotation, f"{full}.", leave_out)
        else:
            node.declare_parameter(full, field.default, _descriptor(field))


def read_config(node: Node, model: type[Config], prefix: str = "", leave_out: frozenset[str] = frozenset()) -> dict:
    """The values of what ``declare_config`` declared, nested as ``model`` is."""
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
