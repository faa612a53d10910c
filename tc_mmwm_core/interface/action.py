"""Commands: from message to action vector (converter) and back (planner)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.path import UNREADABLE, parse_path
from tc_mmwm_core.interface.robot import ActionSpec


def read_action(message: Any, spec: ActionSpec) -> np.ndarray | Fault:
    """float32 [A] in units, as commanded, also where it is beyond the limits; or the fault of the message."""
    action = np.empty(len(spec.fields), np.float32)
    for index, field in enumerate(spec.fields):
        try:
            action[index] = parse_path(field.path).get(message)
        except UNREADABLE as error:
            return Fault(FaultKind.WRONG_TYPE, f"action.{field.name}", f"{spec.topic}: no {field.path}: {error}")
        if not np.isfinite(action[index]):
            return Fault(FaultKind.NON_FINITE, f"action.{field.name}", f"{spec.topic}: {field.path} is {action[index]}")
    return action


def write_action(message: Any, spec: ActionSpec, action: np.ndarray) -> None:
    """Fill ``action`` [A] (units) into a message of ``spec.type``; its frame too, its stamp is the caller's."""
    for field, value in zip(spec.fields, action, strict=True):
        parse_path(field.path).set(message, float(value))
    if hasattr(message, "header"):
        message.header.frame_id = spec.frame_id
