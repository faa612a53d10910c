"""``pip install .``: tc_mmwm_core and the ``tc-mmwm`` command, without ROS. colcon builds CMakeLists.txt instead."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Lines of ``requirements/<name>`` and of the files that it includes, without comments."""
    found = []
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        found += requirements(line.removeprefix("-r").strip()) if line.startswith("-r") else [line] * bool(line)
    return found


def shipped(folder: str) -> list[tuple[str, list[str]]]:
    """Files below ``folder``, to be installed under share/ as colcon does."""
    files = (path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    return [(f"share/tc_mmwm_ros/{path.parent.as_posix()}", [path.as_posix()]) for path in files]


package = ElementTree.parse(ROOT / "package.xml").getroot()

setup(
    name="tc_mmwm_core",
    version=package.findtext("version"),
    description="A world model that imagines each candidate action and rejects those that would break the instruction.",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["tc_mmwm_core", "tc_mmwm_core.*"]),
    install_requires=requirements("core.txt"),
    extras_require={name: requirements(f"{name}.txt") for name in ("lerobot", "manipulation", "pretrained", "test")},
    data_files=[*shipped("config"), *shipped("bundles")],
    entry_points={"console_scripts": ["tc-mmwm = tc_mmwm_core.cli:main"]},
)
