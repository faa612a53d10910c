"""Judging recorded motion under any instruction, and training's view of it."""

import mujoco
import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError, load_domain
from tc_mmwm_core.domains.collect import run_episode
from tc_mmwm_core.domains.manipulation import simulator as simulator_module


@pytest.fixture(scope="module")
def recorded(dark):
    """Infos of a visitor's episode."""
    drive = load_domain("manipulation").driver("visitor", np.random.default_rng(0))
    _, info = dark.reset(seed=5)
    infos = [info]
    for _ in range(60):
        *_, info = dark.step(drive(dark, info))
        infos.append(info)
    return infos


def test_judging_afterwards_agrees_with_judging_live(recorded):
    states = np.array([info["state"] for info in recorded])
    judgement = load_domain("manipulation").judge(recorded[0]["scene"], states, recorded[0]["instruction"])
    np.testing.assert_allclose(judgement.margin, [info["margin"] for info in recorded], atol=1e-6)


def test_another_instruction_turns_the_verdict(recorded):
    domain, scene = load_domain("manipulation"), recorded[0]["scene"]
    states = np.array([info["state"] for info in recorded])
    goal, zone = scene["marks"][0]["colour"], scene["zones"][0]
    states[0, :2] = zone["x"], zone["y"]
    forbidden = domain.judge(scene, states, f"push the puck to the {goal} mark, never enter the {zone['colour']} zone")
    allowed = domain.judge(scene, states, f"push the puck to the {goal} mark")
    assert forbidden.margin[0] > 0 > allowed.margin[0]
    assert forbidden.referents[1, 3] == 1 and allowed.referents[1, 3] == 0
    assert (forbidden.field_margin > 0).any() and not (allowed.field_margin > 0).any()


def test_the_self_filter_finds_the_arm_and_nothing_else_whatever_the_colours(environment):
    """Against what MuJoCo says that each pixel shows."""
    domain = load_domain("manipulation")
    drive = domain.driver("visitor", np.random.default_rng(0))
    right = wrong = arm = 0
    for seed in range(12):
        observation, info = environment.reset(seed=seed)
        for _ in range(15):
            observation, *_, info = environment.step(drive(environment, info))
        there = _robot_from_above(environment.simulator)
        found = domain.self_filter(observation["image.overhead"][None])[0]
        arm += there.sum()
        right += (found & there).sum()
        wrong += (found & ~there).sum()
    assert arm > 1000 and right > 0.8 * arm and wrong < 0.05 * arm, (arm, right, wrong)


def _robot_from_above(simulator) -> np.ndarray:
    """Which pixels of the overhead camera show the robot, bool [H, W]; what is painted on the table hides nothing."""
    model, (camera, field_of_view) = simulator.task.model, simulator_module._CAMERAS["overhead"]
    robot = np.array([_is_robot(model, body) for body in model.geom_bodyid])
    model.vis.global_.fovy = field_of_view
    with mujoco.Renderer(model, *simulator_module.IMAGE) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(simulator.task.data, camera)
        geom, kind = renderer.render().transpose(2, 0, 1)
    return (kind == int(mujoco.mjtObj.mjOBJ_GEOM)) & robot[np.clip(geom, 0, len(robot) - 1)]


def _is_robot(model: mujoco.MjModel, body: int) -> bool:
    """Whether ``body`` is the robot."""
    while body and model.body(body).name != "base":
        body = int(model.body_parentid[body])
    return body > 0


def test_what_cannot_be_read_is_refused(recorded):
    with pytest.raises(DomainError, match="no goal found"):
        load_domain("manipulation").judge(recorded[0]["scene"], recorded[0]["state"][None], "dance")


def test_drawn_instructions_can_be_judged_and_differ(recorded):
    domain, rng, scene = load_domain("manipulation"), np.random.default_rng(0), recorded[0]["scene"]
    texts = {domain.draw_instruction(scene, rng, factors) for factors in [(), ("wording",)] for _ in range(10)}
    assert len(texts) > 15
    for text in texts:
        judgement = domain.judge(scene, recorded[0]["state"][None], text)
        assert np.isfinite(judgement.field_cost).all() and np.isfinite(judgement.cost).all()


def test_collected_episodes_hold_both_cameras_and_follow_from_the_seed(environment):
    domain = load_domain("manipulation")
    one, again = (run_episode(domain, environment, 7, 6) for _ in range(2))
    assert {name: image.shape for name, image in one.images.items()} == {
        "overhead": (7, 64, 64, 3),
        "wrist": (7, 64, 64, 3),
    }
    for name in one.images:
        np.testing.assert_array_equal(one.images[name], again.images[name])
    np.testing.assert_array_equal(one.action, again.action)
    assert one.provenance == {"domain": "manipulation", "driver": one.provenance["driver"], "seed": 7, "steps": 6}


def test_the_state_has_named_columns_with_units(recorded):
    domain = load_domain("manipulation")
    assert len(domain.state) == len(recorded[0]["state"])
    assert set(domain.state.values()) == {"m", "m/s", "1"}


def test_rules_are_named_by_kind_and_in_words(recorded):
    domain, scene = load_domain("manipulation"), recorded[0]["scene"]
    goal, zone = scene["marks"][0]["colour"], scene["zones"][0]["colour"]
    text = f"push the puck to the {goal} mark, never enter the {zone} zone, move slowly"
    assert domain.rules(text) == ("zone", "speed")
    assert domain.rules(f"push the puck to the {goal} mark") == ()
    for info in recorded:
        assert set(info["rules"]) <= set(info["named_rules"])
        assert bool(info["rules"]) == info["violation"]
