"""Random erasing: how much is hidden, for how long, and that a share of a batch is hidden as the whole is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tc_mmwm_core.models.encoders import CELL
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.erasing import AREA, erase

BATCH, STEPS, SIDE = 400, 6, 40


def white(cameras: int = 1, rows: slice = slice(None), steps: int = STEPS) -> Batch:
    """A batch of white images; nothing else is looked at."""
    count = len(range(BATCH)[rows])
    images = [torch.full((count, steps, SIDE, SIDE, 3), 255, dtype=torch.uint8) for _ in range(cameras)]
    rest = {field.name: torch.zeros(count) for field in dataclasses.fields(Batch)}
    unknown = torch.full((count, steps, cameras * (SIDE // CELL) ** 2), torch.nan)
    return Batch(**(rest | {"images": images, "visible": unknown}))


def erased(share: float, rows: slice = slice(None), steps: int = STEPS) -> np.ndarray:
    """Which pixels of white images were painted over in grey, bool [B, T, H, W]."""
    batch = erase(white(rows=rows, steps=steps), share, np.random.default_rng(0), BATCH, rows)
    return (batch.images[0] != 255).all(-1).numpy()


@pytest.mark.parametrize("steps", [1, STEPS])
def test_hides_as_much_of_as_many_windows_as_was_asked_for(steps):
    area = erased(0.5, steps=steps)[:, -1].mean((1, 2))
    some = area[area > 0]
    assert 0.4 < len(some) / BATCH < 0.6
    assert some.min() > AREA[0] - 0.02 and some.max() < AREA[1] + 0.02
    assert not erased(0.0, steps=steps).any()


def test_what_hides_is_a_rectangle_that_stays_until_another_takes_its_place():
    hidden = erased(1.0)
    changes = (hidden[:, 1:] != hidden[:, :-1]).any((2, 3))
    assert changes.sum(1).max() == 1 and changes.any(0).all()  # once a window at most, at any step
    for view in hidden[:, [0, -1]].reshape(-1, SIDE, SIDE):
        rows, columns = np.flatnonzero(view.any(1)), np.flatnonzero(view.any(0))
        if len(rows):  # where it was painted white, nothing shows
            assert view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_cameras_are_hidden_in_different_places_and_the_batch_tells_where():
    batch = erase(white(cameras=2), 1.0, np.random.default_rng(0), BATCH)
    one, other = batch.images
    assert (one != other).flatten(1).any(1).float().mean() > 0.9
    cells = (SIDE // CELL) ** 2
    assert batch.visible.shape == (BATCH, STEPS, 2 * cells)
    for image, visible in zip((one, other), batch.visible.split(cells, -1), strict=True):
        painted = ((image != 255).all(-1)).float().mean((2, 3))
        grey = painted > 0  # where it was painted white, the images do not tell
        torch.testing.assert_close((1 - visible.nan_to_num(1.0)).mean(-1)[grey], painted[grey])
        known = (visible.nan_to_num(1.0) < 1).cumsum(1) > 0
        assert torch.equal(visible.isfinite(), known), "known is what is hidden, and that it is no more"


def test_what_the_robot_hides_stays_hidden_and_what_is_known_stays_known():
    batch = white()
    batch.visible[:, 2:, :7] = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    after = erase(batch, 0.5, np.random.default_rng(0), BATCH).visible
    shown = erase(white(), 0.5, np.random.default_rng(0), BATCH).visible.nan_to_num(1.0)
    torch.testing.assert_close(after[:, 2:, :7], shown[:, 2:, :7] * batch.visible[:, 2:, :7])


@pytest.mark.parametrize("rows", [slice(0, 100), slice(100, 400)])
def test_a_share_of_a_batch_is_hidden_as_in_the_whole(rows):
    np.testing.assert_array_equal(erased(0.5, rows), erased(0.5)[rows])
