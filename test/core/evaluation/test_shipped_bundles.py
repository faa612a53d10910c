"""What the shipped bundles are to be trusted with, beside what `tc-mmwm evaluate` measures of them."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.controllers import step_of
from tc_mmwm_core.domains.perturbations import OCCLUDER
from tc_mmwm_core.evaluation.counterfactual import drawn_candidates, drawn_state
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
        [*_, observation], info = drawn
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


def test_the_arms_policy_is_near_the_experts_advice_and_needs_the_hands_camera_for_it(share):
    """Beside a puck that is to be grasped, where a centimetre decides, with both views and with one."""
    domain = load_domain("manipulation")
    environment = domain.environment()
    screener = Screener(Bundle.load(share / "bundles" / "manipulation"))
    interface = screener.bundle.interface
    off = {"clear": [], "blind": []}
    for seed in range(920_000, 920_012):
        observation, info = environment.reset(seed=seed)
        drive = domain.driver("misled", np.random.default_rng(seed))
        instruction = screener.instruct(info["instruction"])
        memory = dict.fromkeys(off)
        for _ in range(40):
            state = info["state"]
            [advised] = interface.normalise_action(domain.advise(info["scene"], state[None], info["instruction"]))
            near = np.linalg.norm(state[:2] - state[8:10]) < 0.04 and advised[3] < 0  # the hand, open, above the puck
            for name, rows in off.items():
                seen = observation
                if name == "blind":
                    seen = observation | {"image.wrist": np.full_like(observation["image.wrist"], OCCLUDER)}
                scene = screener.encode(step_of(seen, 0), instruction, memory[name])
                memory[name] = scene.memory
                if near:
                    rows.append(np.abs(scene.proposal[0, 0, :3] - advised[:3]).mean())
            observation, _, terminated, truncated, info = environment.step(drive(environment, info))
            if terminated or truncated:
                break
    environment.close()
    assert len(off["clear"]) > 20
    assert np.median(off["clear"]) < 0.15  # of half the range: 4.5 cm/s
    assert np.mean(off["clear"]) < 0.7 * np.mean(off["blind"])
