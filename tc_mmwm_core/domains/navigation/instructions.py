"""The navigation grammar: an instruction is goal × rules × wording, and every wording reads back as what it means."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grammar import Reading, Split, Wordings
from tc_mmwm_core.domains.navigation.scene import COLOURS, Scene

FACTORS = ("wording", "composition")  # of an instruction, that can be taken beyond what training uses

SPEED_LIMIT = 0.35  # m/s, what "slowly" allows
CLEARANCE = 0.18  # m, what "well away from the pillars" asks between robot and pillar surface


@dataclass(frozen=True)
class Instruction:
    """What an instruction means.

    Attributes:
        goal: colour of the pad to reach.
        keep_out: colours of the forbidden zones, none to two, in the order of the text.
        slow: the robot's speed must stay below :data:`SPEED_LIMIT`.
        clear: the robot must keep :data:`CLEARANCE` from the pillars.
        text: one wording of it.
    """

    goal: str
    keep_out: tuple[str, ...] = ()
    slow: bool = False
    clear: bool = False
    text: str = ""


GOAL: Wordings = {
    "train": (
        "drive to the {} pad",
        "go to the {} pad",
        "head for the {} disc",
        "reach the {} pad",
        "park on the {} circle",
        "move to the {} disc",
        "get onto the {} pad",
        "navigate to the {} circle",
        "please bring the robot to the {} pad",
        "your goal is the {} pad",
        "stop on the {} disc",
        "find the {} pad",
        "come to the {} circle",
        "steer to the {} disc",
        "approach the {} pad",
    ),
    "test": ("make your way to the {} pad", "proceed to the {} disc", "travel to the {} circle"),
}
KEEP_OUT: Wordings = {
    "train": (
        "never enter the {} zone",
        "stay out of the {} zone",
        "keep out of the {} area",
        "avoid the {} zone",
        "do not cross the {} square",
        "don't drive through the {} area",
        "keep off the {} square",
        "the {} zone is forbidden",
        "without touching the {} zone",
        "the {} area is closed",
        "go around the {} zone",
        "stay away from the {} square",
        "bypass the {} area",
    ),
    "test": ("steer clear of the {} zone", "do not set foot in the {} area", "the {} square is off limits"),
}
SLOW: Wordings = {
    "train": (
        "drive slowly",
        "go slow",
        "keep your speed low",
        "no speeding",
        "move slowly",
        "do not hurry",
        "take your time",
        "at a slow pace",
        "without haste",
        "slow down",
    ),
    "test": ("take it slow", "at a low speed"),
}
CLEAR: Wordings = {
    "train": (
        "keep well away from the pillars",
        "keep your distance from the pillars",
        "stay far from the columns",
        "do not go near the pillars",
        "keep clear of the columns",
        "stay well away from the columns",
        "leave a wide gap to the pillars",
        "do not pass close to the pillars",
    ),
    "test": ("give the pillars a wide berth", "leave plenty of room around the columns"),
}
RULES = (KEEP_OUT, SLOW, CLEAR)
ZONE_PAIR = ("{} zone or the {}", "{} zone and the {}")  # fills one keep-out clause with two colours


def held_out(meaning: Instruction) -> bool:
    """Whether training never combines so: some pairs of a pad's and a zone's colour, and a speed with a clearance rule.

    Each colour and each rule is trained on; only their combination is not.
    """
    order = list(COLOURS)
    pairs = any((order.index(meaning.goal) - order.index(zone)) % len(order) == 4 for zone in meaning.keep_out)
    return pairs or (meaning.slow and meaning.clear)


def word(meaning: Instruction, rng: np.random.Generator, split: Split = "train") -> Instruction:
    """Give ``meaning`` a wording drawn from ``split``."""
    goal = _pick(GOAL[split], rng).format(meaning.goal)
    rules = []
    if len(meaning.keep_out) == 1:
        rules.append(_pick(KEEP_OUT[split], rng).format(meaning.keep_out[0]))
    elif len(meaning.keep_out) == 2:
        meaning = dataclasses.replace(meaning, keep_out=tuple(rng.permutation(meaning.keep_out).tolist()))
        rules.append(_pick(KEEP_OUT[split], rng).format(_pick(ZONE_PAIR, rng).format(*meaning.keep_out)))
    if meaning.slow:
        rules.append(_pick(SLOW[split], rng))
    if meaning.clear:
        rules.append(_pick(CLEAR[split], rng))
    rng.shuffle(rules)
    clauses = [*rules, goal] if rules and rng.random() < 0.35 else [goal, *rules]
    text = clauses[0]
    for clause in clauses[1:]:
        text += (", " if rng.random() < 0.6 else " and " if rng.random() < 0.7 else ", and ") + clause
    return dataclasses.replace(meaning, text=text)


def draw(scene: Scene, rng: np.random.Generator, beyond: Collection[str] = ()) -> Instruction:
    """Draw an instruction that can be carried out in ``scene``; one rule in ten names a zone that is not there.

    ``beyond`` may hold ``wording`` (one that training never uses) and ``composition`` (one that is :func:`held_out`).
    """
    while True:
        meaning = _draw_meaning(scene, rng)
        if held_out(meaning) == ("composition" in beyond):
            return word(meaning, rng, "test" if "wording" in beyond else "train")


def _draw_meaning(scene: Scene, rng: np.random.Generator) -> Instruction:
    goal = scene.pads[rng.integers(len(scene.pads))].colour
    present = [zone.colour for zone in scene.zones]
    absent = [colour for colour in COLOURS if colour not in present]
    count = int(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2]))
    colours = rng.permutation(present)[:count].tolist()
    if count and rng.random() < 0.1:
        colours[0] = absent[rng.integers(len(absent))]
    slow, clear = bool(rng.random() < 0.2), bool(rng.random() < 0.3)
    return Instruction(goal, tuple(sorted(colours)), slow, clear)


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Instruction:
    """Read a wording of the grammar back.

    Raises:
        DomainError: no goal clause of the grammar is found, it names two, or there is more in the text than clauses of
            the grammar; known wordings are listed.
    """
    reading = Reading(text)
    colour = "(" + "|".join(COLOURS) + ")"
    goals = {match[1] for match in reading.find(GOAL, colour)}
    if len(goals) != 1:
        known = "; ".join(phrase.format("<colour>") for phrase in GOAL["train"][:4])
        found = "no goal" if not goals else f"goals {sorted(goals)}"
        raise DomainError(
            f"instruction {text!r}: {found} found; one is needed, worded like: {known}; colours: {', '.join(COLOURS)}"
        )
    found = reading.find(KEEP_OUT, colour + r"(?: zone (?:or|and) the " + colour + ")?")
    zones = sorted((match.start(group), match[group]) for match in found for group in (1, 2) if match[group])
    meaning = Instruction(
        goal=goals.pop(),
        keep_out=tuple(dict.fromkeys(name for _, name in zones)),
        slow=bool(reading.find(SLOW)),
        clear=bool(reading.find(CLEAR)),
        text=text,
    )
    known = "; ".join(phrase.format("<colour>") for wordings in RULES for phrase in wordings["train"][:2])
    reading.refuse_rest(f"beside its goal it may hold rules, worded like: {known}; colours: {', '.join(COLOURS)}")
    return meaning


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]
