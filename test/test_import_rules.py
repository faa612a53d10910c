"""Who may import what (docs/architecture.md, "Folders"): read from the sources, and tried by importing."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINING = {"torch", "torchvision", "onnxscript", "tensorboard"}
ROS = {
    "rclpy", "cv_bridge", "launch", "launch_ros", "ament_index_python", "tc_mmwm_ros",
    "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "nav_msgs", "rcl_interfaces",
    "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "visualization_msgs",
}  # fmt: skip
LEARNING = TRAINING | {"tc_mmwm_core.models", "tc_mmwm_core.losses", "tc_mmwm_core.training"}
ON_THE_ROBOT = ["tc_mmwm_core/interface", "tc_mmwm_core/runtime", "tc_mmwm_core/domains"]

# folder -> what nothing below it may import; a name with a dot forbids that subpackage only
RULES = {
    "tc_mmwm_core": ROS,
    **dict.fromkeys([*ON_THE_ROBOT, "tc_mmwm_core/data", "tc_mmwm_ros"], LEARNING),
}

# Of tc_mmwm_core, what each part may import beside itself and EVERYWHERE; evaluation and cli may import all of it.
EVERYWHERE = {"config", "resources", "__version__"}
PARTS = {
    "tc_mmwm_core/interface": set(),
    "tc_mmwm_core/runtime": {"interface", "utils.files"},
    "tc_mmwm_core/data": {"interface", "utils.files"},
    "tc_mmwm_core/domains": {"interface", "runtime", "data", "utils.workers"},
    "tc_mmwm_core/models": set(),
    "tc_mmwm_core/losses": set(),
    "tc_mmwm_core/training": {"interface", "runtime", "data", "domains", "models", "losses", "utils"},
    "tc_mmwm_core/utils": set(),
    "tc_mmwm_ros": {"interface", "runtime", "utils.files"},
    "tc_mmwm_ros/sim_robot.py": {"domains"},  # of these files, besides
    "tc_mmwm_ros/loop.py": {"domains", "evaluation"},
    "tc_mmwm_ros/demo.py": {"domains", "evaluation"},
    # its results are kept with what they were made by: this loads torch, when robot and planner have stopped
    "tc_mmwm_ros/bench_loop.py": {"domains", "evaluation", "utils.results"},
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(source: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import anywhere in ``source``, those inside functions included."""
    package = source.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"), str(source))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def breaks(name: str, forbidden: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in forbidden)


def dotted(source: Path) -> str:
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("folder", RULES)
def test_sources_import_only_what_they_may(folder):
    assert sources(folder), f"{folder} has no sources"
    broken = [
        f"{source.relative_to(ROOT)}:{line} imports {name}"
        for source in sources(folder)
        for line, name in imports(source)
        if breaks(name, RULES[folder])
    ]
    assert not broken, "\n".join(broken)


def strays(part: str) -> Iterator[str]:
    """Each import below ``part`` of a part of core that it may not import."""
    for source in sources(part):
        file = source.relative_to(ROOT)
        may = {part.removeprefix("tc_mmwm_core/"), *EVERYWHERE, *PARTS[part], *PARTS.get(file.as_posix(), ())}
        for line, name in imports(source):
            if breaks(name, {"tc_mmwm_core"}) and not breaks(name, {f"tc_mmwm_core.{each}" for each in may}):
                yield f"{file}:{line} imports {name}"


@pytest.mark.parametrize("part", [part for part in PARTS if not part.endswith(".py")])
def test_a_part_imports_only_the_parts_of_core_that_it_may(part):
    assert not list(strays(part))


def test_what_the_rules_name_is_there():
    """A rule on what was renamed would hold nothing."""
    assert all((ROOT / part).exists() for part in PARTS)
    named = {each for parts in PARTS.values() for each in parts}
    assert all(importlib.util.find_spec(f"tc_mmwm_core.{each}") for each in named | (EVERYWHERE - {"__version__"}))


def test_the_rule_sees_relative_and_nested_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    source = tmp_path / "tc_mmwm_core" / "runtime" / "bad.py"
    source.parent.mkdir(parents=True)
    source.write_text("from ..models import world_model\ndef f():\n    import torch.nn\n")
    assert [name for _, name in imports(source) if breaks(name, RULES["tc_mmwm_core/runtime"])] == [
        "tc_mmwm_core.models.world_model",
        "torch.nn",
    ]


def test_what_one_file_may_others_beside_it_may_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tc_mmwm_ros").mkdir()
    for name in ("sim_robot", "planner"):
        content = "from tc_mmwm_core.runtime import limits\nfrom tc_mmwm_core.domains import grid\n"
        (tmp_path / "tc_mmwm_ros" / f"{name}.py").write_text(content)
    assert list(strays("tc_mmwm_ros")) == ["tc_mmwm_ros/planner.py:2 imports tc_mmwm_core.domains.grid"]


@pytest.mark.parametrize("folder", [*ON_THE_ROBOT, "tc_mmwm_core/data", "tc_mmwm_ros"])
def test_importing_loads_no_torch(folder):
    """In a process of its own: what a module pulls in through others counts too."""
    if folder == "tc_mmwm_ros" and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    modules = [dotted(source) for source in sources(folder)]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'importing {name} loads torch'\n"
    )
    run = subprocess.run([sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", script],
                         cwd=ROOT / "test", capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("module", ["tc_mmwm_ros.planner", "tc_mmwm_ros.recorder", "tc_mmwm_core.data.convert"])
def test_a_robot_needs_requirements_robot_txt_alone(module):
    """What core.txt adds, training and simulation, cannot be imported there."""
    if module.startswith("tc_mmwm_ros") and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    packages = [re.split(r"[<>=]", line)[0] for line in lines if not line.startswith(("#", "-r"))]
    absent = [{"scikit-fmm": "skfmm"}.get(name, name) for name in packages]
    assert "torch" in absent and all(importlib.util.find_spec(name) for name in absent)
    script = f"import sys; sys.modules |= dict.fromkeys({absent!r}); import {module}"
    run = subprocess.run([sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", script],
                         cwd=ROOT / "test", capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr
