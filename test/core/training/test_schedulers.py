import math

import pytest
import torch

from tc_mmwm_core.training.optimizer import OptimizerConfig, build_optimizer
from tc_mmwm_core.training.schedulers import build_scheduler


def start(warmup, total):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer = build_optimizer(model.parameters(), OptimizerConfig(learning_rate=0.1))
    return model, optimizer, build_scheduler(optimizer, total, warmup)


def train(model, optimizer, scheduler, steps):
    rates = []
    for _ in steps:
        rates.append(optimizer.param_groups[0]["lr"])
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return rates


def test_rises_to_the_peak_and_falls_by_half_a_cosine():
    rates = train(*start(4, total=24), range(30))
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    for step in range(4, 24):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 4) / 20))
        assert rates[step] == pytest.approx(0.1 * cosine)
    assert rates[24:] == [0] * 6


@pytest.mark.parametrize("broken_at", [1, 3, 4, 11, 19])
def test_a_resumed_run_has_the_rates_and_weights_of_an_unbroken_one_bit_for_bit(broken_at):
    whole = start(4, 20)
    rates = train(*whole, range(20))

    first = start(4, 20)
    before = train(*first, range(broken_at))
    saved = [part.state_dict() for part in first]
    resumed = start(4, 20)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    after = train(*resumed, range(broken_at, 20))

    assert before + after == rates
    assert torch.equal(whole[0].weight, resumed[0].weight)


def test_no_warmup_starts_at_the_peak():
    assert train(*start(0, 10), range(1)) == [0.1]


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps is 10, less than the 10 optimizer steps"):
        start(10, 10)
