"""What a training run leaves beside its checkpoints, and what it shows while it goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tc_mmwm_core.training.figures import training_figure
from tc_mmwm_core.training.progress_bar import ProgressBar
from tc_mmwm_core.utils.files import write_atomically
from tc_mmwm_core.utils.reproducibility import environment

try:
    # TensorBoard: what people watch training runs with. Optional: metrics.jsonl holds the same numbers.
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
FIGURE = "training.png"


class Run:
    """The folder of one training run; a context manager. Only the first of several processes makes one.

    ::

        config.yaml        every hyperparameter, defaults included
        environment.json   versions, git revision, platform: one entry each time the run was started or resumed
        metrics.jsonl      one JSON object a line: step, stage, time, and metrics by name
        tensorboard/       the same, where the tensorboard package is there
        training.png       their curves, drawn when the run ends
        batch-<step>.pt    the batch on which training had to stop
    """

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any], *, resume_step: int = 0, progress: bool = True
    ) -> None:
        """Open ``folder``.

        Args:
            config: the resolved configuration, of plain types.
            resume_step: the step of the checkpoint that the run goes on from, 0 without one. Records of later steps,
                which the run will make again, are dropped.
            progress: show progress bars.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = progress
        starts = self._starts() if resume_step else []
        starts.append({"started": _now(), "resumed_from_step": resume_step, **environment()})
        _write(self.folder / ENVIRONMENT, json.dumps(starts, indent=2) + "\n")
        _write(self.folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        metrics = self.folder / METRICS
        if metrics.exists():
            kept = [record for record in read_metrics(metrics) if record["step"] <= resume_step]
            _write(metrics, "".join(json.dumps(record) + "\n" for record in kept))
        self._metrics = metrics.open("a", encoding="utf-8")
        self._tensorboard = None
        if SummaryWriter is not None:
            self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"), purge_step=resume_step + 1)

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

    def stage(self, name: str, steps: int, first: int = 0) -> ProgressBar:
        """A progress bar over ``steps`` optimizer steps, of which ``first`` are done."""
        return ProgressBar(name, steps, first, shown=self.progress)

    def close(self) -> None:
        """Close the files and draw the figure."""
        self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        records = list(read_metrics(self.folder / METRICS))
        if records:
            training_figure(records).savefig(self.folder / FIGURE, dpi=120)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else a full disk has been told of already, and that error must not be hidden
                raise

    def _starts(self) -> list[Any]:
        path = self.folder / ENVIRONMENT
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def save_batch(folder: Path, step: int, batch: Any, rank: int = 0) -> Path:
    """Keep the batch (a dataclass of tensors) of a step that failed; ``torch.load`` reads it back as a dict.

    Of several processes each may keep its own share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"batch-{step}-process-{rank}.pt" if rank else f"batch-{step}.pt")
    torch.save({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}, path)
    return path


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


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
