"""What a part of the method gains, told from seeds."""

import pytest

from tc_mmwm_core.evaluation.proofs.proofs import gains
from tc_mmwm_core.training.ablation import Row


def rows(full: list[float], without: list[float]) -> list[Row]:
    return [
        *(Row("full", seed, {"error": value}) for seed, value in enumerate(full)),
        *(Row("no_x", seed, {"error": value}) for seed, value in enumerate(without)),
    ]


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ([0.5, 0.6, 0.7], "pays"),  # the error is 0.3 higher without it, whatever the seed
        ([0.1, 0.2, 0.3], "costs"),
        ([0.5, 0.6, 0.1], "no clear difference"),
        ([0.21, 0.9, 0.45], "no clear difference"),  # better under every seed, and yet three seeds do not tell
    ],
)
def test_a_part_pays_where_the_seeds_leave_no_doubt(without, says):
    found = gains(rows([0.2, 0.3, 0.4], without), "error", higher_is_better=False, full="full")["no_x"]
    assert found["verdict"] == says and found["seeds"] == 3
    assert found["gain"] == pytest.approx(sum(without) / 3 - 0.3) and found["low"] <= found["gain"] <= found["high"]


def test_seeds_are_compared_with_themselves():
    """The seeds differ tenfold more than the variants do."""
    found = gains(rows([1.0, 2.0, 3.0], [1.1, 2.11, 3.1]), "error", higher_is_better=False, full="full")
    assert found["no_x"]["verdict"] == "pays"


def test_one_seed_tells_nothing():
    found = gains(rows([1.0], [9.0]), "error", higher_is_better=False, full="full")["no_x"]
    assert found["verdict"] == "no clear difference" and found["gain"] == 8.0
