import math

import pytest
import torch

from tc_mmwm_core.config import ConfigError, parse
from tc_mmwm_core.losses.total_loss import LossWeights, total_loss


def test_the_methods_weights_are_the_default():
    terms = {
        name: torch.tensor(float(value))
        for name, value in {"state": 2, "action": 3, "constraint": 5, "rollout": 7}.items()
    }
    total, raw, weighted = total_loss(terms, LossWeights())
    assert total.item() == pytest.approx(1.0 * 2 + 0.5 * 3 + 1.0 * 5 + 0.3 * 7)
    assert raw == terms
    assert {name: value.item() for name, value in weighted.items()} == pytest.approx(
        {"state": 2, "action": 1.5, "constraint": 5, "rollout": 2.1}
    )


def test_gradient_is_the_weight():
    terms = {"state": torch.tensor(1.0, requires_grad=True), "rollout": torch.tensor(1.0, requires_grad=True)}
    total, raw, weighted = total_loss(terms, LossWeights(rollout=0.25))
    total.backward()
    assert terms["state"].grad == 1.0
    assert terms["rollout"].grad == 0.25
    assert not any(value.requires_grad for value in [*raw.values(), *weighted.values()])


def test_a_term_switched_off_is_logged_and_cannot_poison_the_total():
    terms = {"state": torch.tensor(1.0), "action": torch.tensor(math.nan)}
    total, raw, weighted = total_loss(terms, LossWeights(action=0.0))
    assert total == 1.0
    assert raw["action"].isnan()
    assert list(weighted) == ["state"]


def test_unknown_terms_vectors_and_nothing_are_refused():
    with pytest.raises(ValueError, match="'stat' has no weight; known terms: state, action"):
        total_loss({"stat": torch.tensor(1.0)}, LossWeights())
    with pytest.raises(ValueError, match=r"'state' has shape \[2\]"):
        total_loss({"state": torch.zeros(2)}, LossWeights())
    with pytest.raises(ValueError, match="no loss term"):
        total_loss({}, LossWeights())


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match="'state' is"):
        parse({"state": value}, LossWeights, "train.yaml")


def test_a_misspelt_weight_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'rollout'"):
        parse({"rolout": 1.0}, LossWeights, "train.yaml")
