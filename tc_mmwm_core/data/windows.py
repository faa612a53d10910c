"""Random windows of T control steps, T drawn from a range, from one or more datasets mixed by weight.

A window never crosses an invalid step or the end of a trajectory. Every draw comes from one NumPy generator, whose
state can be saved and restored, so that a resumed training sees the windows that an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tc_mmwm_core.data.dataset import Dataset, DatasetError
from tc_mmwm_core.data.trajectory import valid_runs


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of B windows of T steps."""

    images: dict[str, np.ndarray]  # name: uint8 [B, T, H, W, C]
    sensor: np.ndarray  # float32 [B, T, Ds], units
    action: np.ndarray  # float32 [B, T, A], units
    valid: np.ndarray  # bool [B, T], all true
    violation: np.ndarray  # int8 [B, T]: 0, 1, -1 unknown
    state: np.ndarray | None  # float32 [B, T, P], NaN where a trajectory has none; None where none has
    dataset: np.ndarray  # int64 [B], which dataset
    trajectory: np.ndarray  # int64 [B], which of its trajectories
    start: np.ndarray  # int64 [B], first step of the window within the trajectory

    def __len__(self) -> int:
        return len(self.start)


class WindowSampler:
    """Draws batches of windows for ever.

    Args:
        datasets: one or more, of the same robot interface.
        batch: windows in a batch.
        length: [shortest, longest] T, both included; each batch has one T. Longest is lowered to the longest run of
            valid steps that a dataset with a share has.
        weights: share of each dataset; by default in proportion to its steps. A batch whose T is longer than any run of
            a dataset is drawn from the others, in proportion to theirs.
        seed: of the generator.
        from_start: windows begin in the first so many steps of a run of valid steps; 0: anywhere in it.

    Raises:
        DatasetError: a dataset has no run of valid steps as long as the shortest T, or the interfaces differ.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        batch: int = 32,
        length: tuple[int, int] = (10, 30),
        weights: Sequence[float] | None = None,
        seed: int = 0,
        from_start: int = 0,
    ):
        shortest, longest = length
        if not 1 <= shortest <= longest or batch < 1:
            raise ValueError(f"length {length} must be (shortest, longest) with 1 <= shortest <= longest, batch >= 1")
        if weights is not None and (len(weights) != len(datasets) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(
                f"weights {weights}: one for each of {len(datasets)} datasets, none negative, some positive"
            )
        for other in datasets[1:]:
            if differing := datasets[0].interface.differences(other.interface):
                raise DatasetError("datasets of different robot interfaces cannot be mixed: " + "; ".join(differing))
        self.datasets = list(datasets)
        self.batch = batch
        self.from_start = from_start
        self._runs = [_valid_runs(dataset) for dataset in datasets]
        self._longest = np.array([runs[:, 2].max(initial=0) for runs in self._runs])  # [datasets], steps
        for dataset, found in zip(datasets, self._longest, strict=True):
            if found < shortest:
                where = ", ".join(map(str, dataset.paths))
                raise DatasetError(f"{where}: longest run of valid steps is {found}, windows need {shortest} or more")
        share = np.asarray([dataset.steps for dataset in datasets] if weights is None else weights, np.float64)
        self.weights = share / share.sum()
        self.length = (shortest, min(longest, int(self._longest[self.weights > 0].max())))
        self._cumulative: dict[tuple[int, int], np.ndarray] = {}
        self._rng = np.random.default_rng(seed)

    def sample(self, rows: slice = slice(None)) -> Windows:
        """The next batch: every window of the drawn T within a dataset, of those asked for, is equally likely.

        ``rows``: only these of its windows are read. Several processes with one seed so share each batch.
        """
        size = int(self._rng.integers(self.length[0], self.length[1] + 1))
        share = np.where(self._longest >= size, self.weights, 0.0)
        if (share != self.weights).any():  # else not divided: the last bit of a share decides a draw now and then
            share /= share.sum()
        dataset = self._rng.choice(len(self.datasets), self.batch, p=share)
        draw = self._rng.random(self.batch)
        trajectory, start = np.empty(self.batch, np.int64), np.empty(self.batch, np.int64)
        for index in np.unique(dataset):
            cumulative = self._windows(int(index), size)
            chosen = dataset == index
            window = np.minimum((draw[chosen] * cumulative[-1]).astype(np.int64), cumulative[-1] - 1)
            run = np.searchsorted(cumulative, window, side="right")
            first = self._runs[index][run, 1]
            trajectory[chosen] = self._runs[index][run, 0]
            start[chosen] = first + window - np.where(run > 0, cumulative[run - 1], 0)
        return self.gather(dataset[rows], trajectory[rows], start[rows], size)

    def gather(self, dataset: np.ndarray, trajectory: np.ndarray, start: np.ndarray, size: int) -> Windows:
        """The windows [start, start + size) of the named trajectories; copies, so they may be written to."""
        places = []
        for d, t, s in zip(dataset.tolist(), trajectory.tolist(), start.tolist(), strict=True):
            first = self.datasets[d].trajectories[t].start + s
            places.append((self.datasets[d].arrays(t), slice(first, first + size)))
        examples = next((arrays for arrays, _ in places if "state" in arrays), places[0][0])
        columns = {
            name: np.empty((len(places), size, *example.shape[1:]), example.dtype) for name, example in examples.items()
        }
        for name, column in columns.items():
            for row, (arrays, rows) in enumerate(places):
                column[row] = arrays[name][rows] if name in arrays else np.nan
        images = {name.removeprefix("image."): column for name, column in columns.items() if name.startswith("image.")}
        columns = {name: column for name, column in columns.items() if not name.startswith("image.")}
        return Windows(
            images=images,
            **({"state": None} | columns),
            dataset=np.asarray(dataset, np.int64),
            trajectory=trajectory,
            start=start,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the draws stand; JSON-able."""
        return self._rng.bit_generator.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken."""
        self._rng.bit_generator.state = state

    def _windows(self, dataset: int, size: int) -> np.ndarray:
        """int64 [runs], cumulative number of windows of ``size`` steps."""
        key = (dataset, size)
        if key not in self._cumulative:
            ways = np.maximum(self._runs[dataset][:, 2] - size + 1, 0)
            self._cumulative[key] = np.cumsum(np.minimum(ways, self.from_start) if self.from_start else ways)
        return self._cumulative[key]


def _valid_runs(dataset: Dataset) -> np.ndarray:
    """int64 [runs, 3]: trajectory, first step, length of each unbroken run of valid steps."""
    runs = [np.empty((0, 3), np.int64)]
    for index, info in enumerate(dataset.trajectories):
        valid = dataset.arrays(index)["valid"][info.start : info.start + info.length]
        first, end = valid_runs(valid)
        runs.append(np.stack([np.full(len(first), index), first, end - first], 1))
    return np.concatenate(runs)
