"""Perturbations as Gymnasium wrappers: what they hide or add, by how much, and that a seed repeats them."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tc_mmwm_core.domains.perturbations import KINDS, OCCLUDER, OCCLUDER_STAYS, Perturbations, perturbed


class Still(gymnasium.Env):
    """A world in which nothing happens; it remembers the last action."""

    observation_space = spaces.Dict(
        {"image.left": spaces.Box(0, 255, (40, 60, 3), np.uint8), "sensor": spaces.Box(-9, 9, (2,), np.float32)}
    )
    action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 10], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        self.action = action
        return self._see(), 0.0, False, False, {}

    def _see(self):
        return {"image.left": np.zeros((40, 60, 3), np.uint8), "sensor": np.array([1, 2], np.float32)}


def drive(kind: str, seed: int, strengths: Perturbations | None = None, steps: int = 3 * OCCLUDER_STAYS):
    environment = perturbed(Still(), kind, strengths or Perturbations(), np.array([1.0, 0.0], np.float32))
    seen, acted = [environment.reset(seed=seed)[0]], []
    for _ in range(steps):
        seen.append(environment.step(np.array([0.0, 10.0], np.float32))[0])
        acted.append(environment.unwrapped.action)
    return np.stack([s["image.left"] for s in seen]), np.stack([s["sensor"] for s in seen]), np.stack(acted)


def test_an_occluder_hides_its_share_and_moves_on():
    images, sensor, acted = drive("occlusion", 0)
    hidden = (images == OCCLUDER).all(-1)
    np.testing.assert_allclose(hidden.mean((1, 2)), 0.2, atol=0.01)
    moved = np.flatnonzero((hidden[1:] != hidden[:-1]).any((1, 2))) + 1
    assert set(moved) <= {OCCLUDER_STAYS, 2 * OCCLUDER_STAYS, 3 * OCCLUDER_STAYS} and len(moved)
    assert (sensor == [1, 2]).all() and (acted == [0, 10]).all()


def test_sensor_noise_is_scaled_by_each_reading():
    images, sensor, _ = drive("sensor_noise", 0, Perturbations(sensor_noise=0.5), 400)
    assert not images.any()
    assert sensor[:, 0].std() == pytest.approx(0.5, rel=0.15) and (sensor[:, 1] == 2).all()


def test_action_noise_is_scaled_by_the_range_and_stays_in_it():
    _, sensor, acted = drive("action_noise", 0, Perturbations(action_noise=0.1), 400)
    assert (sensor == [1, 2]).all()
    assert acted[:, 0].std() == pytest.approx(0.1, rel=0.15)
    assert acted[:, 1].max() <= 10 and (acted[:, 1] < 10).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_s_seed_repeats_the_disturbance(kind):
    first, again, other = drive(kind, 1), drive(kind, 1), drive(kind, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
