"""Confidence intervals, against published values and against known truth."""

import numpy as np
import pytest

from tc_mmwm_core.evaluation.intervals import bootstrap, share, student


def test_wilson_s_interval_is_the_published_one():
    found = share([True] * 15 + [False] * 5)  # R, prop.test(15, 20, correct = FALSE)
    assert found["mean"] == 75 and found["n_episodes"] == 20
    assert (found["low"], found["high"]) == pytest.approx((53.13, 88.81), abs=0.01)
    assert np.isnan(share([])["mean"])


def test_student_s_interval_is_the_published_one():
    assert student([4.0, 5.0, 6.0]) == pytest.approx((2.516, 7.484), abs=0.001)  # R, t.test(c(4, 5, 6))
    assert np.isnan(student([4.0])).all()


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(40):
        found = bootstrap(lambda values: float(np.mean(values)), list(rng.normal(5, 1, 40)), seed=trial)
        covered += found["low"] <= 5 <= found["high"]
    assert 34 <= covered <= 40


def test_samples_are_resampled_by_themselves_and_pairs_stay_together():
    pairs = [(x, x) for x in range(10)]
    found = bootstrap(lambda rows: float(np.mean([a - b for a, b in rows])), pairs)
    assert (found["low"], found["mean"], found["high"]) == (0, 0, 0) and found["n_episodes"] == 10
    apart = bootstrap(lambda a, b: float(np.mean(a) - np.mean(b)), list(range(10)), list(range(10)))
    assert apart["mean"] == 0 and apart["low"] < -1 and apart["high"] > 1
