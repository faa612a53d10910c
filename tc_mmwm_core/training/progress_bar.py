"""The progress bar of training: losses, samples a second, time left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

# tqdm: the bar that people know, with rate and time left.
from tqdm import tqdm

TERMS = 3
"""How many of the loss's terms are shown: the largest."""


class ProgressBar:
    """One bar over the optimizer steps of a stage; a context manager."""

    def __init__(
        self, stage: str, steps: int, first: int = 0, *, shown: bool = True, stream: TextIO | None = None
    ) -> None:
        """Start at step ``first`` of ``steps`` (a resumed stage starts in the middle); ``stream`` is stderr if None."""
        stream = stream or sys.stderr
        self._samples = 0
        self._bar = tqdm(
            desc=stage,
            total=steps,
            initial=first,
            unit="step",
            file=stream,
            disable=not shown,
            dynamic_ncols=True,
            # In a log file each refresh is a line of its own.
            mininterval=0.5 if stream.isatty() else 30.0,
        )

    def update(self, metrics: Mapping[str, float], samples: int) -> None:
        """One step is done on ``samples`` samples; shows ``loss`` and the largest of ``weighted/*`` of ``metrics``."""
        if self._bar.disable:
            return
        self._samples += samples
        terms = {name: value for name, value in metrics.items() if name.startswith("weighted/")}
        largest = sorted(terms, key=terms.__getitem__, reverse=True)[:TERMS]
        shown = {name.removeprefix("weighted/"): f"{metrics[name]:.3g}" for name in ["loss", *largest]}
        elapsed = self._bar.format_dict["elapsed"]
        if elapsed > 0:
            shown["samples/s"] = f"{self._samples / elapsed:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
