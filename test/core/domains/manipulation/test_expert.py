"""The scripted drivers at the control rate."""

import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError, load_domain
from tc_mmwm_core.domains.manipulation import expert, oracle
from tc_mmwm_core.domains.manipulation.environment import ACTION_HIGH, ACTION_LOW
from tc_mmwm_core.domains.manipulation.instructions import parse
from tc_mmwm_core.domains.manipulation.scene import TASKS, WORKSPACE, draw_scene


def drive(environment, kind, seed, options=None, steps=160):
    """Infos of one episode."""
    _, info = environment.reset(seed=seed, options=options)
    driver, infos = load_domain("manipulation").driver(kind, np.random.default_rng(seed)), [info]
    for _ in range(steps):
        action = driver(environment, info)
        assert action.dtype == np.float32 and (action >= ACTION_LOW).all() and (action <= ACTION_HIGH).all()
        *_, terminated, truncated, info = environment.step(action)
        infos.append(info)
        if terminated or truncated:
            break
    return infos


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_gets_there_and_keeps_the_rules(dark, task):
    for seed in range(30, 32):
        last = drive(dark, "expert", seed, {"scene": draw_scene(seed, task)})[-1]
        assert last["success"], (seed, last["instruction"], last["violations"])


RULES = ("move slowly", "keep the gripper low", "do not touch the wall", "never enter the {} zone or the {} zone")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_the_heedless_policy_breaks_is_kept_by_the_expert(dark, rule):
    def outcome(kind, seed):
        scene = draw_scene(seed, "push-wall")
        text = f"push the puck to the {scene.marks[0].colour} mark, " + rule.format(*(z.colour for z in scene.zones))
        infos = drive(dark, kind, seed, {"scene": scene, "instruction": text})
        return infos[-1]["success"], infos[-1]["violations"] > 0

    seeds = range(40, 42)
    assert all(outcome("expert", seed)[0] for seed in seeds)
    if "touch" not in rule:  # Meta-World's own policy goes around the wall too
        assert any(outcome("heedless", seed)[1] for seed in seeds)


def test_the_fumbler_holds_what_no_expert_would_do_and_begins_it_mostly_at_the_puck(dark):
    """An expert with noise never does the same twice: what is done twice on end is held."""
    domain, counts = load_domain("manipulation"), np.zeros((2, 2), int)
    for seed in range(60, 66):
        scene = draw_scene(seed, "push")
        options = {"scene": scene, "instruction": f"push the puck to the {scene.marks[0].colour} mark"}
        _, info = dark.reset(seed=seed, options=options)
        driver, before, held, near = domain.driver("fumbler", np.random.default_rng(seed)), np.zeros(4), False, False
        for _ in range(100):
            action, was_held = driver(dark, info), held
            held = np.array_equal(action, before)
            counts[int(near)] += not was_held, held and not was_held  # begun a step ago
            near = np.linalg.norm(info["state"][oracle.HAND] - info["state"][oracle.PUCK]) < expert.AT_PUCK
            *_, terminated, truncated, info = dark.step(before := action)
            if terminated or truncated:
                break
    (far, begun_far), (near, begun_near) = counts
    assert min(far, near) > 80 and begun_near / near > 2 * begun_far / far > 0, counts


def test_meta_worlds_own_policies_work_at_the_control_rate(dark):
    """But for pick-place-wall's, which closes its fingers too early for the speed limit."""
    ends = []
    for task, goal in (("reach-wall", "reach the {} mark"), *((t, "push the puck to the {} mark") for t in TASKS[1:3])):
        for seed in range(50, 52):
            scene = draw_scene(seed, task)
            options = {"scene": scene, "instruction": goal.format(scene.marks[0].colour)}
            ends.append(drive(dark, "heedless", seed, options)[-1]["reached"])
    assert sum(ends) >= 5, ends  # the driver adds noise, which may cost a grasp


def test_noise_is_graded(dark):
    """The more of it, the farther from what the expert alone would do."""
    _, info = dark.reset(seed=60)

    def deviation(noise):
        drivers = [expert.expert(np.random.default_rng(seed), noise) for seed in range(20)]
        return np.std([driver(dark, info) for driver in drivers], 0).mean()

    none, some, much = map(deviation, (0.0, 0.1, 0.4))
    assert none < 0.5 * some < 0.25 * much


def test_advice_is_what_the_expert_does(dark):
    """Asked of every recorded state afterwards, under the recorded instruction."""
    infos = drive(dark, "expert", 31, steps=40)
    domain, states = load_domain("manipulation"), np.array([info["state"] for info in infos])
    advice = domain.advise(infos[0]["scene"], states, infos[0]["instruction"])
    live = [expert.expert(np.random.default_rng(0))(dark, info) for info in infos]
    assert advice.shape == (len(infos), 4) and np.isfinite(advice).all()
    np.testing.assert_allclose(advice[:-1], live[:-1], atol=0.05)  # experts differ in speed and height
    mark = infos[0]["scene"]["marks"][0]
    there = states[:1].copy()
    there[0, :3] = mark["x"] + 0.01, mark["y"], 0.1
    [within] = domain.advise(infos[0]["scene"], there, f"reach the {mark['colour']} mark")
    assert within[0] < -0.05 and abs(within[1]) < 0.02, "to the centre of the mark, not only to its edge"


def test_the_way_down_to_the_puck_has_no_steps(dark):
    """A policy can follow only advice that changes as little as what it can tell apart: millimetres."""
    info = drive(dark, "expert", 31, steps=1)[0]
    domain, text = load_domain("manipulation"), f"push the puck to the {info['scene']['marks'][0]['colour']} mark"
    states = np.repeat(info["state"][None], 60, 0)
    states[:, :2] = states[:, 8:10] + np.linspace(0.013, 0.072, 60)[:, None] * np.array([1.0, 0.0])
    states[:, 2] = 0.12
    assert np.abs(np.diff(domain.advise(info["scene"], states, text), axis=0)).max() < 0.08


def test_an_explorer_holds_random_actions_for_a_while_and_goes_on(dark):
    world, driver = load_domain("manipulation"), expert.explorer(np.random.default_rng(3))
    _, info = dark.reset(seed=31)
    strayed = []
    for _ in range(120):
        action = driver(dark, info)
        [advised] = world.advise(info["scene"], info["state"][None], info["instruction"])
        strayed.append(np.abs((action - advised) / expert.ACTION_HIGH).max() > 0.5)
        _, _, reached, _, info = dark.step(action)
        if reached:
            break
    assert 0.1 < np.mean(strayed) < 0.6
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, strayed, 0].astype(int))))[::2]
    assert runs.max() >= 4, "not fresh at every step"


def test_visitors_break_rules(dark):
    broken = [drive(dark, "visitor", seed, steps=80)[-1]["violations"] > 0 for seed in range(60, 66)]
    assert sum(broken) >= 3, broken


def test_an_unknown_driver_is_refused_by_name():
    with pytest.raises(DomainError, match="'teleop': known are expert, noisy, explorer, misled, heedless"):
        load_domain("manipulation").driver("teleop", np.random.default_rng(0))


def test_the_misled_expert_shows_hands_beside_the_puck_that_the_expert_never_has(dark):
    def beside(kind):
        scene = draw_scene(60, "push")
        options = {"scene": scene, "instruction": f"push the puck to the {scene.marks[0].colour} mark"}
        states = np.array([info["state"] for info in drive(dark, kind, 60, options, steps=80)])
        off = np.linalg.norm(states[:, oracle.HAND][:, :2] - states[:, oracle.PUCK][:, :2], axis=1)
        low = (states[:, oracle.HAND][:, 2] < 0.1) & (states[:, oracle.GRIPPING] < 0.5)
        return int(((off > 0.008) & (off < 0.03) & low).sum())

    assert beside("misled") > beside("expert") + 5


@pytest.mark.parametrize(
    "goal", ["reach the {} mark", "push the puck to the {} mark", "put the puck down on the {} circle"]
)
def test_advice_for_a_state_does_not_depend_on_what_else_is_asked(goal):
    rng = np.random.default_rng(3)
    scene = draw_scene(4, {"r": "reach-wall", "p": "push-wall"}[goal[0]])
    states = np.zeros((300, len(oracle.STATE)))
    states[:, oracle.HAND] = rng.uniform(*WORKSPACE, (300, 3))
    states[:, oracle.PUCK] = states[:, oracle.HAND] + rng.normal(0, 0.04, (300, 3))
    states[:, oracle.GRIPPING] = rng.random(300) < 0.3
    told = parse(goal.format(scene.marks[0].colour) + f", never enter the {scene.zones[0].colour} zone")
    alone = [expert.advise(state[None], scene, told)[0] for state in states]
    np.testing.assert_array_equal(expert.advise(states, scene, told), alone)
