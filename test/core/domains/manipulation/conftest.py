"""Meta-World's models take a second each to load, and a renderer as long: one of each a run is enough."""

import pytest

from tc_mmwm_core.domains.manipulation.environment import ManipulationEnv


@pytest.fixture(scope="session")
def environment():
    """The table with its cameras."""
    made = ManipulationEnv()
    yield made
    made.close()


@pytest.fixture(scope="session")
def dark():
    """The table without cameras."""
    made = ManipulationEnv(render=False)
    yield made
    made.close()


@pytest.fixture(scope="session")
def simulator(environment):
    """The simulator beneath the table with its cameras."""
    return environment.simulator
