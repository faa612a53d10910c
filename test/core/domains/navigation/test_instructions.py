"""The grammar: every wording reads back as what it means, and test wordings are never trained on."""

import itertools

import numpy as np
import pytest

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.navigation import instructions
from tc_mmwm_core.domains.navigation.instructions import CLEAR, GOAL, KEEP_OUT, SLOW, Instruction, parse, word
from tc_mmwm_core.domains.navigation.scene import draw_scene


def meaning(instruction):
    return instruction.goal, tuple(sorted(instruction.keep_out)), instruction.slow, instruction.clear


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_wording_of_every_clause_reads_back(split):
    for goal, zone, slow, clear in itertools.product(GOAL[split], KEEP_OUT[split], SLOW[split], CLEAR[split]):
        text = ", ".join([goal.format("red"), zone.format("blue"), slow, clear])
        assert meaning(parse(text)) == ("red", ("blue",), True, True), text
        assert meaning(parse(goal.format("red"))) == ("red", (), False, False)


@pytest.mark.parametrize("split", ["train", "test"])
def test_drawn_wordings_read_back(split):
    rng = np.random.default_rng(0)
    for _ in range(1000):
        colours = rng.permutation(list(COLOURS))
        said = Instruction(
            str(colours[0]),
            tuple(sorted(map(str, rng.permutation(colours)[: rng.integers(3)]))),
            *(rng.random(2) < 0.5),
        )
        worded = word(said, rng, split)
        assert parse(worded.text) == worded, worded.text
        assert meaning(worded) == meaning(said), worded.text


def test_test_wordings_are_never_trained_on():
    for clauses in (GOAL, KEEP_OUT, SLOW, CLEAR):
        assert not set(clauses["train"]) & set(clauses["test"])
        for held_out, trained in itertools.product(clauses["test"], clauses["train"]):
            assert held_out not in trained and trained not in held_out


def test_held_out_combinations_are_drawn_only_where_composition_is_asked_for():
    rng = np.random.default_rng(2)
    for seed in range(40):
        layout = draw_scene(seed)
        for beyond in ((), ("wording",), ("composition",), ("wording", "composition")):
            drawn = instructions.draw(layout, rng, beyond)
            assert instructions.held_out(drawn) == ("composition" in beyond)
            trained = any(goal.format(drawn.goal) in drawn.text for goal in GOAL["train"])
            assert trained == ("wording" not in beyond)


def test_drawn_instructions_can_be_carried_out():
    rng = np.random.default_rng(1)
    for seed in range(50):
        layout = draw_scene(seed)
        assert layout.pad(instructions.draw(layout, rng).goal) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no goal"),
        ("make me a coffee", "no goal"),
        ("drive to the pink pad", "no goal"),
        ("go to the red pad, go to the blue pad", "goals ['blue', 'red']"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_known_wordings_are_told(text, found):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert found in str(error.value)
    assert "drive to the <colour> pad" in str(error.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("drive to the green pad, do not enter the blue zone", "'do not enter the blue zone'"),
        ("drive to the green pad, never enter the blue and red zones", "'never enter the blue and red zones'"),
        ("drive to the green pad, avoid the blue and the red zone", "'avoid the blue and the red zone'"),
        ("drive to the green pad, avoid the blue zone or the red", "'or the red'"),
        ("never enter the pink zone, go to the red pad", "'never enter the pink zone'"),
        ("do not drive to the red pad", "'do not'"),
        ("go to the red pad and never drive slowly", "'never'"),
        ("go to the red pad, go slowly", "'go slowly'"),
    ],
)
def test_no_rule_is_passed_over(text, left):
    with pytest.raises(DomainError) as error:
        parse(text)
    assert f"{left} not understood" in str(error.value)
    assert "never enter the <colour> zone" in str(error.value)


def test_case_spacing_and_commas_do_not_matter():
    one, other = (
        "Drive to the  GREEN pad ,never enter the blue zone",
        "drive to the green pad never enter the blue zone",
    )
    assert meaning(parse(one)) == meaning(parse(other)) == ("green", ("blue",), False, False)


def test_a_goal_that_is_not_there_is_drawn_with_rules_as_any_other():
    rng = np.random.default_rng(0)
    absent = [(scene, instructions.draw_absent(scene, rng)) for scene in map(draw_scene, range(30)) for _ in range(5)]
    assert all(scene.pad(meaning.goal) is None for scene, meaning in absent)
    assert all(parse(meaning.text) == meaning and not instructions.held_out(meaning) for _, meaning in absent)
    assert {len(meaning.keep_out) for _, meaning in absent} == {0, 1, 2}
