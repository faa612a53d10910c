"""The oracle against geometry done the slow way."""

import math

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import Zone
from tc_mmwm_core.domains.navigation import oracle
from tc_mmwm_core.domains.navigation.instructions import CLEARANCE, SPEED_LIMIT, Instruction, parse
from tc_mmwm_core.domains.navigation.scene import (
    ARENA,
    PAD_RADIUS,
    PILLAR_RADIUS,
    ROBOT_RADIUS,
    VIEW,
    Pad,
    Scene,
    draw_scene,
)

SCENE = Scene(
    seed=0,
    pads=(Pad("green", 1.0, 0.0), Pad("red", -1.0, 1.0)),
    zones=(Zone("blue", 0.0, 0.0, 0.3), Zone("red", -0.8, -0.8, 0.25)),
    pillars=((0.0, 1.0), (0.6, -1.0)),
    start=(-1.0, 0.0, 0.0),
)


def states(count=400, seed=0):
    rng = np.random.default_rng(seed)
    low, high = [-ARENA, -ARENA, -math.pi, -0.3, -2.5], [ARENA, ARENA, math.pi, 0.7, 2.5]
    return rng.uniform(low, high, (count, 5)).astype(np.float32)


def body(state):
    """Points of the robot's outline and inside."""
    angle = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    return state[:2] + np.concatenate([ring * radius for radius in np.linspace(0, ROBOT_RADIUS, 8)])


def overlaps(state, zone):
    return bool((np.abs(body(state) - [zone.x, zone.y]).max(1) < zone.half).any())


@pytest.mark.parametrize("colour", ["blue", "red"])
def test_a_zone_is_entered_when_the_body_overlaps_it(colour):
    zone = SCENE.zone(colour)
    samples = states()
    margin = oracle.margin(samples, SCENE, Instruction("green", (colour,)))
    clear_cut = np.abs(margin) > 1e-3  # the outline above is a polygon
    assert clear_cut.mean() > 0.98
    expected = [overlaps(state, zone) for state in samples[clear_cut]]
    assert (margin[clear_cut] > 0).tolist() == expected
    assert any(expected) and not all(expected)


def test_slowly_is_about_speed_in_either_direction():
    samples = states()
    margin = oracle.margin(samples, SCENE, Instruction("green", slow=True))
    np.testing.assert_array_equal(margin > 0, np.abs(samples[:, 3]) > SPEED_LIMIT)


def test_clear_is_about_the_gap_between_body_and_pillar():
    samples = states()
    margin = oracle.margin(samples, SCENE, Instruction("green", clear=True))
    gap = [min(np.hypot(*(body(s) - p).T).min() for p in SCENE.pillars) - PILLAR_RADIUS for s in samples]
    sure = np.abs(margin) > 1e-3
    np.testing.assert_array_equal(margin[sure] > 0, np.array(gap)[sure] < CLEARANCE)


def test_no_rule_or_a_zone_that_is_not_there_is_never_broken():
    for instruction in (Instruction("green"), Instruction("green", ("purple",))):
        assert (oracle.margin(states(), SCENE, instruction) == -oracle.MARGIN_LIMIT).all()


def test_the_worst_rule_counts_and_is_named():
    both = Instruction("green", ("blue", "red"), slow=True)
    samples = states()
    single = [Instruction("green", ("blue",)), Instruction("green", ("red",)), Instruction("green", slow=True)]
    worst = np.max([oracle.margin(samples, SCENE, one) for one in single], 0)
    np.testing.assert_array_equal(oracle.margin(samples, SCENE, both), worst)
    fast_in_blue = np.array([0, 0, 0, 0.6, 0], np.float32)
    assert oracle.broken_rules(fast_in_blue, SCENE, both) == ["keep out of the blue zone", "speed below 0.35 m/s"]


def test_reached_is_the_centre_on_the_pad():
    samples = states(2000)
    on_pad = np.hypot(samples[:, 0] - 1.0, samples[:, 1]) < PAD_RADIUS
    np.testing.assert_array_equal(oracle.reached(samples, SCENE, Instruction("green")), on_pad)
    assert on_pad.any()


def test_a_goal_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no purple pad in this scene; it has \['green', 'red'\]"):
        oracle.reached(states(1), SCENE, Instruction("purple"))


def test_cost_field_in_the_open_is_the_distance_to_the_pad():
    empty = Scene(0, (Pad("green", 0.5, 0.2),), (), (), (0, 0, 0))
    field = oracle.cost_field(empty, Instruction("green"))
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2))
    straight = np.maximum(np.hypot(*(points - [0.5, 0.2]).T) - 0.5 * PAD_RADIUS, 0)
    np.testing.assert_allclose(oracle.GRID.sample(field, points), straight, atol=0.05)


def test_cost_field_goes_around_what_is_forbidden_only():
    behind = np.array([[-1.0, 0.0]])  # the blue zone lies between here and the green pad
    free = oracle.GRID.sample(oracle.cost_field(SCENE, Instruction("green")), behind)[0]
    around = oracle.GRID.sample(oracle.cost_field(SCENE, Instruction("green", ("blue",))), behind)[0]
    corner = 0.3 + ROBOT_RADIUS
    detour = 2 * math.hypot(1.0 - 0.3, corner) + 2 * 0.3 - 0.5 * PAD_RADIUS  # over the corners, robot's body clear
    assert free == pytest.approx(2.0 - 0.5 * PAD_RADIUS, abs=0.1)
    assert detour - 0.15 < around < detour + 0.5


def test_descent_leads_every_start_to_its_goal_without_entering_the_zone():
    for seed in range(10):
        layout = draw_scene(seed)
        told = Instruction(layout.pads[0].colour, tuple(sorted(zone.colour for zone in layout.zones)))
        field = oracle.cost_field(layout, told)
        place = np.array([[*layout.start[:2], 0, 0, 0]])
        for _ in range(600):
            if oracle.reached(place, layout, told)[0]:
                break
            place[:, :2] += 0.02 * oracle.GRID.descent(field, place[:, :2])
            assert oracle.margin(place, layout, told)[0] <= 0, f"layout {seed}"
        assert oracle.reached(place, layout, told)[0], f"layout {seed}"


def test_facing_away_costs_more():
    field = oracle.cost_field(SCENE, Instruction("red"))
    way = oracle.GRID.descent(field, np.array([[1.0, 1.0]]))[0]
    towards = math.atan2(way[1], way[0])
    costs = oracle.cost_to_go(np.array([[1, 1, towards, 0, 0], [1, 1, towards + math.pi, 0, 0]]), field)
    assert costs[1] - costs[0] == pytest.approx(2 * oracle.TURN_COST, abs=1e-6)


def test_referents_are_where_the_named_things_are():
    rows = oracle.referents(SCENE, Instruction("green", ("blue", "purple")))
    np.testing.assert_allclose(
        rows, [[1 / VIEW, 0, PAD_RADIUS / VIEW, 1], [0, 0, 0.3 / VIEW, 1], [0, 0, 0, 0]], atol=1e-7
    )


def test_referents_come_in_the_order_of_the_sentence():
    layout = draw_scene(5)
    first, second = (zone.colour for zone in layout.zones[:2])
    goal = layout.pads[0].colour
    one, other = (
        oracle.referents(layout, parse(f"go to the {goal} pad, avoid the {a} zone, keep off the {b} square"))
        for a, b in ((first, second), (second, first))
    )
    assert not np.array_equal(one[1], one[2])
    np.testing.assert_array_equal(one, other[[0, 2, 1]])


def test_the_field_is_cost_and_margin_of_standing_there_first_row_at_the_top():
    told = Instruction("red", ("blue",), clear=True)
    costs = oracle.cost_field(SCENE, told)
    cost, margin = oracle.field(SCENE, told, costs)
    assert cost.shape == margin.shape == (oracle.FIELD, oracle.FIELD)
    cell = 2 * VIEW / oracle.FIELD
    for row, column in [(0, 0), (0, 31), (3, 20), (15, 15), (22, 9), (31, 16)]:
        there = np.array([[(column + 0.5) * cell - VIEW, VIEW - (row + 0.5) * cell, 0, 0, 0]])
        assert margin[row, column] == pytest.approx(oracle.margin(there, SCENE, told)[0])
        assert cost[row, column] == pytest.approx(oracle.GRID.sample(costs, there[:, :2])[0])

    def at(x, y):
        return int((VIEW - y) / cell), int((x + VIEW) / cell)

    assert np.unravel_index(cost.argmin(), cost.shape) == at(-1.0, 1.0)  # the red pad
    assert margin[at(0.0, 0.2)] > 0 > margin[at(-0.8, -0.8)]  # the blue zone; the red one is not forbidden
    assert margin[at(0.0, 1.0)] > 0 > margin[at(0.0, -1.0)]  # a pillar stands up there and none down here
