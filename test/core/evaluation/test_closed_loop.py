"""What an episode counts, and what it refuses to count."""

from __future__ import annotations

import pytest
from toy_world import Standing, Toy

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.evaluation.closed_loop import run_episode


class Trespassing(Standing):
    """Begins where it must not be."""

    def observe(self):
        observation, info = super().observe()
        return observation, info | {"violation": True, "rules": ["in the red zone"]}


def test_an_episode_that_begins_in_violation_is_refused_and_nobody_blamed_for_it():
    domain = Toy(Trespassing)
    told = (
        r"domain 'toy': the episode of seed 7 begins in violation of 'stand' \(in the red zone\), so nobody can comply"
    )
    with pytest.raises(DomainError, match=told):
        run_episode(domain, domain.environment(), None, seed=7)
