"""What a probe asks of the model is what the robot would have asked of it."""

from __future__ import annotations

import numpy as np
import pytest

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.controllers import step_of
from tc_mmwm_core.evaluation.counterfactual import drawn_candidates, drawn_state, probe, watched
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.planner import SECOND, Planner, PlannerConfig
from tc_mmwm_core.runtime.proposals import ProposalConfig
from tc_mmwm_core.runtime.screener import Screener

SEED, CANDIDATES = 900_000, 6


@pytest.fixture(scope="module")
def screener(share) -> Screener:
    return Screener(Bundle.load(share / "bundles" / "navigation"))


@pytest.fixture(scope="module")
def world():
    """The domain and an environment of it."""
    domain = load_domain("navigation")
    environment = domain.environment()
    yield domain, environment
    environment.close()


def test_a_probe_sees_what_the_planner_sees_at_the_same_place_of_the_episode(screener, world):
    found = probe(*world, screener, SEED, CANDIDATES)
    rng = np.random.default_rng([SEED, 0xCF])
    observations, info = drawn_state(*world, SEED, rng)
    assert len(observations) > 5
    shape = (CANDIDATES, screener.bundle.manifest.horizon, screener.bundle.interface.action_size)
    candidates = drawn_candidates(rng, shape)
    config = PlannerConfig(proposals=ProposalConfig(candidates=16))
    planner = Planner(screener, screener.bundle.interface, config)
    period = round(SECOND / screener.bundle.interface.rate)
    for tick, observation in enumerate(observations, start=1):
        decision = planner.decide(step_of(observation, tick * period), screener.instruct(info["instruction"]))
    expected = screener.screen(decision.scene, candidates)
    np.testing.assert_array_equal(found.foretold[0], expected.violation.max(1))
    np.testing.assert_array_equal(found.progress, expected.progress[:, -1])
    assert found.goal_there == decision.scene.goal[0]
    forgetful = screener.encode(step_of(observations[-1], 0), screener.instruct(info["instruction"]))
    assert np.abs(screener.screen(forgetful, candidates).violation.max(1) - found.foretold[0]).max() > 1e-4


def test_a_goal_that_is_not_there_is_asked_for_too(screener, world):
    domain, environment = world
    threshold = screener.bundle.manifest.goal_threshold
    found = [probe(domain, environment, screener, seed, 2) for seed in range(SEED, SEED + 8)]
    goals = [(truth.goal_there, truth.goal_absent) for truth in found if truth is not None]
    assert len(goals) >= 4
    assert all(absent <= threshold < there for there, absent in goals)


def test_the_margins_are_the_oracle_s_in_the_state_itself(screener, world):
    domain, environment = world
    for seed in range(SEED, SEED + 4):
        found = probe(domain, environment, screener, seed, CANDIDATES)
        drawn = drawn_state(domain, environment, seed, np.random.default_rng([seed, 0xCF]))
        assert (found is None) == (drawn is None)
        if found is not None:
            assert found.margins[0] == pytest.approx(drawn[1]["margin"], abs=1e-5) and len(found.margins) == 2
            assert found.complies == [margin <= 0 for margin in found.margins]


def test_memory_is_of_the_view_and_of_no_instruction(screener, world):
    observations, info = drawn_state(*world, SEED, np.random.default_rng([SEED, 0xCF]))
    first, second = (watched(screener, observations, text) for text in (info["instruction"], "go to the red pad"))
    np.testing.assert_array_equal(first, second)
    assert watched(screener, [], info["instruction"]) is None
