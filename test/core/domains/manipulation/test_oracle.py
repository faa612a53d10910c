"""The oracle against geometry done the slow way, and its cost along what the expert does."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.layouts import Zone
from tc_mmwm_core.domains.manipulation import oracle
from tc_mmwm_core.domains.manipulation.instructions import HIGH, LOW, SPEED_LIMIT, Instruction
from tc_mmwm_core.domains.manipulation.scene import (
    BODY_RADIUS,
    MARK_RADIUS,
    TASKS,
    VIEW,
    VIEW_CENTRE,
    WORKSPACE,
    Mark,
    Scene,
    draw_scene,
    wall_distance,
)

SCENE = Scene(
    seed=0,
    task="push",
    marks=(Mark("green", 0.2, 0.85), Mark("red", -0.2, 0.85), Mark("blue", -0.1, 0.88)),
    zones=(Zone("blue", 0.1, 0.75, 0.06), Zone("red", -0.25, 0.6, 0.05)),
    puck=(0.0, 0.62),
    hand=(0.05, 0.55, 0.12),
)
WALLED = dataclasses.replace(SCENE, task="pick-place-wall", zones=())
REACH, PUSH = Instruction("reach", "green"), Instruction("push", "green")


def states(count=500, seed=0):
    """Anything that could be."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((count, len(oracle.STATE)))
    drawn[:, oracle.HAND] = rng.uniform(*WORKSPACE, (count, 3))
    drawn[:, oracle.VELOCITY] = rng.uniform(-0.2, 0.2, (count, 3))
    drawn[:, oracle.OPENING] = rng.uniform(0, 0.1, count)
    drawn[:, oracle.GRIPPING] = rng.integers(0, 2, count)
    drawn[:, oracle.PUCK] = rng.uniform(*WORKSPACE, (count, 3)) * (1, 1, 0.5)
    drawn[:, [oracle.WALL_GAP, oracle.PUCK_GAP]] = rng.uniform(-0.01, 0.1, (count, 2))
    return drawn.astype(np.float32)


def state(hand=(0, 0.6, 0.12), puck=(0.0, 0.62, 0.02), opening=0.1, gripping=0.0):
    row = np.zeros((1, len(oracle.STATE)), np.float32)
    row[0, oracle.HAND], row[0, oracle.PUCK] = hand, puck
    row[0, oracle.OPENING], row[0, oracle.GRIPPING] = opening, gripping
    row[0, [oracle.WALL_GAP, oracle.PUCK_GAP]] = 0.3
    return row


def over(xy, zone):
    """Whether any point of a body at ``xy`` is above the zone."""
    angle = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = xy + np.concatenate([ring * radius for radius in np.linspace(0, BODY_RADIUS, 8)])
    return bool((np.abs(points - [zone.x, zone.y]).max(1) < zone.half).any())


@pytest.mark.parametrize("verb", ["reach", "push", "place"])
def test_a_zone_is_entered_by_the_hand_and_by_the_puck_that_is_moved(verb):
    zone, samples = SCENE.zone("blue"), states()
    margin = oracle.margin(samples, SCENE, Instruction(verb, "green", ("blue",)))
    sure = np.abs(margin) > 5e-4  # the outline above is a polygon
    assert sure.mean() > 0.98
    hand = np.array([over(row[oracle.HAND][:2], zone) for row in samples[sure]])
    puck = np.array([over(row[oracle.PUCK][:2], zone) for row in samples[sure]])
    np.testing.assert_array_equal(margin[sure] > 0, hand if verb == "reach" else hand | puck)
    assert hand.any() and (puck & ~hand).any()


def test_rules_on_motion_and_touch_read_the_state():
    samples = states()
    for rule, broken in (
        ({"slow": True}, np.linalg.norm(samples[:, oracle.VELOCITY], axis=1) > SPEED_LIMIT),
        ({"height": "low"}, samples[:, 2] > LOW),
        ({"height": "high"}, samples[:, 2] < HIGH),
        ({"spare": "wall"}, samples[:, oracle.WALL_GAP] < oracle.TOUCH),
        ({"spare": "puck"}, samples[:, oracle.PUCK_GAP] < oracle.TOUCH),
    ):
        margin = oracle.margin(samples, SCENE, dataclasses.replace(REACH, **rule))
        np.testing.assert_array_equal(margin > 0, broken)
        assert broken.any() and not broken.all()


def test_a_touch_breaks_its_rule_by_as_much_at_any_depth_and_room_counts_from_the_touch():
    samples = np.repeat(states()[:1], 4, 0)
    samples[:, oracle.WALL_GAP] = 0.0, 0.9 * oracle.TOUCH, oracle.TOUCH, oracle.TOUCH + 0.05
    margin = oracle.margin(samples, SCENE, dataclasses.replace(REACH, spare="wall"))
    np.testing.assert_allclose(margin, [oracle.TOUCH_MARGIN, oracle.TOUCH_MARGIN, 0.0, -0.05], atol=1e-9)


def test_no_rule_or_a_zone_that_is_not_there_is_never_broken():
    for instruction in (PUSH, dataclasses.replace(PUSH, keep_out=("purple",))):
        assert (oracle.margin(states(), SCENE, instruction) == -oracle.MARGIN_LIMIT).all()


def test_the_worst_rule_counts_and_is_named():
    both = Instruction("push", "green", ("blue", "red"), height="low")
    samples = states()
    single = [dataclasses.replace(PUSH, keep_out=(colour,)) for colour in ("blue", "red")]
    single.append(dataclasses.replace(PUSH, height="low"))
    worst = np.max([oracle.margin(samples, SCENE, one) for one in single], 0)
    np.testing.assert_allclose(oracle.margin(samples, SCENE, both), worst, atol=1e-7)
    high_over_blue = state(hand=(0.1, 0.75, 0.25))[0]
    assert oracle.broken_rules(high_over_blue, SCENE, both) == ["keep out of the blue zone", "hand below 0.15 m"]


def test_reached_is_the_hand_or_the_puck_on_the_mark_and_down():
    samples = states(4000)
    for instruction, body, height in ((REACH, oracle.HAND, oracle.REACH_HEIGHT), (PUSH, oracle.PUCK, 0.06)):
        place = samples[:, body]
        on = (np.hypot(place[:, 0] - 0.2, place[:, 1] - 0.85) < MARK_RADIUS) & (place[:, 2] < height)
        np.testing.assert_array_equal(oracle.reached(samples, SCENE, instruction), on)
        assert on.any()
        assert (oracle.cost_to_go(samples[on], SCENE, instruction) == 0).all()


def test_a_goal_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no purple mark in this scene; it has \['green', 'red', 'blue'\]"):
        oracle.reached(states(1), SCENE, Instruction("reach", "purple"))


def test_cost_in_the_open_is_the_distance_of_the_hand():
    samples = states()
    inner = np.abs(samples[:, :2] - VIEW_CENTRE).max(1) < 0.22
    samples = samples[inner & (samples[:, 2] < oracle.REACH_HEIGHT)]
    straight = np.hypot(*(samples[:, :2] - [0.2, 0.85]).T)
    straight[oracle.reached(samples, SCENE, REACH)] = 0
    costs = oracle.cost_to_go(samples, dataclasses.replace(SCENE, zones=()), REACH)
    np.testing.assert_allclose(costs * oracle.COST_UNIT, straight, atol=0.015)


def test_cost_goes_around_what_is_forbidden_only():
    before = state(hand=(0.0, 0.65, 0.1))  # the blue zone lies between here and the green mark
    free = oracle.cost_to_go(before, SCENE, REACH)[0]
    around = oracle.cost_to_go(before, SCENE, dataclasses.replace(REACH, keep_out=("blue",)))[0]
    assert free == pytest.approx(math.hypot(0.2, 0.2) / 0.1, abs=0.15)
    assert free + 0.3 < around < free + 3


def test_the_way_leads_over_the_wall_unless_the_hand_must_stay_low():
    before = state(hand=(0.1, 0.65, 0.12))
    meaning = Instruction("reach", "blue")
    over_it = oracle.cost_to_go(before, WALLED, meaning)[0]
    around = oracle.cost_to_go(before, WALLED, dataclasses.replace(meaning, height="low"))[0]
    assert oracle.lift(WALLED, dataclasses.replace(meaning, height="low")) is None
    assert over_it < around
    lifted = oracle.cost_to_go(state(hand=(0.1, 0.65, 0.17)), WALLED, meaning)[0]
    assert lifted < over_it  # being high before the wall is worth something
    beyond = state(hand=(0.1, 0.86, 0.12)), state(hand=(0.1, 0.86, 0.25))
    assert oracle.cost_to_go(beyond[0], WALLED, meaning)[0] < oracle.cost_to_go(beyond[1], WALLED, meaning)[0]


def test_the_stages_of_moving_the_puck_cost_less_and_less():
    puck, grasp = (0.0, 0.62, 0.02), oracle.GRASP_HEIGHT
    stages = [
        state(hand=(0.1, 0.5, 0.12)),
        state(hand=(0.05, 0.56, 0.12)),
        state(hand=(0.0, 0.62, 0.12)),
        state(hand=(0.0, 0.62, 0.08)),
        state(hand=(0.0, 0.62, grasp)),
        state(hand=(0.0, 0.62, grasp), opening=0.06),
        state(hand=(0.0, 0.62, grasp), opening=0.045, gripping=1),
        state(hand=(0.1, 0.72, grasp), puck=(0.1, 0.72, 0.02), opening=0.045, gripping=1),
        state(hand=(0.2, 0.85, grasp), puck=(0.2, 0.85, 0.02), opening=0.045, gripping=1),
    ]
    for instruction in (PUSH, Instruction("place", "green")):
        costs = [oracle.cost_to_go(stage, SCENE, instruction)[0] for stage in stages]
        assert (np.diff(costs) < -0.05).all(), costs
        assert costs[-1] == 0
    beside = oracle.cost_to_go(state(hand=(0.035, 0.62, grasp)), SCENE, PUSH)  # low at its side it would be pushed
    above = oracle.cost_to_go(state(hand=(0.035, 0.62, 0.12)), SCENE, PUSH)
    assert above < beside
    closed = oracle.cost_to_go(state(hand=(0.1, 0.5, 0.12), opening=0.02, puck=puck), SCENE, PUSH)
    assert closed > oracle.cost_to_go(stages[0], SCENE, PUSH)


@pytest.mark.parametrize("task", TASKS)
def test_the_cost_falls_while_the_expert_works(dark, task):
    domain = load_domain("manipulation")
    _, info = dark.reset(seed=4, options={"scene": draw_scene(4, task)})
    drive, recorded, over = domain.driver("expert", np.random.default_rng(0)), [info["state"]], False
    while not over:
        *_, over, truncated, info = dark.step(drive(dark, info))
        recorded.append(info["state"])
        assert not truncated
    costs = domain.judge(info["scene"], np.array(recorded), info["instruction"]).cost
    assert spearmanr(costs, np.arange(len(costs))).statistic < -0.97
    assert costs[-1] == 0 < costs[:-1].min()
    assert (np.diff(costs) < 0.15).all()  # no stage begins with a step back of more than a centimetre and a half


def test_descent_leads_every_start_to_its_goal_without_a_violation():
    for seed in range(12):
        layout = draw_scene(seed)
        told = Instruction("push", layout.marks[0].colour, tuple(sorted(zone.colour for zone in layout.zones)))
        way, place = oracle.goal_ways(layout, told).around, np.array(layout.puck)
        for _ in range(400):
            if np.hypot(*(place - oracle.goal(layout, told))) < MARK_RADIUS:
                break
            place = place + 0.005 * oracle.GRID.descent(way, place[None])[0]
            there = state(hand=(*place, 0.055), puck=(*place, 0.02))
            assert oracle.margin(there, layout, told)[0] <= 0, f"layout {seed}"
            assert not layout.wall or wall_distance(place[None])[0] > 0, f"layout {seed}"
        else:
            pytest.fail(f"layout {seed}: not there after 2 m")


def test_referents_are_where_the_named_things_are_in_the_image():
    rows = oracle.referents(SCENE, Instruction("push", "green", ("blue", "purple")))
    place = [(0.2, 0.15), (0.1, 0.05)]
    expected = [[x / VIEW, y / VIEW, size / VIEW, 1] for (x, y), size in zip(place, (MARK_RADIUS, 0.06), strict=True)]
    np.testing.assert_allclose(rows, [*expected, [0, 0, 0, 0]], atol=1e-6)


def test_places_are_those_of_hand_and_puck():
    [place] = oracle.places(state(hand=(0.2, 0.85, 0.1), puck=(-0.1, 0.62, 0.02)))
    np.testing.assert_allclose(place * VIEW, [0.2, 0.15, -0.1, -0.08], atol=1e-6)


def test_the_field_is_cost_and_margin_of_standing_there():
    instruction = Instruction("reach", "green", ("blue",), slow=True)
    cost, margin = oracle.field(SCENE, instruction)
    side = ((np.arange(oracle.FIELD) + 0.5) * 2 / oracle.FIELD - 1) * VIEW
    row, column = np.abs(VIEW_CENTRE[1] - side - 0.85).argmin(), np.abs(side - 0.2).argmin()
    assert np.unravel_index(cost.argmin(), cost.shape) == (row, column)
    rows, columns = np.nonzero(margin > 0)
    inside = np.abs(np.stack([side[columns] - 0.1, VIEW_CENTRE[1] - side[rows] - 0.75])).max(0)
    assert len(rows) and (inside < 0.06 + BODY_RADIUS).all()
