"""Progress, referring and reconstruction against plain float64 NumPy loops, gradients against finite differences."""

import numpy as np
import pytest
import torch

from tc_mmwm_core.losses.progress import progress
from tc_mmwm_core.losses.reconstruction import reconstruction
from tc_mmwm_core.losses.referring import referring

B, T, R = 3, 4, 2


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_progress_is_its_formula(rng):
    predicted, target, mask = rng.normal(size=(B, T)), rng.normal(size=(B, T)), rng.random((B, T)) < 0.6
    gaps = [abs(predicted[i] - target[i]) for i in np.ndindex(B, T) if mask[i]]
    expected = sum((d**2 / 2 if d <= 0.2 else 0.2 * (d - 0.1)) / 0.2 for d in gaps) / B
    tensors = torch.tensor(predicted, requires_grad=True), torch.tensor(target), torch.tensor(mask)
    assert progress(*tensors).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: progress(p, *tensors[1:]), tensors[:1])


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_referring_is_its_formula(rng, delta):
    shape = (B, T, R)
    predicted, target, mask = rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 2)), rng.random(shape) < 0.6
    expected = 0.0
    for i in np.ndindex(shape):
        for axis in range(2):
            d = abs(predicted[i][axis] - target[i][axis])
            if mask[i]:
                expected += (d**2 / 2 if d <= delta else delta * (d - delta / 2)) / delta / B
    tensors = torch.tensor(predicted, requires_grad=True), torch.tensor(target), torch.tensor(mask)
    assert referring(*tensors, delta).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: referring(p, *tensors[1:], delta), tensors[:1])


def test_referring_slope_far_from_the_target_is_one_whatever_delta():
    for delta in (0.05, 0.5):
        predicted = torch.full((1, 1, 2), 0.9, requires_grad=True)
        referring(predicted, torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), delta).backward()
        torch.testing.assert_close(predicted.grad, torch.ones(1, 1, 2))


def test_reconstruction_is_its_formula(rng):
    predicted, target, mask = rng.random((B, T, 3, 2, 2)), rng.random((B, T, 3, 2, 2)), rng.random((B, T)) < 0.6
    expected = sum(np.mean((predicted[i] - target[i]) ** 2) for i in np.ndindex(B, T) if mask[i]) / B
    tensors = torch.tensor(predicted, requires_grad=True), torch.tensor(target), torch.tensor(mask)
    assert reconstruction(*tensors).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: reconstruction(p, *tensors[1:]), tensors[:1])
