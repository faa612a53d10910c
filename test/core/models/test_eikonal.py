"""Cost to go over a map."""

import numpy as np
import pytest
import skfmm
import torch

from tc_mmwm_core.models import eikonal
from tc_mmwm_core.models.eikonal import REACH, cost_to_go, slowness_of

FAR = 50.0


def goal(shape, row, column):
    stop = torch.full((1, *shape), FAR)
    stop[0, row, column] = 0
    return stop


def test_in_the_open_it_is_the_distance():
    value = cost_to_go(torch.full((1, 16, 24), 0.2), goal((16, 24), 3, 4))[0].numpy()
    rows, columns = np.mgrid[:16, :24]
    np.testing.assert_allclose(value, 0.2 * np.hypot(rows - 3, columns - 4), rtol=0.1, atol=0.05)


def test_around_a_wall_it_is_what_fast_marching_finds():
    slowness = torch.full((1, 16, 16), 0.2)
    slowness[0, 8, :11] = 20.0
    value = cost_to_go(slowness, goal((16, 16), 13, 2))[0].numpy()
    distance = np.hypot(*(np.mgrid[:16, :16] - np.array([13, 2])[:, None, None])) - 0.5
    expected = skfmm.travel_time(distance, 1 / slowness[0].numpy(), order=1) + 0.1
    beside = value > 0  # the goal's own cell is 0 here, and its mean there
    np.testing.assert_allclose(value[beside], expected[beside], rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_every_place_but_the_goal_has_a_neighbour_that_is_nearer(seed):
    slowness = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 + 0.05
    value = cost_to_go(slowness, goal((16, 16), 5, 9).expand(3, -1, -1)).numpy()
    around = np.pad(value, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    shifts = [around[:, 1 + i : 17 + i, 1 + j : 17 + j] for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    nearer = np.min(shifts, 0) < value
    assert nearer.sum(axis=(1, 2)).tolist() == [255] * 3 and not nearer[:, 5, 9].any()


def test_maps_do_not_mix_and_half_precision_is_not_used():
    slowness, stop = torch.rand(4, 8, 6) + 0.1, torch.rand(4, 8, 6) * 9
    with torch.autocast("cpu", torch.bfloat16):
        together = cost_to_go(slowness.bfloat16(), stop.bfloat16())
    assert together.dtype == torch.float32
    for n in range(4):
        alone = cost_to_go(slowness[n : n + 1].bfloat16(), stop[n : n + 1].bfloat16())
        torch.testing.assert_close(together[n : n + 1], alone)


def settled_step_by_step(slowness, stop):
    value = stop
    for _ in range(sum(stop.shape[:2])):
        value = eikonal._upwind(value, slowness, stop)
    return value


@pytest.mark.parametrize("shape", [(4, 4, 1), (7, 12, 5)])
def test_sweeps_in_place_are_the_steps_to_the_last_bit(shape):
    generator = torch.Generator().manual_seed(1)
    slowness, stop = torch.rand(shape, generator=generator) + 0.05, torch.rand(shape, generator=generator) * 9
    given = slowness.clone(), stop.clone()
    assert torch.equal(eikonal._sweep(slowness, stop), settled_step_by_step(slowness, stop))
    assert torch.equal(slowness, given[0]) and torch.equal(stop, given[1])  # only its own buffers are written over


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_gives_what_the_sweeps_give_each_time_that_it_is_launched():
    for seed in range(3):
        generator = torch.Generator("cuda").manual_seed(seed)
        slowness = torch.rand(16, 16, 6, generator=generator, device="cuda") + 0.05
        stop = torch.rand(16, 16, 6, generator=generator, device="cuda") * 9
        assert torch.equal(eikonal._settled(slowness, stop), eikonal._sweep(slowness, stop))


def test_gradients_are_those_of_finite_differences_within_their_reach():
    generator = torch.Generator().manual_seed(0)
    slowness = (torch.rand(1, 4, 4, generator=generator) + 0.2).requires_grad_()
    stop = goal((4, 4), 1, 1).requires_grad_()
    assert sum(slowness.shape[1:]) <= REACH
    value = cost_to_go(slowness, stop)
    value.sum().backward()
    for tensor in (slowness, stop):
        for cell in ((0, 0), (1, 1), (3, 2)):
            nudge = torch.zeros_like(tensor)
            nudge[(0, *cell)] = 1e-2
            with torch.no_grad():
                up, down = (
                    (slowness + s * nudge, stop) if tensor is slowness else (slowness, stop + s * nudge)
                    for s in (1, -1)
                )
                slope = (cost_to_go(*up).sum() - cost_to_go(*down).sum()) / 2e-2
            assert tensor.grad[(0, *cell)] == pytest.approx(slope.item(), abs=0.05)


def test_slowness_is_read_off_the_cost_to_go():
    torch.manual_seed(0)
    slowness, stop = torch.rand(2, 9, 11) + 0.05, torch.full((2, 9, 11), 50.0)
    stop[:, 4, 5] = 0
    found = slowness_of(cost_to_go(slowness, stop))
    slowness[:, 4, 5] = 1e-4  # the goal
    torch.testing.assert_close(found, slowness, atol=1e-3, rtol=1e-3)
