"""The proof that a training run survives being killed: the final weights are bitwise those of an unbroken run."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.run import METRICS


class ResumeError(RuntimeError):
    """A training process failed by itself; its last words are in the message."""


def prove(config: TrainConfig, data: Sequence[Path], folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Train once unbroken and once killed by SIGKILL at ``kills`` random moments, each time a process of its own.

    Moments are steps drawn uniformly over the run, and a random delay within the step after.

    Returns:
        ``steps`` of the run; ``kills``: for each the step last seen and the seconds the process had lived;
        ``sha256`` of all tensors of model and average of both runs; ``differing`` names of tensors; ``bitwise_equal``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    rng = random.Random(seed)
    whole, broken = folder / "unbroken", folder / "killed"
    begun = time.monotonic()
    _finish(_start(file, data, whole))
    steps = _steps(whole)
    step_seconds = (time.monotonic() - begun) / steps
    moments = []
    for step in sorted(rng.randint(0, steps - 1) for _ in range(kills)):
        begun, begun_ns = time.monotonic(), time.time_ns()
        process = _start(file, data, broken)
        try:
            while process.poll() is None and _steps(broken, since=begun_ns) < step:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, step_seconds))
            ended = process.poll() is not None
        finally:
            process.kill()
            errors = process.communicate()[1]
        if ended and process.returncode:
            raise ResumeError(f"training stopped by itself: {errors.decode(errors='replace')[-2000:]}")
        moments.append({"step": _steps(broken), "lived_s": time.monotonic() - begun, "had_ended": ended})
    _finish(_start(file, data, broken))
    first, second = _tensors(whole), _tensors(broken)
    differing = sorted(name for name in first.keys() | second.keys() if not _same(first.get(name), second.get(name)))
    return {
        "steps": steps,
        "kills": moments,
        "tensors": len(first),
        "sha256": {"unbroken": _digest(first), "killed": _digest(second)},
        "differing": differing,
        "bitwise_equal": not differing,
    }


def _start(config: Path, data: Sequence[Path], output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tc_mmwm_core", "train", "--config", str(config), "--output", str(output)]
    command += ["--data", *map(str, data), "--threads", "1", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen) -> None:
    errors = process.communicate()[1]
    if process.returncode:
        raise ResumeError(f"training failed ({process.returncode}): {errors.decode(errors='replace')[-2000:]}")


def _steps(run: Path, since: int = 0) -> int:
    """Steps that have been logged, a line that a kill cut off being none; 0 until written to after ``since``, ns."""
    path = run / METRICS
    return path.read_bytes().count(b"\n") if path.exists() and path.stat().st_mtime_ns >= since else 0


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    parts = read_checkpoint(run / LAST)["parts"]
    return {f"{part}.{name}": value for part in ("model", "ema") for name, value in parts[part].items()}


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
