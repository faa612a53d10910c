"""The progress bar of training: losses, samples a second, time left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

# tqdm: the bar that people know, with rate and time left.
from tqdm import tqdm


class ProgressBar:
    """One bar over the optimizer steps of a stage."""

    def __init__(self, stage: str, total_steps: int, first_step: int = 0, stream: TextIO | None = None) -> None:
        """Start at ``first_step`` of ``total_steps`` (a resumed stage starts in the middle)."""
        stream = stream or sys.stderr
        self._samples = 0
        self._bar = tqdm(
            desc=stage,
            total=total_steps,
            initial=first_step,
            unit="step",
            file=stream,
            dynamic_ncols=True,
            # In a log file each refresh is a line of its own.
            mininterval=0.5 if stream.isatty() else 30.0,
        )

    def update(self, samples: int, losses: Mapping[str, float] | None = None) -> None:
        """One step is done, on ``samples`` trajectories; ``losses`` are shown until the next are given."""
        self._samples += samples
        if losses is not None:
            elapsed = self._bar.format_dict["elapsed"]
            rate = {"samples/s": f"{self._samples / elapsed:.0f}"} if elapsed > 0 else {}
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in losses.items()} | rate, refresh=False)
        self._bar.update()

    def write(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.write(message, file=self._bar.fp)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
