"""The manipulation grammar."""

import dataclasses

import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grammar import pattern
from tc_mmwm_core.domains.manipulation import instructions
from tc_mmwm_core.domains.manipulation.instructions import GOAL, VERBS, Instruction, draw, held_out, parse, rules_for
from tc_mmwm_core.domains.manipulation.scene import TASKS, draw_scene

SCENES = [draw_scene(seed) for seed in range(30)]
FACTORS = [(), ("wording",), ("composition",), ("wording", "composition")]


def drawn(beyond=(), count=400):
    rng = np.random.default_rng(0)
    return [draw(SCENES[index % len(SCENES)], rng, beyond) for index in range(count)]


@pytest.mark.parametrize("beyond", FACTORS)
def test_every_wording_reads_back_as_what_it_means(beyond):
    for instruction in drawn(beyond):
        assert parse(instruction.text) == instruction


def test_there_are_hundreds_of_instructions():
    assert len({instruction.text for instruction in drawn()}) > 200
    assert len({dataclasses.replace(instruction, text="") for instruction in drawn()}) > 150


def test_compositions_for_test_are_never_drawn_in_training():
    assert not any(held_out(instruction) for instruction in drawn(count=1000))
    assert all(held_out(instruction) for instruction in drawn(("composition",)))
    goals, zones = ({i.goal for i in drawn()}, {z for i in drawn() for z in i.keep_out})
    assert all({i.goal, *i.keep_out} <= goals | zones for i in drawn(("composition",)))  # but each of its parts is


def test_wordings_for_test_are_never_drawn_in_training():
    lists = [
        *GOAL.values(),
        instructions.KEEP_OUT,
        instructions.SLOW,
        *instructions.HEIGHT.values(),
        instructions.SPARE,
    ]

    def holds(text, split):
        return any(pattern(p, r"[a-z]+").search(text) for wordings in lists for p in wordings[split])

    plain = [instruction.text.replace(",", "") for instruction in drawn()]
    assert not any(holds(text, "test") for text in plain)
    assert all(holds(instruction.text.replace(",", ""), "test") for instruction in drawn(("wording",)))


def test_every_kind_of_rule_is_drawn_for_the_tasks_that_can_keep_it():
    rng = np.random.default_rng(0)
    for task in TASKS:
        scene = draw_scene(0, task)
        several = [draw(scene, rng) for _ in range(200)]
        kinds = {("zone", bool(i.keep_out)) for i in several} | {("slow", i.slow) for i in several}
        kinds |= {(i.height, True) for i in several} | {(i.spare, True) for i in several}
        assert {kind for kind, there in kinds if there and kind} == set(rules_for(task))
        assert {i.verb for i in several} == {VERBS[task]}


def test_one_zone_rule_in_ten_names_a_zone_that_is_not_there():
    rng, scene = np.random.default_rng(0), SCENES[1]
    named = [zone for _ in range(1500) for zone in draw(scene, rng).keep_out]
    assert 0.05 < np.mean([scene.zone(zone) is None for zone in named]) < 0.15


def test_there_are_instructions_without_and_with_two_rules():
    counts = [len(i.keep_out) + i.slow + bool(i.height) + bool(i.spare) for i in drawn()]
    assert {0, 1, 2} == set(counts)


def test_a_sentence_is_read_whatever_its_order():
    meaning = Instruction("place", "red", ("green", "blue"), spare="wall")
    text = "Stay out of the green zone or the blue zone, do not touch the wall and put the puck down on the red circle"
    assert dataclasses.replace(parse(text), text="") == meaning


@pytest.mark.parametrize(
    "text, found",
    [
        ("dance", "no goal found"),
        ("reach the red mark and push the puck to the blue mark", r"goals \[\('push', 'blue'\), \('reach', 'red'\)\]"),
        ("reach the red mark, stay low over the table, keep the gripper high", "more than one height: low and high"),
        ("go to the pink mark", "colours: red, green, blue"),
        (
            "reach the red mark, drive slowly",
            "'drive slowly' not understood; .* <colour> zone; move slowly",
        ),
        ("reach the red mark, do not enter the blue zone", "'do not enter the blue zone' not understood"),
        ("reach the red mark, never enter the blue and red zones", "'never enter the blue and red zones' not"),
        ("reach the red mark, avoid the blue and the red zone", "'avoid the blue and the red zone' not understood"),
        ("reach the red mark, never enter the pink zone", "'never enter the pink zone' not understood"),
        ("reach the red mark, do not touch the wall or the puck", "'or the puck' not understood"),
        ("do not push the puck to the red mark", "'do not' not understood"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(text, found):
    with pytest.raises(DomainError, match=found):
        parse(text)


def test_a_goal_that_is_not_there_is_drawn_with_rules_as_any_other():
    rng = np.random.default_rng(0)
    absent = [(scene, instructions.draw_absent(scene, rng)) for scene in SCENES for _ in range(5)]
    assert all(scene.mark(meaning.goal) is None for scene, meaning in absent)
    assert all(parse(meaning.text) == meaning and not held_out(meaning) for _, meaning in absent)
    assert {len(meaning.keep_out) for _, meaning in absent} == {0, 1, 2}
