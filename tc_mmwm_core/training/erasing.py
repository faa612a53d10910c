"""Random erasing (Zhong et al., 2020): training windows in which a part of the view is hidden.

A model that has always seen everything takes what hides a zone for free floor. One that has seen parts hidden learns to
remember what it saw there, or else that what is named and nowhere to be seen is behind what hides the view.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.labels import per_cell

AREA = (0.05, 0.35)  # share of the image
ASPECT = (0.5, 2.0)  # height over width


def erase(batch: Batch, share: float, rng: np.random.Generator, windows: int, rows: slice = slice(None)) -> Batch:
    """Paint rectangles of one grey over the images.

    What hides the view stays for a while, then is gone or somewhere else: at a random step of each window one rectangle
    gives way to another. Each of them is there in ``share`` of the windows, and is another one for each camera.

    Args:
        rng: draws for all ``windows`` of the whole batch, of which this one holds the ``rows``.
    """
    images, visible = [image.numpy().copy() for image in batch.images], []
    for image in images:
        shown = np.ones(image.shape[:-1], np.float32)
        change = rng.integers(image.shape[1], size=windows)
        for before in (True, False):
            y, x = _spans(image.shape[2:4], rng, windows)
            grey, hidden = rng.integers(256, size=windows), rng.random(windows) < share
            for window, drawn in enumerate(np.arange(windows)[rows]):
                if hidden[drawn]:
                    steps = slice(0, change[drawn]) if before else slice(change[drawn], None)
                    painted = (window, steps, slice(*y[drawn]), slice(*x[drawn]))
                    image[painted], shown[painted] = int(grey[drawn]), 0.0
        visible.append(per_cell(shown))
    shown, before = np.concatenate(visible, -1), batch.visible.numpy()
    # From when a rectangle is there on it is known that it hides, and that it does no more once it is gone.
    known = (shown < 1).cumsum(1) > 0
    seen = np.where(known, shown * np.nan_to_num(before, nan=1.0), before)
    return replace(batch, images=[torch.from_numpy(image) for image in images], visible=torch.from_numpy(seen))


def _spans(shape: tuple[int, int], rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last row, first and last column of rectangles in an image of ``shape``, each [count, 2]."""
    area, aspect = rng.uniform(*AREA, count), np.exp(rng.uniform(*np.log(ASPECT), count))
    spans = []
    for size, ratio in zip(shape, (aspect, 1 / aspect), strict=True):
        length = np.minimum(np.rint(np.sqrt(area * ratio) * size).astype(int), size)
        first = rng.integers(size - length + 1)
        spans.append(np.stack([first, first + length], 1))
    return spans[0], spans[1]
