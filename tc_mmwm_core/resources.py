"""Where the shipped files are: config/ and bundles/ of a ROS 2 workspace, a pip installation or a source checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tc_mmwm_core.config import did_you_mean


class ResourceError(FileNotFoundError):
    """A shipped file is not where any installation puts it."""


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. ``resource("config", "robots", "navigation.yaml")``.

    Raises:
        ResourceError: names every place that was looked at.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    roots = [Path(prefix) / "share" / "tc_mmwm_ros" for prefix in prefixes if prefix]
    candidates = [root.joinpath(*parts) for root in [*roots, Path(__file__).resolve().parents[1]]]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ResourceError(f"{'/'.join(parts)} not found; looked at: {', '.join(map(str, candidates))}")


def robot_file(name: str) -> Path:
    """A shipped robot interface, by its name, with or without ``.yaml``.

    Raises:
        ResourceError: there is none; names those that there are.
    """
    folder = resource("config", "robots")
    shipped = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if (stem := name.removesuffix(".yaml")) in shipped:
        return shipped[stem]
    told = f"robot interface {name}: no such file; shipped are {', '.join(shipped)}"
    raise ResourceError(told + did_you_mean(Path(stem).name, shipped))


def robot_given(path: Path) -> Path:
    """The robot interface that a user means: a file, else a shipped one by its name. Raises as :func:`robot_file`."""
    return path if path.is_file() else robot_file(str(path))
