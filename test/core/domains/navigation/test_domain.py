"""Judging recorded motion under any instruction."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError, load_domain


@pytest.fixture(scope="module")
def recorded():
    """A layout and the states and live verdicts of a visitor's drive."""
    domain = load_domain("navigation")
    environment = domain.environment(render=False)
    drive = domain.driver("visitor", np.random.default_rng(0))
    _, info = environment.reset(seed=5)
    infos = [info]
    for _ in range(150):
        *_, info = environment.step(drive(environment, info))
        infos.append(info)
    environment.close()
    return infos


def test_judging_afterwards_agrees_with_judging_live(recorded):
    states = np.array([info["state"] for info in recorded])
    judgement = load_domain("navigation").judge(recorded[0]["scene"], states, recorded[0]["instruction"])
    np.testing.assert_allclose(judgement.margin, [info["margin"] for info in recorded], atol=1e-6)


def test_another_instruction_turns_the_verdict(recorded):
    domain, scene = load_domain("navigation"), recorded[0]["scene"]
    states = np.array([info["state"] for info in recorded])
    goal, zone = scene["pads"][0]["colour"], scene["zones"][0]
    states[0, :2] = zone["x"], zone["y"]
    forbidden = domain.judge(scene, states, f"go to the {goal} pad, never enter the {zone['colour']} zone")
    allowed = domain.judge(scene, states, f"go to the {goal} pad")
    assert forbidden.margin[0] > 0 > allowed.margin[0]
    assert forbidden.referents[1, 3] == 1 and allowed.referents[1, 3] == 0


def test_what_cannot_be_read_is_refused(recorded):
    with pytest.raises(DomainError, match="no goal found"):
        load_domain("navigation").judge(recorded[0]["scene"], recorded[0]["state"][None], "dance")
