"""Confidence intervals, against published values and against known truth."""

import numpy as np
import pytest

from tc_mmwm_core.evaluation.intervals import clustered, difference, mean, ratio, share, student


def test_wilson_s_interval_is_the_published_one():
    found = share([True] * 15 + [False] * 5)  # R, prop.test(15, 20, correct = FALSE)
    assert found["mean"] == 75 and found["n_episodes"] == 20
    assert (found["low"], found["high"]) == pytest.approx((53.13, 88.81), abs=0.01)
    assert np.isnan(share([])["mean"])


def test_student_s_interval_is_the_published_one():
    assert student([4.0, 5.0, 6.0]) == pytest.approx((2.516, 7.484), abs=0.001)  # R, t.test(c(4, 5, 6))
    assert np.isnan(student([4.0])).all()


def test_the_exact_interval_is_the_published_one_where_each_state_gives_one_candidate():
    found = clustered([(1, 1)] * 15 + [(1, 0)] * 5)  # R, binom.test(15, 20): 0.5090, 0.9134
    assert found["mean"] == 75 and found["n_episodes"] == 20
    assert (found["low"], found["high"]) == pytest.approx((50.90, 91.34), abs=1.5)  # 19 degrees of freedom, not 20


def test_nothing_missed_is_no_certainty():
    """Of k states that never miss, the exact bound is 1 - 0.025^(1/k), however many candidates each gives."""
    for each in (1, 40):
        found = clustered([(each, 0)] * 30)
        assert (found["low"], found["mean"]) == (0, 0) and found["high"] == pytest.approx(11.57, abs=0.01)
        found = clustered([(each, each)] * 30)
        assert (found["high"], found["mean"]) == (100, 100) and found["low"] == pytest.approx(88.43, abs=0.01)
    assert clustered([(40, 0)])["high"] > 95  # one state says next to nothing
    assert np.isnan(clustered([(0, 0)])["mean"]) and np.isnan(clustered([])["low"])
    assert clustered([(0, 0), (3, 1), (2, 0)])["n_episodes"] == 2 and clustered([(0, 0)])["n_episodes"] == 0


def test_candidates_of_one_state_count_less_than_those_of_many():
    alike = clustered([(10, 10), (10, 0)] * 10)
    apart = clustered([(10, 4), (10, 6)] * 10)
    assert alike["mean"] == apart["mean"] == 50
    assert (alike["low"], alike["high"]) == pytest.approx((27, 73), abs=2)  # as 10 of 20
    assert (apart["low"], apart["high"]) == pytest.approx((43, 57), abs=2)  # as 100 of 200


def test_layouts_that_never_differed_may_still_differ():
    found = difference([0] * 50)
    assert found["mean"] == 0 and -8 < found["low"] < -1 and 1 < found["high"] < 8
    gained = difference([0] * 48 + [-1] * 2)  # no loss and two gains, of 50: Newcombe's method 10 gives [-13.5, 3.8]
    assert gained["mean"] == -4
    assert (gained["low"], gained["high"]) == pytest.approx((-13.5, 3.8), abs=3)
    assert np.isnan(difference([])["mean"])


def test_a_ratio_of_what_never_failed_is_no_certainty():
    found = ratio([True] * 30, [True] * 30)
    assert found["mean"] == 100 and 85 < found["low"] < 95 and 105 < found["high"] < 115
    several = ratio([True] * 100, *[[True] * 30] * 4)
    assert several["mean"] == 100 and found["low"] < several["low"] < 99 and several["n_episodes"] == 120
    assert np.isnan(ratio([False] * 10, [True] * 10)["mean"])


RARE, COMMON = (0.96, 0.02, 0.02), (0.5, 0.3, 0.2)


@pytest.mark.parametrize("shares", [RARE, COMMON])
def test_differences_cover_the_truth_about_as_often_as_they_say(shares):
    rng = np.random.default_rng(0)
    found = [difference(rng.choice([0, 1, -1], 50, p=shares), seed) for seed in range(200)]
    truth = 100 * (shares[1] - shares[2])
    assert np.mean([each["low"] <= truth <= each["high"] for each in found]) > 0.91


@pytest.mark.parametrize(("home", "beyond"), [(0.98, 0.97), (0.9, 0.6)])
def test_ratios_cover_the_truth_about_as_often_as_they_say(home, beyond):
    rng = np.random.default_rng(0)
    found = [ratio(rng.random(100) < home, rng.random(30) < beyond, seed=seed) for seed in range(200)]
    assert np.mean([each["low"] <= 100 * beyond / home <= each["high"] for each in found]) > 0.91


def test_ratios_of_several_factors_are_as_often_too_low_as_too_high():
    """Half an observation of each outcome in each of six factors: 11 % of the intervals lay below the truth."""
    rng = np.random.default_rng(0)
    draws = [(rng.random(100) < 0.98, *(rng.random((6, 30)) < 0.99)) for _ in range(300)]
    found = [ratio(*shares, seed=seed) for seed, shares in enumerate(draws)]
    truth = 100 * 0.99 / 0.98
    assert np.mean([each["high"] < truth for each in found]) < 0.06
    assert np.mean([each["low"] <= truth <= each["high"] for each in found]) > 0.91


def test_shares_over_states_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        sizes, chances = rng.integers(1, 40, 40), rng.beta(0.5, 2, 40)
        found = clustered(list(zip(sizes, rng.binomial(sizes, chances), strict=True)))
        covered.append(found["low"] <= 20 <= found["high"])
    assert np.mean(covered) > 0.91


def test_means_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [mean(rng.normal(5, 1, 40), seed) for seed in range(200)]
    assert np.mean([each["low"] <= 5 <= each["high"] for each in found]) > 0.9
    assert mean([3.0])["mean"] == 3 and np.isnan(mean([3.0])["low"]) and np.isnan(mean([])["mean"])
