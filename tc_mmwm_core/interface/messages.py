"""What the standard ROS 2 messages hold, so that a robot interface with a wrong type or path is refused when read."""

from __future__ import annotations

import re
from functools import cache

# rosbags: carries the definitions of ROS 2's common messages as data, without a ROS installation.
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from tc_mmwm_core.config import did_you_mean
from tc_mmwm_core.interface.path import NAMES, FieldPath

_SCALARS = re.compile(r"(bool|byte|char|octet|u?int(8|16|32|64)|float(32|64))$")


@cache
def _definitions() -> dict:
    return get_typestore(Stores.LATEST).fielddefs


def check_type(name: str) -> str:
    """``name`` itself. Raises ValueError where it is no message type, or a misspelt one of a standard package.

    Types of other packages pass: their definition is only known where they are installed or recorded.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*", name):
        raise ValueError(f"'{name}' is not a message type; write package/msg/Name, e.g. sensor_msgs/msg/LaserScan")
    package = name.split("/")[0] + "/"
    known = [other for other in _definitions() if other.startswith(package)]
    if known and name not in known:
        raise ValueError(f"{package[:-1]} has no message '{name}'{did_you_mean(name, known)}")
    return name


def check_path(message_type: str, path: FieldPath, many: bool, number: bool = True) -> None:
    """Walk ``path`` through the definition of ``message_type``, where that is known.

    Args:
        many: the path must end at an array (of numbers), not at one number.
        number: False where the path ends at a message instead, e.g. at an orientation.

    Raises:
        ValueError: names the step that does not exist and what could stand there.
    """
    if message_type not in _definitions():
        return
    parent = node = (Nodetype.NAME, message_type)
    for step in path.steps:
        kind, detail = node
        if isinstance(step, str):
            parent = node
            fields = dict(_definitions().get(detail, ((), ()))[1]) if kind == Nodetype.NAME else {}
            if step not in fields:
                found = f"{detail} has {', '.join(fields)}" if fields else "what is before it has no fields"
                hint = did_you_mean(step, fields)
                raise ValueError(f"path '{path.text}': {message_type} has no '{step}' there: {found}{hint}")
            node = fields[step]
        else:
            if kind not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                raise ValueError(f"path '{path.text}': what stands before {step!r} is not an array in {message_type}")
            if isinstance(step, tuple):
                fields = dict(_definitions()[parent[1]][1])
                if not any(fields.get(names, (None,))[0] == Nodetype.SEQUENCE for names in NAMES):
                    raise ValueError(
                        f"path '{path.text}': {parent[1]} has no list {' or '.join(NAMES)} that names its elements; "
                        "take one by its index, e.g. [0]"
                    )
            if not isinstance(step, slice):
                node = detail[0]
    kind, detail = node
    if not number:
        if kind != Nodetype.NAME:
            raise ValueError(f"path '{path.text}' ends at a number or an array; this transform needs an orientation")
        return
    if many and kind not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        raise ValueError(f"path '{path.text}' of {message_type} is one value, but 'size' asks for an array of them")
    if many:
        kind, detail = detail[0]
    elif kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        raise ValueError(f"path '{path.text}' of {message_type} is an array: set 'size', or take one element with [0]")
    if kind != Nodetype.BASE or not _SCALARS.match(detail[0]):
        raise ValueError(f"path '{path.text}' of {message_type} ends at {detail}, which is not a number")
