"""Scripted drivers: what they are for is what they do."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError, load_domain

LAYOUTS = range(1000, 1040)


@pytest.fixture(scope="module")
def environment():
    made = load_domain("navigation").environment(render=False)
    yield made
    made.close()


def episodes(environment, kind, seeds):
    """Outcome of one episode a seed: (reached, violating steps)."""
    for seed in seeds:
        drive = load_domain("navigation").driver(kind, np.random.default_rng(seed))
        _, info = environment.reset(seed=seed)
        over, violations = False, 0
        while not over:
            *_, terminated, truncated, info = environment.step(drive(environment, info))
            violations += info["violation"]
            over = terminated or truncated
        yield info["reached"], violations


def test_expert_reaches_without_violation(environment):
    outcomes = list(episodes(environment, "expert", LAYOUTS))
    successes = sum(reached and not violations for reached, violations in outcomes)
    assert successes >= 0.95 * len(outcomes), outcomes


def test_following_advice_reaches_without_violation(environment):
    domain, successes = load_domain("navigation"), 0
    for seed in LAYOUTS[:12]:
        _, info = environment.reset(seed=seed)
        over, violations = False, 0
        while not over:
            advice = domain.advise(info["scene"], info["state"][None], info["instruction"])
            *_, terminated, truncated, info = environment.step(advice[0])
            violations += info["violation"]
            over = terminated or truncated
        successes += info["reached"] and not violations
    assert successes >= 11


def test_heedless_reaches_every_goal_and_breaks_rules(environment):
    outcomes = list(episodes(environment, "heedless", range(12)))
    assert all(reached for reached, _ in outcomes)
    assert sum(violations > 0 for _, violations in outcomes) >= 3


def test_visitor_breaks_rules(environment):
    outcomes = list(episodes(environment, "visitor", range(15)))
    assert sum(violations > 0 for _, violations in outcomes) >= 5


def test_every_listed_driver_drives_within_the_limits(environment):
    domain = load_domain("navigation")
    shares = domain.drivers()
    assert sum(shares.values()) == pytest.approx(1.0)
    for kind in shares:
        _, info = environment.reset(seed=3)
        drive = domain.driver(kind, np.random.default_rng(0))
        for _ in range(20):
            action = drive(environment, info)
            assert environment.action_space.contains(action), (kind, action)
            *_, info = environment.step(action)


def test_an_unknown_driver_is_refused_by_name():
    with pytest.raises(DomainError, match="driver 'chauffeur': known are expert"):
        load_domain("navigation").driver("chauffeur", np.random.default_rng(0))
