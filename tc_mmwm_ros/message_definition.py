"""A message type's definition with everything it refers to, in the form that MCAP calls ``ros2msg``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_path

# rosbags: parses message definitions; rosidl's own parser is not part of every ROS 2 installation.
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg

SEPARATOR = "=" * 80


class MissingTypeError(Exception):
    """A message type's package is not installed, or has no such message."""


def message_class(message_type: str, topic: str) -> type[Any]:
    """The class of ``package/msg/Name``. Raises MissingTypeError that names the package to install for ``topic``."""
    package, _, name = message_type.split("/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ModuleNotFoundError:
        raise MissingTypeError(_missing(package, message_type, topic)) from None
    if not hasattr(module, name):
        raise MissingTypeError(f"topic {topic}: package {package} has no message {name}")
    return getattr(module, name)


def message_definition(message_type: str, topic: str) -> str:
    """The .msg file of ``message_type``, then those of all that it refers to, each under ``MSG: package/Name``."""
    written = [message_type]
    text = _read(message_type, topic)
    queue = _references(text, message_type)
    while queue:
        reference = queue.pop(0)
        if reference in written:
            continue
        written.append(reference)
        definition = _read(reference, topic)
        queue += _references(definition, reference)
        package, _, name = reference.split("/")
        text += f"\n{SEPARATOR}\nMSG: {package}/{name}\n{definition}"
    return text


def _read(message_type: str, topic: str) -> str:
    package, _, name = message_type.split("/")
    try:
        return (Path(get_package_share_path(package)) / "msg" / f"{name}.msg").read_text(encoding="utf-8")
    except PackageNotFoundError:
        raise MissingTypeError(_missing(package, message_type, topic)) from None
    except FileNotFoundError as error:
        raise MissingTypeError(f"topic {topic}: {error.filename} is missing; was {package} installed whole?") from None


def _references(definition: str, message_type: str) -> list[str]:
    """Message types that the fields of one definition have."""
    types = []
    for _, (kind, detail) in get_types_from_msg(definition, message_type)[message_type][1]:
        if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, detail = detail[0]
        if kind == Nodetype.NAME:
            types.append(detail)
    return types


def _missing(package: str, message_type: str, topic: str) -> str:
    apt = package.replace("_", "-")
    return f"topic {topic}: {message_type} needs package {package}, which is not installed (ros-$ROS_DISTRO-{apt})"
