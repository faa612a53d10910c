"""Seeds, determinism, random state and a record of what a run was made with (training procedure, section 12)."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGES = ("tc-mmwm", "torch", "numpy", "scipy", "mujoco", "onnx", "onnxruntime", "tokenizers", "pydantic")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device); the same in each process of a run, which make the same model."""
    mixed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def use_deterministic_algorithms() -> None:
    """Make torch pick deterministic algorithms, and warn by name where an operation has none.

    On CUDA, cuBLAS reads its workspace setting when it is first used: call this before.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.backends.cudnn.benchmark = False


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch, of plain types and tensors only.

    ``torch.load(weights_only=True)`` reads it back.
    """
    algorithm, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (algorithm, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave; draws go on as they would have.

    States of CUDA devices are put back where this machine has as many; elsewhere they mean nothing.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def environment() -> dict[str, Any]:
    """Versions, source revision, platform and command line of this process, of JSON types only; never raises."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],  # without the folder that it happens to be installed in
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu_threads": torch.get_num_threads(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "git": git_revision(Path(__file__).parent),
    }


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the work tree that ``folder`` is in and whether files were changed since, or None.

    None too where git is missing, or where the work tree around an installed package is not this project's.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or not (Path(top) / "tc_mmwm_core" / "__init__.py").is_file():
        return None
    commit = _git(folder, "rev-parse", "HEAD")  # None before the first commit
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The CPU's model name; Linux tells it only there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
