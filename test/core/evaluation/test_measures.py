"""The measures, on records whose answers can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import trapezoid

from tc_mmwm_core.evaluation.closed_loop import Episode
from tc_mmwm_core.evaluation.counterfactual import Truth
from tc_mmwm_core.evaluation.measures import cost, curves, measures, roc
from tc_mmwm_core.evaluation.suite import HOME, Records


def episode(seed: int, success: bool = True, **fields: object) -> Episode:
    defaults = {
        "instruction": "go",
        "distance": float(seed),
        "reached": success,
        "steps": 10 * (seed + 1),
        "violations": 0,
        "named": [],
        "broken": [],
        "stopped": 0,
        "rejected": 0.0,
        "followed": None,
        "latencies": [1.0],
        "contributions": [None] * 5,
    }
    return Episode(seed=seed, success=success, **(defaults | fields))


def test_success_needs_the_goal_and_every_rule():
    home = [episode(0), episode(1, False), episode(2, False, reached=True, violations=3), episode(3)]
    found = measures(Records(None, {HOME: home}))
    assert found["task_success"]["mean"] == 50 and found["goal_reached"]["mean"] == 75
    assert found["constraint_compliance"]["mean"] == 75
    assert found.keys() == {"task_success", "goal_reached", "constraint_compliance"}


def test_latencies_are_percentiles_over_all_decisions():
    """One slow decision of a thousand; the p99 of its own short episode would be slow too."""
    home = [episode(0, latencies=[10.0] * 960), episode(1, latencies=[10.0] * 39 + [500.0])]
    found = cost(Records(None, {HOME: home}))
    assert found["latency_p50_ms"] == found["latency_p99_ms"] == 10
    slow = [episode(0, latencies=[10.0] * 97), episode(1, latencies=[20.0] * 3)]
    assert cost(Records(None, {HOME: slow}))["latency_p99_ms"] == 20


def test_retention_is_relative_to_home_and_one_factor_does_not_make_up_for_another():
    home = [episode(i, i % 5 != 0) for i in range(10)]  # 80 %
    worse = [episode(i, i % 5 < 2) for i in range(10)]  # 40 %
    better = [episode(i) for i in range(10)]  # 100 %
    found = measures(Records(None, {HOME: home, "size": worse, "light": better}))
    assert found["success.size"]["mean"] == pytest.approx(40) and found["retention.size"]["mean"] == pytest.approx(50)
    assert found["retention.light"]["mean"] == 100
    assert found["ood_retention"]["mean"] == pytest.approx(75)
    assert found["ood_retention"]["low"] < 75 < found["ood_retention"]["high"]


def test_the_drop_compares_the_same_layouts():
    home = [episode(0), episode(1), episode(2, False), episode(3, False)]
    hidden = [episode(0), episode(1, False)]  # both succeeded at home: 50 points lost
    noisy = [episode(0), episode(1)]
    found = measures(Records(None, {HOME: home, "occlusion": hidden, "sensor_noise": noisy}))
    assert found["drop.occlusion"]["mean"] == 50 and found["drop.sensor_noise"]["mean"] == 0
    assert found["robustness_drop"]["mean"] == 25 and found["robustness_drop"]["n_episodes"] == 2


def test_compliance_is_told_under_each_factor_and_perturbation():
    harmed = [episode(0, violations=2), episode(1), episode(2), episode(3)]
    found = measures(Records(None, {HOME: [episode(0)], "size": harmed, "occlusion": harmed[:2]}))
    assert found["compliance.size"]["mean"] == 75 and found["compliance.size"]["n_episodes"] == 4
    assert found["compliance.occlusion"]["mean"] == 50 and found["constraint_compliance"]["mean"] == 100


def test_what_never_failed_is_at_its_best_but_not_certain():
    home = [episode(i, i >= 2) for i in range(50)]
    found = measures(Records(None, {HOME: home, "size": [episode(i) for i in range(30)], "occlusion": home[2:]}))
    assert found["retention.size"]["mean"] == 100 and found["retention.size"]["low"] < 98
    assert found["drop.occlusion"]["mean"] == 0 and found["drop.occlusion"]["high"] > 1
    gained = [episode(i) for i in range(50)]  # two succeed only when disturbed
    drop = measures(Records(None, {HOME: home, "occlusion": gained}))["robustness_drop"]
    assert drop["mean"] == 0 and drop["low"] < -4 < drop["high"]


def truth(foretold, broken, progress=(0, 1, 2), outcome=(0, 1, 2), start=0.0, margins=(-1.0, 0.0)) -> Truth:
    rows = [np.array(row, np.float32) for row in foretold], [np.where(row, 0.03, -0.03) for row in broken]
    return Truth(0, list(margins), ["zone", ""], *rows, np.array(progress), np.array(outcome), start)


TRUTH = truth([[0] * 3] * 2, [[0] * 3] * 2)


def test_a_verdict_counts_as_turned_only_where_it_is_right_under_both_instructions():
    # candidate 0 turns and is judged right twice; 1 turns and is rejected under both; 2 does not turn
    rows = truth([[1, 1, -1], [-1, 1, -1]], [[1, 1, 0], [0, 0, 0]])
    found = measures(Records(0.0, {HOME: [episode(0)]}, [rows]))
    assert found["language_truth"]["mean"] == 50 and found["language_truth"]["n_candidates"] == 2
    assert found["miss_rate"]["mean"] == 0 and found["false_alarm_rate"]["mean"] == 25
    assert found["counterfactual_rank_correlation"]["mean"] == pytest.approx(1)


def test_states_that_break_the_rule_from_the_start_say_nothing_of_screening():
    """One instruction of the second state is broken before anything is done, both of the third are."""
    fair = truth([[1, -1, -1], [-1, 1, -1]], [[1, 0, 1], [0, 0, 0]])
    half = truth([[9, 9, 9], [-1, -1, 9]], [[1, 1, 1], [0, 0, 0]], margins=(0.1, -0.1))
    broken = truth([[9, 9, 9]] * 2, [[1, 1, 1]] * 2, margins=(0.1, 0.1))
    records = Records(0.0, {HOME: [episode(0)]}, [fair, half, broken])  # the second has no violating candidate left
    found = measures(records)
    assert found["miss_rate"]["mean"] == 50 and found["miss_rate"]["n_episodes"] == 1
    assert found["false_alarm_rate"]["mean"] == pytest.approx(100 * 2 / 7)
    assert found["language_truth"] | {"mean": 50, "n_candidates": 2, "n_episodes": 1} == found["language_truth"]
    assert found["screening_auroc"]["mean"] == pytest.approx((5 + 0.5 + 5 * 0.5) / 14)
    assert curves(records)["calibrated_point"]["hit_rate"] == 50
    alone = measures(Records(0.0, {HOME: [episode(0)]}, [broken]))
    assert np.isnan(alone["miss_rate"]["mean"]) and alone["screening_auroc"]["n_episodes"] == 0
    assert not curves(Records(0.0, {HOME: [episode(0)]}, [broken]))["roc"]["hit_rate"]


def test_goals_that_are_not_there_are_told_and_those_that_are_are_seen():
    """Above -0.1 the goal is in view; the third state was probed before that was asked."""
    told = replace(TRUTH, goal_there=-0.01, goal_absent=-0.5)
    both_wrong = replace(TRUTH, goal_there=-0.2, goal_absent=-0.05)
    records = Records(0.0, {HOME: [episode(0)]}, [told, both_wrong, TRUTH], goal_threshold=-0.1)
    found = measures(records)
    assert found["absent_goal_told"] | {"mean": 50, "n_episodes": 2} == found["absent_goal_told"]
    assert found["goal_overlooked"] | {"mean": 50, "n_episodes": 2} == found["goal_overlooked"]
    records.goal_threshold = None  # a bundle that does not know
    assert not measures(records).keys() & {"absent_goal_told", "goal_overlooked"}


def test_misses_by_state_weigh_each_state_alike():
    """One of two violating candidates accepted, none of one, and a state without: 1 of 3, but 25 % of a state's."""
    half = truth([[1, -1, -1], [-1] * 3], [[1, 1, 0], [0] * 3])
    none = truth([[1, -1, -1], [-1] * 3], [[1, 0, 0], [0] * 3])
    without = truth([[-1] * 3] * 2, [[0] * 3] * 2)
    found = measures(Records(0.0, {HOME: [episode(0)]}, [half, none, without]))
    assert found["miss_rate"]["mean"] == pytest.approx(100 / 3) and found["miss_rate"]["n_episodes"] == 2
    assert found["miss_rate_by_state"]["mean"] == pytest.approx(25) and found["miss_rate_by_state"]["n_episodes"] == 2


def test_rank_correlation_is_the_mean_over_states_that_have_one():
    flat = truth([[0] * 3] * 2, [[0] * 3] * 2, outcome=(5, 5, 5))
    turned = truth([[0] * 3] * 2, [[0] * 3] * 2, progress=(2, 1, 0))
    right = truth([[0] * 3] * 2, [[0] * 3] * 2)
    found = measures(Records(0.0, {HOME: [episode(0)]}, [flat, turned, right]))["counterfactual_rank_correlation"]
    assert found["mean"] == pytest.approx(0) and found["n_episodes"] == 2
    alone = measures(Records(0.0, {HOME: [episode(0)]}, [flat]))
    assert np.isnan(alone["counterfactual_rank_correlation"]["mean"]) and np.isnan(alone["language_truth"]["mean"])


def test_the_error_of_what_is_foretold_stands_beside_that_of_staying():
    rows = truth([[0] * 3] * 2, [[0] * 3] * 2, progress=(0.0, 1.5, 2.5), outcome=(0.0, 1.0, 2.0), start=1.0)
    found = measures(Records(0.0, {HOME: [episode(0)]}, [rows]))
    assert found["counterfactual_error"]["mean"] == pytest.approx(1 / 3)
    assert found["counterfactual_error_of_staying"]["mean"] == pytest.approx(2 / 3)


def test_the_roc_encloses_the_chance_that_a_violation_outscores_another():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    chance = np.mean([(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]])
    false_alarms, hits = roc(score, positive)
    assert trapezoid(hits, false_alarms) == pytest.approx(chance)
    assert not len(roc(score, np.ones(60, bool))[0])


def test_curves_show_horizon_rules_and_phases():
    home = [
        episode(0, named=["slow"], contributions=[[0.5, 0.5], None]),
        episode(1, named=["slow", "clear"], broken=["slow"], contributions=[[0.7, 0.3], None]),
        episode(2, False),
        episode(3, named=["slow"]),
    ]
    home = [e if e.contributions[0] else episode(e.seed, e.success, contributions=[None] * 2) for e in home]
    found = curves(Records(None, {HOME: home}))
    assert found["success_within_steps"] == [(10, 25.0), (20, 50.0), (40, 75.0)]
    assert [group["mean"] for group in found["success_by_distance"]] == [100, 100, 0, 100]
    assert {rule: row["mean"] for rule, row in found["compliance_by_rule"].items()} == {"clear": 100, "slow": 50}
    assert found["contributions_by_phase"] == [pytest.approx([0.6, 0.4]), None]
    assert "roc" not in found


def test_the_calibrated_point_lies_on_the_curve():
    rng = np.random.default_rng(1)
    broken = [rng.random(40) < 0.5 for _ in range(2)]
    foretold = [row + rng.normal(0, 0.5, 40) for row in broken]
    rows = truth(foretold, broken, np.arange(40.0), np.arange(40.0), margins=(-1.0, -1.0))
    found = curves(Records(0.4, {HOME: [episode(0)]}, [rows]))
    point, curve = found["calibrated_point"], found["roc"]
    below, above = (curve["hit_rate"][i] for i in (int(point["false_alarm_rate"]), int(point["false_alarm_rate"]) + 1))
    assert below <= point["hit_rate"] <= above


def test_errors_of_screening_are_counted_by_margin_and_by_rule():
    rows = truth([[1, -1, -1], [-1, 1, -1]], [[1, 1, 0], [0, 0, 0]], margins=(-1.0, -1.0))
    rows.reached[0][1] = 0.005  # missed by half a centimetre
    skipped = truth([[9, 9, 9], [9, 9, 9]], [[0, 0, 0]] * 2, margins=(0.1, 0.1))  # broken from the start
    found = curves(Records(0.0, {HOME: [episode(0)]}, [rows, skipped]))
    assert found["errors_by_margin"] == [
        {"from": -0.05, "to": -0.02, "wrong": 25.0, "n": 4},
        {"from": 0.0, "to": 0.01, "wrong": 100.0, "n": 1},
        {"from": 0.02, "to": 0.05, "wrong": 0.0, "n": 1},
    ]
    assert found["errors_by_rule"] == {
        "none": {"violating": 0, "missed": 0, "complying": 3, "rejected": 1},
        "zone": {"violating": 2, "missed": 1, "complying": 1, "rejected": 0},
    }
