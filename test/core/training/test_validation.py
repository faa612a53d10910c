"""Held-out measures, each where its value is known."""

import numpy as np
import pytest
import torch
from batches import noise_batch, tiny_model

from tc_mmwm_core.training.validation import area_under_curve, correlation, validate


def test_area_under_curve_counts_the_pairs_in_order():
    rng = np.random.default_rng(0)
    score, positive = torch.tensor(rng.integers(0, 6, 40)).float(), torch.tensor(rng.random(40) < 0.4)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[positive].tolist() for n in score[~positive].tolist()]
    assert area_under_curve(score, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_curve(score, torch.ones(40, dtype=torch.bool)))


def test_correlation_is_pearsons():
    x, y = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_shuffled_instructions_change_nothing_for_a_model_without_language_and_something_with():
    batches = [noise_batch(windows=4, seed=seed) for seed in range(2)]
    for on in (True, False):
        measures = validate(tiny_model(use_language=on), batches)
        right, wrong = measures["progress_correlation"], measures["progress_correlation_shuffled"]
        assert (right == pytest.approx(wrong, abs=1e-6)) != on
        assert all(np.isfinite(value) for value in measures.values())


def test_a_model_that_copies_the_latent_predicts_as_well_as_copying():
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.dynamics.change[-1].parameters():
            parameter.zero_()
    assert validate(model, [noise_batch()])["prediction_ratio"] == pytest.approx(1.0)


def test_it_changes_neither_weights_nor_mode():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    validate(model, [noise_batch()])
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
