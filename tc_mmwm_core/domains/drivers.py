"""Which of a domain's scripted drivers drives, and one that needs to know nothing of a domain but its limits."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Driver


def drawn(shares: dict[str, float], rng: np.random.Generator) -> str:
    """One of the kinds of driver in :meth:`Domain.drivers`, each as likely as its share."""
    return str(rng.choice([*shares], p=np.array([*shares.values()]) / sum(shares.values())))


def wanderer(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, change: float) -> Driver:
    """Smooth random actions over the whole range from ``low`` to ``high`` [A].

    What they tend to is drawn again with probability ``change`` at each step.
    """
    target = rng.uniform(low, high)
    action = target.copy()

    def drive(_: gymnasium.Env, __: dict[str, Any]) -> np.ndarray:
        nonlocal target, action
        if rng.random() < change:
            target = rng.uniform(low, high)
        action = action + rng.uniform(0.2, 1.0) * (target - action)
        return np.clip(action, low, high).astype(np.float32)

    return drive
