import math

import numpy as np
import pytest
import torch
from torch import nn

from tc_mmwm_core.training.optimizer import NonFiniteGradientError, OptimizerConfig, build_optimizer, clip_and_step


def test_two_clipped_adam_steps_are_those_of_the_papers():
    """Adam (Kingma & Ba, algorithm 1) on a gradient scaled to norm 1, in plain NumPy."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizer([parameter], OptimizerConfig())
    x, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t in (1, 2):
        gradient = np.array([3.0, 4.0]) * t
        parameter.grad = torch.tensor(gradient)
        norm = clip_and_step(optimizer, clip_norm=1.0)
        assert norm.item() == pytest.approx(5.0 * t)
        assert parameter.grad is None
        gradient = gradient / np.linalg.norm(gradient)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x = x - 3e-4 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-6)


def test_a_gradient_below_the_limit_is_left_alone():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.grad = torch.tensor([0.3, -0.4])
    assert clip_and_step(optimizer, clip_norm=1.0).item() == pytest.approx(0.5)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.3, 0.4]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model.parameters(), OptimizerConfig())
    model(torch.ones(1, 2)).sum().backward()
    model.bias.grad[0] = bad
    before = model.weight.detach().clone()
    with pytest.raises(NonFiniteGradientError, match=str(bad)):
        clip_and_step(optimizer, 1.0)
    assert torch.equal(model.weight, before)
    assert not optimizer.state


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert build_optimizer(model.parameters(), OptimizerConfig()).param_groups[0]["params"] == [model.weight]
