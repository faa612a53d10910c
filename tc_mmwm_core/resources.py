"""Where the shipped files are: config/ and bundles/ of a ROS 2 workspace, a pip installation or a source checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
    """A shipped robot interface, by file name."""
    return resource("config", "robots", name)
