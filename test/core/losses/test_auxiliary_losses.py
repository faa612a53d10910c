"""The losses beside the method's own against plain float64 NumPy loops, their gradients against finite differences."""

from functools import partial

import numpy as np
import pytest
import torch

from tc_mmwm_core.losses.field import field
from tc_mmwm_core.losses.keypoints import keypoints
from tc_mmwm_core.losses.margin import margin_regression
from tc_mmwm_core.losses.place import place
from tc_mmwm_core.losses.progress import progress
from tc_mmwm_core.losses.proposal import median_proposal, proposal
from tc_mmwm_core.losses.reconstruction import reconstruction
from tc_mmwm_core.losses.referring import presence, referring
from tc_mmwm_core.losses.visibility import visibility

B, T, R = 3, 4, 2


def huber(distance, delta):
    return distance**2 / 2 if distance <= delta else delta * (distance - delta / 2)


def check(loss, expected, predicted, *others):
    """Value and gradient of ``loss(predicted, *others)``."""
    tensors = [torch.tensor(other) for other in others]
    argument = torch.tensor(predicted, requires_grad=True)
    assert loss(argument, *tensors).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: loss(p, *tensors), (argument,))


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


@pytest.mark.parametrize("prudence", [1.0, 4.0])
def test_margin_regression_is_its_formula(rng, prudence):
    v, score, mask = 2 * rng.normal(size=(B, T, R)), rng.normal(size=(B, T, R)), rng.random((B, T, R)) < 0.6
    expected = 0.0
    for i in np.ndindex(B, T, R):
        if mask[i]:
            expected += (prudence if v[i] < score[i] else 1) * huber(abs(v[i] - score[i]), 1.0) / B
    check(partial(margin_regression, prudence=prudence), expected, v, score, mask)


def test_with_prudence_what_cannot_be_known_is_foretold_at_an_upper_quantile():
    margin = torch.linspace(-50, 50, 1001)[None]
    v = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([v], lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        margin_regression(v.expand_as(margin), margin, torch.ones(1, 1001, dtype=torch.bool), prudence=4.0).backward()
        optimizer.step()
    assert v.item() == pytest.approx(30, abs=1)  # 4 / (1 + 4) of them are below


def test_proposal_is_its_formula(rng):
    shape = (B, T, R)
    proposed, recorded, mask = rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 2)), rng.random(shape) < 0.6
    expected = sum(np.linalg.norm(proposed[i] - recorded[i]) ** 2 for i in np.ndindex(shape) if mask[i]) / B
    check(proposal, expected, proposed, recorded, mask)
    expected = sum(np.abs(proposed[i] - recorded[i]).sum() for i in np.ndindex(shape) if mask[i]) / B
    check(median_proposal, expected, proposed, recorded, mask)


def test_presence_is_its_formula(rng):
    logit, there, mask = 3 * rng.normal(size=(B, T)), rng.random((B, T)) < 0.5, rng.random((B, T)) < 0.6
    expected = 0.0
    for i in np.ndindex(B, T):
        chance = 1 / (1 + np.exp(-logit[i]))
        expected -= mask[i] * np.log(chance if there[i] else 1 - chance) / B
    check(presence, expected, logit, there, mask)


@pytest.mark.parametrize("prudence", [1.0, 4.0])
def test_field_is_its_formula(rng, prudence):
    predicted, target, mask = rng.normal(size=(B, T, 3, 5)), rng.normal(size=(B, T, 3, 5)), rng.random((B, T)) < 0.6
    expected = 0.0
    for i in np.ndindex(B, T):
        if mask[i]:
            gaps = (predicted[i] - target[i]).flat
            expected += np.mean([(prudence if gap < 0 else 1) * huber(abs(gap), 0.2) / 0.2 for gap in gaps]) / B
    check(partial(field, prudence=prudence), expected, predicted, target, mask)


def test_visibility_is_its_formula(rng):
    logit, mask = 3 * rng.normal(size=(B, T, R)), rng.random((B, T)) < 0.6
    visible = np.where(rng.random((B, T, R)) < 0.7, rng.random((B, T, R)), np.nan)
    expected = 0.0
    for b, t, p in np.ndindex(B, T, R):
        if np.isnan(visible[b, t, p]):
            continue
        chance = 1 / (1 + np.exp(-logit[b, t, p]))
        entropy = visible[b, t, p] * np.log(chance) + (1 - visible[b, t, p]) * np.log(1 - chance)
        expected -= mask[b, t] * entropy / R / B
    check(visibility, expected, logit, visible, mask)


def test_keypoints_are_their_formula(rng):
    height, width = 3, 4
    logits, place = 2 * rng.normal(size=(B, T, R, height, width)), rng.uniform(-1.2, 1.2, (B, T, R, 2))
    mask = rng.random((B, T, R)) < 0.6
    expected = 0.0
    for index in np.ndindex(B, T, R):
        chance = np.exp(logits[index]) / np.exp(logits[index]).sum()
        column = np.clip((place[index][0] + 1) / 2 * width - 0.5, 0, width - 1)
        row = np.clip((1 - place[index][1]) / 2 * height - 0.5, 0, height - 1)
        for j, i in np.ndindex(height, width):
            share = max(0, 1 - abs(row - j)) * max(0, 1 - abs(column - i))
            expected -= mask[index] * share * np.log(chance[j, i]) / B
    place[~mask] = np.nan
    check(keypoints, expected, logits, place, mask)


def test_place_is_its_formula(rng):
    located, target, mask = rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)), rng.random((B, T)) < 0.6
    located[0, 0] = target[0, 0] + 0.02  # within delta of it, too
    mask[0, 0] = True
    expected = sum(huber(g, 0.05) / 0.05 for i in np.ndindex(B, T) if mask[i] for g in abs(located[i] - target[i])) / B
    check(place, expected, located, target, mask)


def test_unknown_targets_reach_neither_value_nor_gradient():
    """NaN stands for what nobody knows; it is masked, and masking must hold for the gradient as well."""
    known = torch.tensor([[True, False]])

    def pair(*shape):
        target = torch.randn(1, 2, *shape)
        target[:, 1] = torch.nan
        return torch.randn(1, 2, *shape, requires_grad=True), target

    pairs = {margin_regression: pair(), proposal: pair(2), field: pair(3, 3), place: pair(2)}
    for loss, (predicted, target) in pairs.items():
        value = loss(predicted, target, known)
        value.backward()
        assert value.isfinite() and value > 0, loss.__name__
        assert predicted.grad.isfinite().all() and (predicted.grad[:, 1] == 0).all(), loss.__name__
