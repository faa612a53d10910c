"""Random erasing: how much is hidden, for how long, and that a share of a batch is hidden as the whole is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tc_mmwm_core.training.erasing import AREA, erase

BATCH, STEPS, SIDE = 400, 6, 40


def erased(share: float, rows: slice = slice(None), steps: int = STEPS) -> np.ndarray:
    """Which pixels of white images were painted over in grey, bool [B, T, H, W]."""
    image = torch.full((BATCH, steps, SIDE, SIDE, 3), 255, dtype=torch.uint8)[rows].clone()
    erase([image], share, np.random.default_rng(0), BATCH, rows)
    return (image != 255).all(-1).numpy()


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


def test_cameras_are_hidden_in_different_places():
    one, other = (torch.full((BATCH, 1, SIDE, SIDE, 3), 255, dtype=torch.uint8) for _ in range(2))
    erase([one, other], 1.0, np.random.default_rng(0), BATCH)
    assert (one != other).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("rows", [slice(0, 100), slice(100, 400)])
def test_a_share_of_a_batch_is_hidden_as_in_the_whole(rows):
    np.testing.assert_array_equal(erased(0.5, rows), erased(0.5)[rows])
