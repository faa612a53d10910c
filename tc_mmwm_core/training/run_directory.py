"""What a training run leaves beside its checkpoints: resolved config, versions, metrics, TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tc_mmwm_core.utils.reproducibility import environment

try:
    # TensorBoard: what people watch training runs with. Optional: metrics.jsonl holds the same numbers.
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"


class RunDirectory:
    """Writes a run's records into one folder. Only the first of several processes makes one.

    ::

        config.yaml        every hyperparameter, defaults included
        environment.json   versions, git revision, platform; one entry each time the run was started or resumed
        metrics.jsonl      one JSON object a line: step, stage, time, and metrics by name such as loss/raw/state
        tensorboard/       the same, where the tensorboard package is there
    """

    def __init__(self, path: str | Path, config: BaseModel, *, resume_step: int | None = None) -> None:
        """Open ``path``.

        Args:
            config: the resolved configuration.
            resume_step: the step of the checkpoint that the run goes on from (0 where it was killed before the first).
                Records of later steps, which the run will make again, are dropped. None starts afresh.

        Raises:
            FileExistsError: a run to start afresh finds the records of another.
        """
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        metrics = self.path / METRICS
        if resume_step is None and metrics.exists():
            raise FileExistsError(
                f"{metrics}: another run's records are here; resume that run, or choose another folder"
            )
        starts = _read_json(self.path / ENVIRONMENT) if resume_step is not None else []
        starts.append({"started": _now(), "resumed_from_step": resume_step, **environment()})
        _write(self.path / ENVIRONMENT, json.dumps(starts, indent=2) + "\n")
        _write(self.path / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        if resume_step is not None and metrics.exists():
            kept = [record for record in read_metrics(metrics) if record["step"] <= resume_step]
            _write(metrics, "".join(json.dumps(record) + "\n" for record in kept))
        self._metrics = metrics.open("a", encoding="utf-8")
        purge = None if resume_step is None else resume_step + 1
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge) if SummaryWriter else None

    def log(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append the metrics of ``step``; they are in the file when this returns.

        A value that is not finite is written as null, which JSON has, and not as NaN, which it has not.
        """
        values = {name: float(value) for name, value in metrics.items()}
        record = {"step": step, "stage": stage, "time": _now()}
        record.update({name: value if math.isfinite(value) else None for name, value in values.items()})
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a ``metrics.jsonl``. A last line that a kill cut off is left out.

    Raises:
        ValueError: another line is not a JSON object with a step; names file and line.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict) or "step" not in record:
            raise ValueError(f"{path}:{number}: a JSON object with 'step' is needed, found {line.strip()[:60]}")
        yield record


def _read_json(path: Path) -> list[Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
