"""Each loss of the method against a plain float64 NumPy loop written from its formula, and its gradient against finite
differences."""

import numpy as np
import pytest
import torch

from tc_mmwm_core.losses.action_consistency import action_consistency, action_distance
from tc_mmwm_core.losses.constraint_violation import constraint_violation
from tc_mmwm_core.losses.counterfactual_rollout import counterfactual_rollout
from tc_mmwm_core.losses.state_prediction import state_prediction
from tc_mmwm_core.losses.violation_hinge import violation_hinge

B, T, D, K, M, A = 3, 5, 4, 4, 3, 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensor(array, grad=False):
    return torch.tensor(array, requires_grad=grad)


def test_state_prediction_is_its_formula(rng):
    predicted, target, mask = rng.normal(size=(B, T, D)), rng.normal(size=(B, T, D)), rng.random((B, T)) < 0.7
    expected = 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                expected += sum((predicted[b, t, d] - target[b, t, d]) ** 2 for d in range(D)) / B
    assert state_prediction(tensor(predicted), tensor(target), tensor(mask)).item() == pytest.approx(
        expected, rel=1e-12
    )
    assert torch.autograd.gradcheck(
        lambda p, z: state_prediction(p, z, tensor(mask)), (tensor(predicted, True), tensor(target, True))
    )


def test_counterfactual_rollout_is_its_formula(rng):
    shape = (B, T, K - 1, D)
    predicted, target, mask = rng.normal(size=shape), rng.normal(size=shape), rng.random(shape[:-1]) < 0.7
    expected = 0.0
    for b in range(B):
        for t in range(T):
            for k in range(2, K + 1):
                if mask[b, t, k - 2]:
                    expected += np.linalg.norm(predicted[b, t, k - 2] - target[b, t, k - 2]) ** 2 / B
    value = counterfactual_rollout(tensor(predicted), tensor(target), tensor(mask)).item()
    assert value == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda p, z: counterfactual_rollout(p, z, tensor(mask)), (tensor(predicted, True), tensor(target, True))
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_action_consistency_is_its_formula(rng, scaled):
    predicted, actions = rng.normal(size=(B, T, M, D)), rng.normal(size=(B, T, M, A))
    mask, eps = rng.random((B, T)) < 0.7, 0.1
    expected = 0.0
    for b in range(B):
        for t in range(T):
            for i in range(M):
                for j in range(M):
                    if i != j and mask[b, t]:
                        scale = np.linalg.norm(actions[b, t, i] - actions[b, t, j]) if scaled else 1.0
                        expected += scale / (np.linalg.norm(predicted[b, t, i] - predicted[b, t, j]) + eps) / B
    scale = action_distance(tensor(actions)) if scaled else None
    value = action_consistency(tensor(predicted), tensor(mask), eps, scale).item()
    assert value == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda p: action_consistency(p, tensor(mask), eps, scale), (tensor(predicted, True),)
    )


def test_action_consistency_of_coinciding_futures_is_bounded_and_pushes_the_rest_apart():
    predicted = torch.zeros(1, 1, 3, D, dtype=torch.float64)
    predicted[0, 0, 2, 0] = 1.0
    predicted.requires_grad_()
    loss = action_consistency(predicted, torch.ones(1, 1, dtype=torch.bool), eps=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(2 * (1 / 0.5 + 1 / 1.5 + 1 / 1.5))
    assert predicted.grad.isfinite().all()
    assert predicted.grad[0, 0, 2, 0] < 0  # a descent step moves it further away
    assert predicted.grad[0, 0, 0, 0] > 0


def test_action_consistency_refuses_eps_zero():
    with pytest.raises(ValueError, match="eps is 0"):
        action_consistency(torch.zeros(1, 1, 2, D), torch.ones(1, 1, dtype=torch.bool), eps=0)


def test_constraint_violation_is_its_formula(rng):
    v, mask = rng.normal(size=(B, T)), rng.random((B, T)) < 0.7
    expected = sum(max(0.0, v[b, t]) for b in range(B) for t in range(T) if mask[b, t]) / B
    assert constraint_violation(tensor(v), tensor(mask)).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: constraint_violation(x, tensor(mask)), (tensor(v, True),))


def test_violation_hinge_counts_only_steps_labelled_violating(rng):
    v, label, margin = rng.normal(size=(B, T, K)), rng.integers(-1, 2, size=(B, T, K)).astype(np.int8), 0.7
    expected = sum(max(0.0, margin - x) for x, y in zip(v.flat, label.flat, strict=True) if y == 1) / B
    assert violation_hinge(tensor(v), tensor(label), margin).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: violation_hinge(x, tensor(label), margin), (tensor(v, True),))


def test_the_two_hinges_leave_no_constant_score_that_is_best():
    """Σ max(0, v) alone is zero for v ≡ −1; together they are zero only where the score follows the label."""
    label = torch.tensor([[0, 0, 1, 1]])
    for constant in (-1.0, 0.0, 1.0):
        v = torch.full((1, 4), constant)
        assert constraint_violation(v, label == 0) + violation_hinge(v, label, 0.5) > 0
    v = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    assert constraint_violation(v, label == 0) + violation_hinge(v, label, 0.5) == 0


@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 1e30])
def test_padding_reaches_neither_value_nor_gradient(padding):
    mask = torch.tensor([[True, False]])

    def padded(*shape):
        values = torch.randn(1, 2, *shape)
        values[:, 1] = padding
        return values.requires_grad_()

    predicted, candidates, imagined, v = padded(D), padded(M, D), padded(1, D), padded()
    loss = (
        state_prediction(predicted, torch.zeros(1, 2, D), mask)
        + action_consistency(candidates, mask, 0.1)
        + counterfactual_rollout(imagined, torch.zeros(1, 2, 1, D), mask[..., None])
        + constraint_violation(v, mask)
        + violation_hinge(v, mask.int(), 1.0)
    )
    loss.backward()
    assert loss.isfinite()
    for values in (predicted, candidates, imagined, v):
        assert values.grad.isfinite().all()
        assert (values.grad[:, 1] == 0).all()


def test_shapes_that_would_broadcast_are_refused_with_both_shown():
    mask = torch.ones(B, T, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"predicted has shape \[3, 5, 4\], target has \[3, 1, 4\]"):
        state_prediction(torch.zeros(B, T, D), torch.zeros(B, 1, D), mask)
    with pytest.raises(ValueError, match=r"mask has shape \[3, 5\], .* \[3, 4, 4\]"):
        state_prediction(torch.zeros(B, T - 1, D), torch.zeros(B, T - 1, D), mask)
    with pytest.raises(ValueError, match=r"values has shape \[3, 5, 1\], mask has \[3, 5\]"):
        constraint_violation(torch.zeros(B, T, 1), mask)
    with pytest.raises(ValueError, match=r"distance_scale has shape \[3, 5, 3\]"):
        action_consistency(torch.zeros(B, T, M, D), mask, 0.1, torch.zeros(B, T, M))


def test_shares_of_a_batch_average_to_the_whole():
    """Data-parallel and accumulated gradients equal the whole batch's although the trajectories differ in length."""
    predicted, target = torch.randn(4, T, D, dtype=torch.float64), torch.randn(4, T, D, dtype=torch.float64)
    mask = torch.arange(T) < torch.tensor([[5], [1], [2], [3]])
    whole = state_prediction(predicted, target, mask)
    shares = [state_prediction(predicted[s], target[s], mask[s]) for s in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(whole, sum(shares) / 2)
