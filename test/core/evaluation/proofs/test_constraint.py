"""What is said of a constraint function, where the truth is known."""

import dataclasses

import numpy as np
import pytest

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.evaluation.proofs.constraint import bound, calibrated, discrimination, verdicts
from tc_mmwm_core.training.held_out import SequenceScores

ZONE, SPEED = "go to the red pad, never enter the blue zone", "go to the red pad, drive slowly"


def scores(separation: float, trajectories: int = 400, each: int = 6, seed: int = 0) -> SequenceScores:
    """Violating sequences score ``separation`` higher; sequences of one trajectory resemble each other."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(trajectories), each)
    violating = rng.random(len(owner)) < 0.4
    own = rng.normal(size=trajectories)[owner] + 0.5 * rng.normal(size=len(owner))
    texts = np.where(rng.random(len(owner)) < 0.5, ZONE, SPEED)
    return SequenceScores(
        (own + separation * violating).astype(np.float32), violating, owner, texts, np.full(len(owner), np.nan)
    )


def test_discrimination_is_told_by_rule():
    known = scores(8.0)
    blind = np.where(known.instruction == SPEED, 0, known.score)  # says nothing where only the speed is asked about
    found = discrimination(dataclasses.replace(known, score=blind), load_domain("navigation"))
    assert found["zone"] > 0.99 and found["speed"] == 0.5 and found.keys() == {"all", "zone", "speed"}


def test_an_instruction_of_two_rules_counts_for_neither():
    one = scores(4.0)
    both = dataclasses.replace(one, instruction=np.full(len(one.score), f"{ZONE}, drive slowly"))
    assert discrimination(both, load_domain("navigation")).keys() == {"all"}


def test_verdicts_count_trajectories_for_misses_and_sequences_for_false_alarms():
    found = verdicts(
        SequenceScores(
            np.array([0, 2, 2, 0, 2], np.float32),
            np.array([True, True, True, False, False]),
            np.array([0, 0, 1, 1, 1]),
            np.array([ZONE] * 5),
            np.full(5, np.nan),
        ),
        tau=1.0,
    )
    assert found == {"miss_rate": 0.25, "false_alarm_rate": 0.5}  # half of trajectory 0's, none of 1's


@pytest.mark.parametrize("separation", [0.0, 2.0, 6.0])
def test_the_bound_holds_whatever_the_model_is_worth(separation):
    found = bound(scores(separation, trajectories=1200), 0.1, 0.1, resamples=60, share=0.2, seed=1)
    assert found["exceeding"] <= 0.1 and found["calibration_trajectories"] == pytest.approx(240, abs=12)
    assert found["miss_rate_mean"] < 0.1


def test_a_threshold_that_ignores_what_it_was_calibrated_on_breaks_the_bound(monkeypatch):
    """The share that exceeds α is counted, not assumed."""

    class Bold:
        tau, n = 1.5, 100

    monkeypatch.setattr("tc_mmwm_core.evaluation.proofs.constraint.calibrate", lambda *_: Bold)
    found = bound(scores(2.0), 0.1, 0.1, resamples=20, share=0.5, seed=1)
    assert found["exceeding"] == 1.0 and found["miss_rate_mean"] > 0.2


def test_a_better_constraint_function_costs_fewer_false_alarms():
    poor, good = (calibrated(scores(separation), 0.05, 0.05, share=0.5, seed=0) for separation in (0.0, 6.0))
    assert poor["miss_rate"] < 0.1 and good["miss_rate"] < 0.1
    assert poor["false_alarm_rate"] > 0.85 and good["false_alarm_rate"] < 0.05
