from tc_mmwm_core.runtime.deadline import Deadline


def test_one_late_is_counted_two_running_stop_and_one_in_time_recovers():
    deadline = Deadline(0.1)
    assert [deadline.missed(elapsed) for elapsed in (0.05, 0.2, 0.1, 0.2, 0.12, 0.2, 0.05, 0.2)] == [
        False,
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert deadline.misses == 5


def test_the_first_one_later_than_two_periods_is_not_executed_either():
    deadline = Deadline(0.1)
    assert [deadline.missed(elapsed) for elapsed in (0.05, 0.21, 0.05)] == [False, True, False]
    assert deadline.misses == 1
