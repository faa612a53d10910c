"""Limits on the value and on the rate of change of actions, in the units of the robot interface. Always on.

Every function is pure and takes actions with the action fields on the last axis. ``limits`` is [A, 2] (lowest,
highest), ``max_rate`` is [A] in units per second, ``inf`` where a field has none.
"""

from __future__ import annotations

import numpy as np


def limit_value(actions: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Clip ``actions`` [..., A] into ``limits`` [A, 2]. NaN stays NaN: it is for the screening to reject, by name."""
    return np.clip(actions, limits[:, 0], limits[:, 1])


def limit_rate(action: np.ndarray, previous: np.ndarray, max_rate: np.ndarray, duration: float) -> np.ndarray:
    """Keep ``action`` [..., A] within what ``max_rate`` allows ``duration`` seconds after ``previous`` [..., A]."""
    reach = max_rate * np.float32(duration)
    return np.clip(action, previous - reach, previous + reach)


def limit_sequence(
    actions: np.ndarray,
    previous: np.ndarray,
    limits: np.ndarray,
    max_rate: np.ndarray,
    period: float,
    step_duration: float,
) -> np.ndarray:
    """What the robot would be made to execute of ``actions`` [N, K, A], as [N, K, A].

    The first action follows ``previous`` [A], the last one published, by one control ``period`` (s); each later one
    follows its predecessor by one latent ``step_duration`` (s). Sequences are limited before they are screened, so
    that what was screened is what is executed.
    """
    limited = limit_value(actions, limits)
    limited[:, 0] = limit_rate(limited[:, 0], previous, max_rate, period)
    for k in range(1, limited.shape[1]):
        limited[:, k] = limit_rate(limited[:, k], limited[:, k - 1], max_rate, step_duration)
    return limited


def outside_value_limits(actions: np.ndarray, limits: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """Where ``actions`` [..., A] leave ``limits`` by more than ``tolerance`` of the field's range: bool [..., A]."""
    slack = tolerance * (limits[:, 1] - limits[:, 0])
    return (actions < limits[:, 0] - slack) | (actions > limits[:, 1] + slack)
