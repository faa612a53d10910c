import numpy as np

from tc_mmwm_core.runtime.limits import limit_rate, limit_sequence, limit_value, outside_value_limits

LIMITS = np.array([[-0.3, 0.7], [-2.5, 2.5]], np.float32)
RATE = np.array([4.0, np.inf], np.float32)


def test_values_are_clipped_and_nan_is_left_for_the_screening():
    limited = limit_value(np.array([[9.0, -9.0], [0.1, np.nan]], np.float32), LIMITS)
    np.testing.assert_array_equal(limited, np.array([[0.7, -2.5], [0.1, np.nan]], np.float32))


def test_rate_is_relative_to_the_last_action_and_the_time_gone_by():
    previous = np.array([0.5, 0.0], np.float32)
    np.testing.assert_allclose(limit_rate(np.array([-0.3, 2.0]), previous, RATE, 0.1), [0.1, 2.0], atol=1e-6)
    np.testing.assert_allclose(limit_rate(np.array([-0.3, 2.0]), previous, RATE, 0.2), [-0.3, 2.0], atol=1e-6)


def test_sequence_ramps_over_one_period_and_then_over_latent_steps():
    wanted = np.full((1, 3, 2), [0.7, 0.0], np.float32)
    slow = np.array([1.0, np.inf], np.float32)
    limited = limit_sequence(wanted, np.zeros(2, np.float32), LIMITS, slow, period=0.1, step_duration=0.2)
    np.testing.assert_allclose(limited[0, :, 0], [0.1, 0.3, 0.5], atol=1e-6)
    assert wanted[0, 0, 0] == np.float32(0.7), "the caller's array must be left alone"


def test_outside_value_limits_tolerates_rounding_only():
    actions = np.array([[[0.7 + 1e-6, 0.0]], [[0.71, 0.0]], [[0.0, -2.6]], [[np.nan, 0.0]]], np.float32)
    assert outside_value_limits(actions, LIMITS).any((1, 2)).tolist() == [False, True, True, False]
