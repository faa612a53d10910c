"""What the shipped bundles are to be trusted with, beside what `tc-mmwm evaluate` measures of them."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.evaluation.closed_loop import step_of
from tc_mmwm_core.evaluation.counterfactual import drawn_candidates, drawn_state
from tc_mmwm_core.evaluation.perturbations import OCCLUDER
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.screener import Screener

LAYOUTS = range(910_000, 910_012)


@pytest.fixture
def screener(share) -> Screener:
    return Screener(Bundle.load(share / "bundles" / "navigation"))


def behind_a_box(image: np.ndarray, x: float, y: float, half: int = 15) -> np.ndarray:
    """``image`` with a grey square in front of the point x (right) and y (up), both in [-1, 1]."""
    row, column = (round((1 + at) / 2 * size) for at, size in zip((-y, x), image.shape, strict=False))
    image = image.copy()
    image[max(0, row - half) : row + half, max(0, column - half) : column + half] = OCCLUDER
    return image


def test_what_was_seen_is_what_decides_while_it_is_hidden(screener):
    """The robot's surroundings are hidden after one look: scores are those of the look, and else they are not."""
    domain = load_domain("navigation")
    environment = domain.environment()
    manifest = screener.bundle.manifest
    shape = (64, manifest.horizon, screener.bundle.interface.action_size)
    forgets = {"remembered": [], "never seen": []}
    for seed in LAYOUTS:
        rng = np.random.default_rng(seed)
        drawn = drawn_state(domain, environment, seed, rng)
        if drawn is None:
            continue
        observation, info = drawn
        instruction, candidates = screener.instruct(info["instruction"]), drawn_candidates(rng, shape)
        here = domain.judge(info["scene"], info["state"][None], info["instruction"]).place[0, :2]
        hidden = observation | {"image.overhead": behind_a_box(observation["image.overhead"], *here)}
        clear = screener.encode(step_of(observation, 0), instruction)
        remembered = screener.encode(step_of(hidden, 0), instruction, clear.memory)
        unseen = screener.encode(step_of(hidden, 0), instruction)
        expected = screener.screen(clear, candidates).violation
        for name, scene in zip(forgets, (remembered, unseen), strict=True):
            forgets[name].append(np.abs(screener.screen(scene, candidates).violation - expected).mean())
    environment.close()
    assert max(forgets["remembered"]) < 0.1  # a centimetre
    assert np.mean(forgets["remembered"]) < 0.25 * np.mean(forgets["never seen"])
