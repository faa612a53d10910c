"""What is left takes as long as its like took."""

import json

import pytest

from tc_mmwm_core.evaluation.benchmark.clock import TIMES, Clock, Part


def test_times_are_kept_and_scaled_to_what_is_asked_for(tmp_path):
    clock = Clock(tmp_path)
    assert clock.seconds(Part("a", "train", 10)) is None
    rows = [("a", "train", 100, "a/full", 50), ("a", "train", 300, "a/worse", 450), ("b", "train", 10, "b/full", 1)]
    names = ("domain", "kind", "amount", "of", "seconds")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (tmp_path / TIMES).write_text("\n".join([*lines, '{"cut off']))
    assert clock.seconds(Part("a", "train", 10)) == pytest.approx(10 * 500 / 400)
    assert clock.seconds(Part("a", "train", 10), "a/full") == pytest.approx(5)
    assert clock.seconds(Part("c", "train", 411)) == pytest.approx(411 * 501 / 410)
    assert clock.seconds(Part("a", "evaluate planner", 1)) is None


def test_what_was_done_is_timed_and_what_failed_is_not(tmp_path):
    clock = Clock(tmp_path / "new")
    with clock.time(Part("a", "train", 0), "nothing was left"):
        pass
    with pytest.raises(ZeroDivisionError), clock.time(Part("a", "train", 5), "x"):
        raise ZeroDivisionError
    assert clock.seconds(Part("a", "train", 5)) is None
    with clock.time(Part("a", "train", 5), "x"):
        pass
    assert clock.seconds(Part("a", "train", 5)) < 5
