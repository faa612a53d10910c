import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import integrate

from tc_mmwm_core.losses.sigreg import random_directions, sigreg


def epps_pulley(samples, directions, mask):
    """The statistic of one test, in plain NumPy loops over projections and knots."""
    samples = samples[mask]
    knots = np.linspace(0, 3, 17)
    total = 0.0
    for direction in directions.T:
        values = []
        for t in knots:
            phi = np.mean(np.exp(1j * t * (samples @ direction)))
            values.append(abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2))
        total += 2 * len(samples) * integrate.trapezoid(values, knots)
    return total / directions.shape[1]


def test_is_its_formula_and_its_gradient():
    rng = np.random.default_rng(0)
    samples, mask = rng.normal(size=(2, 6, 3)) * 1.5, rng.random((2, 6)) < 0.7
    directions = random_directions(3, 5, seed=0, dtype=torch.float64)
    torch.testing.assert_close(directions.square().sum(0), torch.ones(5, dtype=torch.float64))
    expected = np.mean([epps_pulley(samples[i], directions.numpy(), mask[i]) for i in range(2)])
    tensors = torch.tensor(samples, requires_grad=True), directions, torch.tensor(mask)
    assert sigreg(*tensors).item() == pytest.approx(expected, rel=1e-10)
    assert torch.autograd.gradcheck(lambda x: sigreg(x, *tensors[1:]), tensors[:1])


@pytest.mark.parametrize("count", [16, 128, 1024])
def test_gaussian_value_is_the_same_at_any_batch_and_collapse_grows_with_it(count):
    gaussian = 2 * integrate.quad(lambda t: (1 - np.exp(-(t**2))) * np.exp(-(t**2) / 2), 0, 3)[0]
    collapse = 2 * integrate.quad(lambda t: (1 - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), 0, 3)[0]
    assert gaussian == pytest.approx(1.05, abs=0.005)
    assert collapse == pytest.approx(0.40, abs=0.005)

    directions = random_directions(32, 64, seed=1, dtype=torch.float64)
    draws = torch.randn(8192 // count, count, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert sigreg(draws, directions).item() == pytest.approx(gaussian, rel=0.15)
    zeros = torch.zeros(count, 32, dtype=torch.float64)
    assert sigreg(zeros, directions).item() == pytest.approx(collapse * count, rel=0.005)


def test_descending_it_turns_a_narrow_cloud_into_a_standard_gaussian():
    generator = torch.Generator().manual_seed(3)
    samples = (0.1 * torch.randn(256, 4, generator=generator) + 1.0).requires_grad_()
    optimizer = torch.optim.Adam([samples], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(samples, random_directions(4, 32, seed=step)).backward()
        optimizer.step()
    assert samples.mean(0).abs().max() < 0.15
    torch.testing.assert_close(samples.var(0), torch.ones(4), atol=0.25, rtol=0)


def test_padding_and_empty_groups_do_not_count():
    directions = random_directions(3, 8, seed=0)
    samples = torch.randn(3, 10, 3)
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[1, 4:] = False
    mask[2] = False
    poisoned = torch.where(mask[..., None], samples, torch.nan).requires_grad_()
    value = sigreg(poisoned, directions, mask)
    value.backward()
    torch.testing.assert_close(value, (sigreg(samples[0], directions) + sigreg(samples[1, :4], directions)) / 2)
    assert poisoned.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"mask has shape \[10\], \[3, 10\] is needed"):
        sigreg(samples, directions, mask[0])


def test_autocast_does_not_coarsen_it():
    samples, directions = torch.randn(64, 16), random_directions(16, 32, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = sigreg(samples, directions)
    torch.testing.assert_close(value, sigreg(samples, directions), rtol=0, atol=0)


def test_directions_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = random_directions(4, 6, seed=7)
    torch.rand(3)
    torch.testing.assert_close(random_directions(4, 6, seed=7), first, rtol=0, atol=0)
    assert not torch.equal(random_directions(4, 6, seed=8), first)


SHARE = """
import sys, torch, torch.distributed as dist
torch.set_num_threads(1)
from tc_mmwm_core.losses.sigreg import sigreg
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
samples, mask, directions = torch.load(f"{folder}/whole.pt")
scale = torch.ones((), dtype=torch.float64, requires_grad=True)  # stands for the parameters
share = slice(rank * 4, rank * 4 + 4)
value = sigreg(scale * samples[:, share], directions, mask[:, share], group=dist.group.WORLD)
value.backward()
dist.all_reduce(scale.grad)
torch.save((value.detach(), scale.grad / 2), f"{folder}/{rank}.pt")  # averaged, as DistributedDataParallel does
dist.destroy_process_group()
"""


@pytest.mark.timeout(600)  # two processes import torch: seconds on a free machine, minutes on a busy one
def test_two_processes_give_the_value_and_gradient_of_the_whole_batch(tmp_path):
    samples = torch.randn(3, 8, 5, dtype=torch.float64)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[0, 1:6] = False  # unequal shares
    directions = random_directions(5, 16, seed=0, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    whole = sigreg(scale * samples, directions, mask)
    whole.backward()

    torch.save((samples, mask, directions), tmp_path / "whole.pt")
    shares = [subprocess.Popen([sys.executable, "-c", SHARE, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [share.wait(timeout=570) for share in shares] == [0, 0]
    finally:
        for share in shares:
            share.kill()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), (whole.detach(), scale.grad))
