"""What a scripted driver is about to do, foreseen in a simulator of its own."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.controllers import intention


@pytest.mark.parametrize("name", ["navigation", "manipulation"])
def test_an_intention_is_what_the_driver_does_next_and_leaves_the_world_as_it_was(name):
    domain = load_domain(name)
    environment, ahead = domain.environment(), domain.environment(render=False)
    ahead.reset(seed=5)
    _, info = environment.reset(seed=5)
    drive = domain.driver("expert", np.random.default_rng(0))
    for _ in range(10):
        *_, info = environment.step(drive(environment, info))
    [foreseen] = intention(drive, environment, ahead, horizon=4, frame_skip=2)({}, info)
    assert foreseen.shape == (4, *environment.action_space.shape) and np.ptp(foreseen, axis=0).max() > 0
    for action in foreseen:
        np.testing.assert_array_equal(drive(environment, info), action)
        for _ in range(2):
            *_, info = environment.step(action)
    environment.close()
    ahead.close()
