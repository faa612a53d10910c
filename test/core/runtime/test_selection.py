import numpy as np
import pytest

from tc_mmwm_core.runtime.screener import Rollouts
from tc_mmwm_core.runtime.selection import Screening, Verdict, best, choose, judge, retreat, score

NAN, INF = np.nan, np.inf


def screened(violation, progress, actions=None, outside=None, threshold=0.0):
    violation, progress = np.array(violation, np.float32), np.array(progress, np.float32)
    actions = np.zeros((len(violation), 2, 1), np.float32) if actions is None else np.array(actions, np.float32)
    outside = np.zeros(len(violation), bool) if outside is None else np.array(outside)
    verdict = judge(actions, outside, Rollouts(violation, progress), threshold)
    scores = score(Rollouts(violation, progress), np.zeros(len(progress)), "final", threshold, caution=0.0, trust=0.0)
    return Screening(
        actions,
        violation,
        progress,
        verdict,
        scores,
        threshold,
        ["turn"],
        np.array([[-1, 1]]),
        choose(verdict, scores),
        (),
    )


def test_one_violating_step_rejects_however_good_the_progress():
    screening = screened([[-1, 0.1], [0.2, -1], [-1, -1]], [[9, 9], [9, 9], [0, 1]])
    assert screening.verdict.tolist() == [Verdict.REJECTED_VIOLATION, Verdict.REJECTED_VIOLATION, Verdict.ACCEPTED]
    assert screening.chosen == 2
    assert screening.reason(0) == "violation 0.100 > 0.000 at step 2"
    assert screening.reason(1) == "violation 0.200 > 0.000 at step 1"
    assert screening.reason(2) == ""


def test_threshold_itself_is_accepted():
    assert screened([[0.5, 0.0]], [[0, 0]], threshold=0.5).chosen == 0


def test_ties_go_to_the_lowest_index():
    assert screened([[9, 9], [0, 0], [0, 0], [0, 0]], [[5, 5], [1, 2], [0, 3], [3, 3]]).chosen == 2


def test_an_accepted_preferred_one_comes_before_better_ones_and_a_rejected_one_does_not():
    verdict = np.uint8([Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.REJECTED_VIOLATION, Verdict.ACCEPTED])
    scores = np.array([9.0, 1.0, 5.0, 2.0])
    assert choose(verdict, scores) == 0
    assert choose(verdict, scores, preferred=range(1, 4)) == 3
    assert choose(verdict, scores, preferred=range(2, 3)) == 0


def test_none_accepted_none_chosen():
    screening = screened([[1, 1], [2, 2]], [[0, 0], [0, 0]])
    assert screening.chosen == -1 and screening.accepted == 0


@pytest.mark.parametrize("where", ["action", "violation", "progress"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_is_never_chosen(where, value):
    actions, violation, progress = np.zeros((2, 2, 1)), np.full((2, 2), -1.0), np.zeros((2, 2))
    {"action": actions, "violation": violation, "progress": progress}[where][0, 1] = value
    screening = screened(violation, progress, actions)
    assert screening.verdict[0] == Verdict.REJECTED_NON_FINITE
    assert screening.chosen == 1
    assert screening.reason(0) == ("candidate" if where == "action" else "prediction") + " is NaN or infinite"


def test_limits_name_field_step_and_range():
    screening = screened([[-1, -1]], [[0, 0]], [[[0.5], [1.5]]], [True])
    assert screening.verdict[0] == Verdict.REJECTED_LIMITS
    assert screening.reason(0) == "turn is 1.5 at step 2, allowed are -1 to 1"


def test_progress_rules():
    rollouts = Rollouts(np.zeros((1, 3)), np.array([[1.0, 5.0, 3.0]]))
    assert [score(rollouts, np.zeros(1), rule, 0.0, 0.0, 0.0)[0] for rule in ("final", "mean", "best")] == [3, 3, 5]


def test_caution_takes_off_for_coming_near_to_the_threshold():
    violation, strayed = np.array([[-9.0, -9.0], [-0.5, -9.0], [0.5, 0.5]]), np.zeros(3)
    found = score(Rollouts(violation, np.ones((3, 2))), strayed, "mean", 0.5, caution=0.1, trust=0.0)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.9])
    nearer = score(Rollouts(violation + 0.5, np.ones((3, 2))), strayed, "mean", 0.5, caution=0.1, trust=0.0)
    np.testing.assert_allclose(nearer, [1.0, 0.975, 0.85])
    careless = score(Rollouts(violation, np.ones((3, 2))), strayed, "mean", 0.5, caution=0.0, trust=0.0)
    assert careless.tolist() == [1.0, 1.0, 1.0]


def test_trust_takes_off_for_straying_from_the_policy():
    rollouts = Rollouts(np.full((3, 2), -9.0), np.array([[1.0, 2.0], [2.0, 3.0], [4.0, 5.0]]))
    found = score(rollouts, np.array([0.0, 0.25, 1.0]), "final", 0.0, caution=0.1, trust=4.0)
    np.testing.assert_allclose(found, [2.0, 2.0, 1.0])


def test_best_keeps_the_order_of_ties_and_never_names_what_is_not_among_them():
    merit = np.array([1.0, 3.0, 3.0, NAN, 2.0])
    among = np.array([True, True, True, False, True])
    assert best(merit, among, 3).tolist() == [1, 2, 4]
    assert best(merit, among, 99).tolist() == [1, 2, 4, 0]
    assert best(merit, ~among & False, 3).tolist() == []


def test_a_retreat_is_never_foreseen_worse_than_stopping_and_ends_better():
    stop = [0.5, 0.6]
    assert (
        retreat(
            screened([stop, [0.4, 0.7], [0.6, 0.1]], [[0, 0]] * 3).verdict, np.array([stop, [0.4, 0.7], [0.6, 0.1]])
        )
        == -1
    )
    ways = np.array([stop, [0.5, 0.4], [0.2, 0.3], [0.1, 0.6], [0.0, 0.0]])
    outside = [False, False, False, False, True]
    assert retreat(screened(ways, [[0, 0]] * 5, outside=outside).verdict, ways) == 2
