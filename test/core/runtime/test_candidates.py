import numpy as np
import pytest

from tc_mmwm_core.runtime.candidates import CandidateError, read_candidates

GOOD = {"fields": ["forward", "turn"], "count": 2, "horizon": 3, "actions": list(range(12))}


def test_of_a_time_that_never_was_they_are_refused(navigation):
    with pytest.raises(CandidateError, match=r"header.stamp: -2.500 s, allowed are 0 s and later"):
        read_candidates("policy", -2_500_000_000, **GOOD, interface=navigation, expected_horizon=3, max_count=2)


def test_row_major(navigation):
    candidates = read_candidates("policy", 7, **GOOD, interface=navigation, expected_horizon=3, max_count=2)
    assert candidates.actions.shape == (2, 3, 2) and candidates.actions.dtype == np.float32
    assert candidates.stamp_ns == 7
    assert candidates.actions[1, 0].tolist() == [6, 7]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fields": ["turn", "forward"]}, r"fields: \['turn', 'forward'\], .* \['forward', 'turn'\]"),
        ({"horizon": 4}, "horizon: 4 latent steps, the model bundle imagines 3"),
        ({"count": 0}, "count: 0, allowed are 1 to 2"),
        ({"count": 3}, "count: 3, allowed are 1 to 2"),
        ({"actions": [0.0] * 11}, "actions: 11 numbers, needed are count x horizon x fields = 12"),
    ],
)
def test_what_does_not_fit_is_named(navigation, wrong, message):
    with pytest.raises(CandidateError, match=message):
        read_candidates("policy", 7, **(GOOD | wrong), interface=navigation, expected_horizon=3, max_count=2)
