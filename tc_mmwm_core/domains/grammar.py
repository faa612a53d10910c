"""What the grammars of both domains share: a sentence is a goal and rules in any order, read clause by clause."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Collection, Sequence
from typing import Literal, TypeVar

import numpy as np

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.layouts import COLOURS

Split = Literal["train", "test"]
Wordings = dict[Split, tuple[str, ...]]  # phrases, most with a gap; no training instruction uses those under "test"
Goal = TypeVar("Goal")

FACTORS = ("wording", "composition")  # of an instruction, that can be taken beyond what training uses
ZONE_PAIR = ("{} zone or the {}", "{} zone and the {}")  # fills one keep-out clause with two colours
COLOUR = "(" + "|".join(COLOURS) + ")"


def unusual_pair(goal: str, keep_out: Collection[str]) -> bool:
    """Whether the colours of goal and forbidden zones are a pair that training never combines.

    Each colour is trained on in either place; only some of their combinations are not.
    """
    order = list(COLOURS)
    return any((order.index(goal) - order.index(zone)) % len(order) == 4 for zone in keep_out)


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of ``options``."""
    return options[rng.integers(len(options))]


def sentence(goal: str, rules: list[str], rng: np.random.Generator) -> str:
    """Goal and rules in words, the rules in random order before or after the goal."""
    rng.shuffle(rules)
    clauses = [*rules, goal] if rules and rng.random() < 0.35 else [goal, *rules]
    text = clauses[0]
    for clause in clauses[1:]:
        text += (", " if rng.random() < 0.6 else " and " if rng.random() < 0.7 else ", and ") + clause
    return text


class Reading:
    """A text on its way to its meaning. Case, spacing and punctuation do not matter.

    Each clause that is found is crossed off; a text is understood if in the end nothing is left of it. A rule that is
    worded otherwise, or a "do not" before a goal, must not be passed over: whoever is judged would be judged by less
    than what was said.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.plain = " ".join(re.sub(r"[,.;:!]", " ", text.lower()).split())
        self._open = self.plain  # as long as ``plain``, with what was understood crossed off

    def find(self, wordings: Wordings, fill: str = "") -> list[re.Match[str]]:
        """Each of ``wordings`` that the text holds, crossed off; ``fill`` matches what stands in the gap."""
        found = [
            m for phrase in itertools.chain(*wordings.values()) for m in pattern(phrase, fill).finditer(self.plain)
        ]
        for match in found:
            start, end = match.span()
            self._open = self._open[:start] + "|" * (end - start) + self._open[end:]
        return found

    def one_goal(self, goals: set[Goal], known: str) -> Goal:
        """The goal that was found; ``known`` says how it could have been worded. DomainError: none was, or several."""
        if len(goals) != 1:
            found = "no goal" if not goals else f"goals {sorted(goals)}"
            wanted = f"one is needed, worded like: {known}; colours: {', '.join(COLOURS)}"
            raise DomainError(f"instruction {self.text!r}: {found} found; {wanted}")
        [goal] = goals
        return goal

    def zones(self, keep_out: Wordings) -> tuple[str, ...]:
        """Colours of the zones that clauses of ``keep_out`` name, one or a pair each, in the order of the text."""
        found = self.find(keep_out, rf"{COLOUR}(?: zone (?:or|and) the {COLOUR})?")
        zones = sorted((match.start(group), match[group]) for match in found for group in (1, 2) if match[group])
        return tuple(dict.fromkeys(colour for _, colour in zones))

    def refuse_rest(self, known: str) -> None:
        """Nothing, where all was understood; ``known`` says how rules could have been worded.

        Raises:
            DomainError: quotes what is left beside "and".
        """
        pieces = (re.sub(r"^(and\b ?)+|( ?\band)+$", "", piece.strip()) for piece in self._open.split("|"))
        if left := [repr(piece) for piece in pieces if piece]:
            allowed = f"beside its goal it may hold rules, worded like: {known}; colours: {', '.join(COLOURS)}"
            raise DomainError(f"instruction {self.text!r}: {' and '.join(left)} not understood; {allowed}")


@functools.cache
def pattern(phrase: str, fill: str) -> re.Pattern[str]:
    """Matches ``phrase`` as whole words, with what ``fill`` matches in its gap."""
    return re.compile(r"\b" + re.escape(phrase).replace(r"\{\}", fill) + r"\b")
