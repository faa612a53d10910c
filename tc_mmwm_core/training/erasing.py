"""Random erasing (Zhong et al., 2020): training windows in which a part of the view is hidden.

A model that has always seen everything takes what hides a zone for free floor. One that has seen parts hidden learns to
remember what it saw there, or else that what is named and nowhere to be seen is behind what hides the view.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

AREA = (0.05, 0.35)  # share of the image
ASPECT = (0.5, 2.0)  # height over width


def erase(images: list[Tensor], share: float, rng: np.random.Generator, batch: int, rows: slice = slice(None)) -> None:
    """Paint rectangles of one grey over images, in place.

    What hides the view stays for a while, then is gone or somewhere else: at a random step of each window one rectangle
    gives way to another. Each of them is there in ``share`` of the windows, and is another one for each camera.

    Args:
        images: one uint8 [B, T, H, W, 3] a camera.
        rng: draws for all ``batch`` windows, of which ``images`` hold the ``rows``.
    """
    for image in images:
        change = rng.integers(image.shape[1], size=batch)
        for before in (True, False):
            y, x = _spans(image.shape[2:4], rng, batch)
            grey, hidden = rng.integers(256, size=batch), rng.random(batch) < share
            for window, drawn in zip(image, np.arange(batch)[rows], strict=True):
                if hidden[drawn]:
                    steps = window[: change[drawn]] if before else window[change[drawn] :]
                    steps[:, slice(*y[drawn]), slice(*x[drawn])] = int(grey[drawn])


def _spans(shape: tuple[int, int], rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last row, first and last column of rectangles in an image of ``shape``, each [count, 2]."""
    area, aspect = rng.uniform(*AREA, count), np.exp(rng.uniform(*np.log(ASPECT), count))
    spans = []
    for size, ratio in zip(shape, (aspect, 1 / aspect), strict=True):
        length = np.minimum(np.rint(np.sqrt(area * ratio) * size).astype(int), size)
        first = rng.integers(size - length + 1)
        spans.append(np.stack([first, first + length], 1))
    return spans[0], spans[1]
