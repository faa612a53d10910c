"""The bound is checked as it is stated: over many calibration sets, against the true risk of the threshold."""

from math import comb

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from tc_mmwm_core.evaluation.calibration import (
    Calibration,
    CalibrationError,
    binomial_p_value,
    calibrate,
    hoeffding_bentkus_p_value,
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
        assert calibration.method == "hoeffding-bentkus"
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
    n, alpha, misses = 60, 0.1, 2
    exact = sum(comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(misses + 1))
    assert binomial_p_value(misses / n, n, alpha) == pytest.approx(exact)
    risk = 2 / n
    h = risk * np.log(risk / alpha) + (1 - risk) * np.log((1 - risk) / (1 - alpha))
    assert hoeffding_bentkus_p_value(risk, n, alpha) == pytest.approx(min(np.exp(-n * h), np.e * exact))
    assert hoeffding_bentkus_p_value(0.0, n, alpha) == pytest.approx((1 - alpha) ** n)
    assert hoeffding_bentkus_p_value(0.5, n, alpha) == 1.0


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
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    assert np.sum(scores <= np.float32(again.tau)) == round(calibration.empirical_miss * 120)
