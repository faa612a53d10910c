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


def test_what_was_seen_to_be_forbidden_stays_so_while_it_is_hidden(screener):
    domain = load_domain("navigation")
    environment = domain.environment()
    manifest = screener.bundle.manifest
    shape = (64, manifest.horizon, screener.bundle.interface.action_size)
    rejected = {"clear": 0, "remembered": 0, "forgotten": 0}
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
        forgotten = screener.encode(step_of(hidden, 0), instruction)
        scenes = {"clear": clear, "remembered": remembered, "forgotten": forgotten}
        judged = {name: screener.screen(scene, candidates).violation.max(1) for name, scene in scenes.items()}
        forbidden = judged["clear"] > manifest.threshold
        for name, violation in judged.items():
            rejected[name] += np.count_nonzero((violation > manifest.threshold) & forbidden)
    environment.close()
    assert rejected["clear"] > 50
    assert rejected["remembered"] > 0.95 * rejected["clear"]
    assert rejected["forgotten"] < 0.75 * rejected["clear"]  # a rule of speed needs no view
