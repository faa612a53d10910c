"""How both grammars are read."""

import pytest

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grammar import Reading

ORDERS = {"train": ("go to the {}", "stay low"), "test": ("stay very low",)}


def read(text):
    reading = Reading(text)
    found = [match.groups() for match in reading.find(ORDERS, "(door|gate)")]
    reading.refuse_rest("go; stay")
    return found


def test_clauses_are_found_whatever_stands_between_them():
    assert read("Go to the  DOOR ,and stay low.") == read("go to the door; stay low") == [("door",), ()]


@pytest.mark.parametrize(
    "text, left",
    [
        ("go to the door, stay lower", "'stay lower'"),
        ("go to the doorway", "'go to the doorway'"),
        ("do not go to the door and never stay low", "'do not' and 'never'"),
        ("go to the door or the gate", "'or the gate'"),
        ("go to the door and sandy and hand", "'sandy and hand'"),
    ],
)
def test_what_is_left_is_quoted_and_nothing_of_it_passed_over(text, left):
    with pytest.raises(DomainError) as error:
        read(text)
    assert f"instruction {text!r}: {left} not understood; " in str(error.value)
    assert "worded like: go; stay; colours: red, green," in str(error.value)
