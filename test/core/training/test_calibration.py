"""The bound is checked as it is stated: over many calibration sets, against the true risk of the threshold."""

from math import comb

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from tc_mmwm_core.training.calibration import (
    CalibrationError,
    Threshold,
    betting_p_value,
    binomial_p_value,
    calibrate,
    miss_rate,
    trajectories_needed,
)

ALPHA, DELTA, SETS = 0.1, 0.1, 300
# More sets than this exceed α with probability 0.001 if each does with probability δ.
TOLERATED = binom.ppf(0.999, SETS, DELTA)


def test_one_sequence_a_trajectory_the_bound_holds_and_is_not_wasteful():
    rng = np.random.default_rng(0)
    risks = []
    for _ in range(SETS):
        tau = calibrate(rng.normal(1.0, 1.0, size=150), np.arange(150), ALPHA, DELTA).tau
        risks.append(norm.cdf(tau, 1.0, 1.0))
    exceeding = np.sum(np.array(risks) > ALPHA)
    assert exceeding <= TOLERATED
    assert exceeding > SETS * DELTA / 4  # a threshold that accepts nothing would pass the line above
    assert np.mean(risks) > ALPHA / 2


def test_grouped_sequences_the_bound_holds_where_counting_windows_singly_breaks_it():
    """Windows share their trajectory's luck: score = trajectory's + window's, 1 to 20 windows each."""
    rng = np.random.default_rng(1)
    trajectory_std, window_std = 1.0, 0.1
    spread = np.hypot(trajectory_std, window_std)
    grouped, single = [], []
    for _ in range(SETS):
        owners = np.repeat(np.arange(100), rng.integers(1, 21, size=100))
        scores = rng.normal(0, trajectory_std, 100)[owners] + rng.normal(0, window_std, len(owners))
        calibration = calibrate(scores, owners, ALPHA, DELTA)
        assert calibration.method == "betting"
        assert (calibration.n, calibration.sequences) == (100, len(owners))
        grouped.append(norm.cdf(calibration.tau, 0, spread))
        single.append(norm.cdf(calibrate(scores, np.arange(len(owners)), ALPHA, DELTA).tau, 0, spread))
    assert np.sum(np.array(grouped) > ALPHA) <= TOLERATED
    assert np.mean(grouped) > ALPHA / 4
    assert np.sum(np.array(single) > ALPHA) > TOLERATED


def test_scores_with_ties_the_bound_holds():
    rng = np.random.default_rng(2)
    levels, weights = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0.04, 0.05, 0.11, 0.8])
    exceeding = 0
    for _ in range(SETS):
        tau = calibrate(rng.choice(levels, p=weights, size=200), np.arange(200), ALPHA, DELTA).tau
        exceeding += weights[levels <= tau].sum() > ALPHA
    assert exceeding <= TOLERATED


def test_the_threshold_is_the_order_statistic_of_clopper_and_pearson():
    """k misses may be tolerated while the upper confidence limit of k of n is at most α."""
    scores = np.random.default_rng(3).normal(size=200).astype(np.float32)
    tolerated = max(k for k in range(200) if beta.ppf(1 - DELTA, k + 1, 200 - k) <= ALPHA)
    calibration = calibrate(scores, np.arange(200), ALPHA, DELTA)
    assert np.sum(scores <= np.float32(calibration.tau)) == tolerated
    assert np.sort(scores)[tolerated] == np.nextafter(np.float32(calibration.tau), np.float32(np.inf))
    assert calibration.method == "binomial"
    assert calibration.empirical_miss == pytest.approx(tolerated / 200)
    assert miss_rate(scores, np.arange(200), calibration.tau) == pytest.approx(calibration.empirical_miss)


def test_p_values_are_their_formulas():
    n, alpha, delta = 60, 0.1, 0.05
    losses = np.zeros(n)
    losses[[3, 40]] = 1
    exact = sum(comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(3))
    assert binomial_p_value(losses, alpha) == pytest.approx(exact)
    losses[3] = 0.25
    wealth, highest, square, mean = 1.0, 1.0, 0.25, 0.5
    for i, loss in enumerate(losses, start=1):
        variance = square / i
        wealth *= 1 - min(1, np.sqrt(2 * np.log(1 / delta) / (n * variance))) * (loss - alpha)
        highest = max(highest, wealth)
        mean = (0.5 + losses[:i].sum()) / (1 + i)
        square += (loss - mean) ** 2
    assert betting_p_value(losses, alpha, delta) == pytest.approx(1 / highest)
    assert betting_p_value(np.full(n, 0.5), alpha, delta) == 1.0


@pytest.mark.parametrize("shape", [(1, 9), (0.1, 0.9), (4, 36)])
def test_betting_is_a_p_value_whatever_the_losses_are_distributed_like(shape):
    """Losses of mean α: p ≤ δ in no more than δ of all draws."""
    rng = np.random.default_rng(7)
    draws = rng.beta(*shape, size=(2 * SETS, 120))
    wrong = sum(betting_p_value(losses, ALPHA, DELTA) <= DELTA for losses in draws)
    assert wrong <= binom.ppf(0.999, 2 * SETS, DELTA)
    assert all(betting_p_value(losses, ALPHA, DELTA) <= DELTA for losses in draws[:20] / 10)


def test_shares_that_vary_little_leave_more_room_than_hits_and_misses_do():
    """Half of the windows of one trajectory in five missed: as large a risk as one in ten missed whole."""
    whole = np.tile([1.0] + [0.0] * 19, 20)
    shares = np.tile([0.25] + [0.0] * 4, 80)
    assert whole.mean() == shares.mean() == 0.05
    assert betting_p_value(shares, 0.075, DELTA) < betting_p_value(whole, 0.075, DELTA) / 4


def test_too_few_trajectories_are_refused_with_how_many_are_needed():
    assert trajectories_needed(0.05, 0.05) == 59
    scores = np.linspace(1, 2, 58)
    with pytest.raises(CalibrationError, match=r"58 held-out .* by 0.05 with confidence 0.95: at least 59 are needed"):
        calibrate(scores, np.arange(58), 0.05, 0.05)
    with pytest.raises(CalibrationError, match="2 held-out"):  # many windows do not make many trajectories
        calibrate(np.ones(1000), np.arange(1000) % 2, 0.05, 0.05)
    with pytest.raises(CalibrationError, match="0 held-out"):
        calibrate([], [], 0.05, 0.05)
    calibration = calibrate(np.append(scores, 3), np.arange(59), 0.05, 0.05)
    assert calibration.tau < 1.0
    assert calibration.empirical_miss == 0.0
    several = trajectories_needed(0.05, 0.05, single=False)
    assert 59 < several < 80
    with pytest.raises(CalibrationError, match=f"{several - 1} held-out .* at least {several} are needed"):
        calibrate(np.ones(2 * several - 2), np.arange(2 * several - 2) // 2, 0.05, 0.05)
    calibrate(np.ones(2 * several), np.arange(2 * several) // 2, 0.05, 0.05)


def test_more_trajectories_never_need_a_stricter_bound_than_fewer_of_the_same_scores():
    scores = np.random.default_rng(4).normal(size=100)
    few = calibrate(scores, np.arange(100), ALPHA, DELTA)
    many = calibrate(np.tile(scores, 10), np.arange(1000), ALPHA, DELTA)
    assert many.tau > few.tau


def test_labels_may_be_names_and_order_does_not_matter():
    rng = np.random.default_rng(5)
    owners = np.repeat([f"episode-{i}" for i in range(80)], 3)
    scores = rng.normal(size=240)
    shuffled = rng.permutation(240)
    assert calibrate(scores, owners, ALPHA, DELTA) == calibrate(scores[shuffled], owners[shuffled], ALPHA, DELTA)


def test_what_cannot_be_scored_is_refused_by_place():
    scores = np.ones(100)
    scores[7] = np.nan
    with pytest.raises(CalibrationError, match="score 7 is nan"):
        calibrate(scores, np.arange(100), ALPHA, DELTA)
    with pytest.raises(CalibrationError, match=r"shape \[3\] for 2 trajectory labels"):
        calibrate(np.ones(3), np.arange(2), ALPHA, DELTA)
    with pytest.raises(CalibrationError, match="alpha is 0"):
        calibrate(np.ones(3), np.arange(3), 0, DELTA)


def test_the_record_survives_json_and_keeps_its_decisions():
    scores = np.random.default_rng(6).normal(size=120).astype(np.float32)
    calibration = calibrate(scores, np.arange(120), ALPHA, DELTA)
    again = Threshold.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    assert np.sum(scores <= np.float32(again.tau)) == round(calibration.empirical_miss * 120)
