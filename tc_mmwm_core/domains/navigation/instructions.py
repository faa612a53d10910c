"""The navigation grammar: an instruction is goal × rules × wording, and every wording reads back as what it means."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.domains.grammar import COLOUR, ZONE_PAIR, Reading, Split, Wordings, pick, sentence, unusual_pair
from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.navigation.scene import Scene

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


def held_out(meaning: Instruction) -> bool:
    """Whether training never combines so: some pairs of a pad's and a zone's colour, and a speed with a clearance rule.

    Each colour and each rule is trained on; only their combination is not.
    """
    return unusual_pair(meaning.goal, meaning.keep_out) or (meaning.slow and meaning.clear)


def word(meaning: Instruction, rng: np.random.Generator, split: Split = "train") -> Instruction:
    """Give ``meaning`` a wording drawn from ``split``."""
    goal = pick(GOAL[split], rng).format(meaning.goal)
    rules = []
    if len(meaning.keep_out) == 1:
        rules.append(pick(KEEP_OUT[split], rng).format(meaning.keep_out[0]))
    elif len(meaning.keep_out) == 2:
        meaning = dataclasses.replace(meaning, keep_out=tuple(rng.permutation(meaning.keep_out).tolist()))
        rules.append(pick(KEEP_OUT[split], rng).format(pick(ZONE_PAIR, rng).format(*meaning.keep_out)))
    if meaning.slow:
        rules.append(pick(SLOW[split], rng))
    if meaning.clear:
        rules.append(pick(CLEAR[split], rng))
    return dataclasses.replace(meaning, text=sentence(goal, rules, rng))


def draw(scene: Scene, rng: np.random.Generator, beyond: Collection[str] = ()) -> Instruction:
    """Draw an instruction that can be carried out in ``scene``; one rule in ten names a zone that is not there.

    ``beyond`` may hold ``wording`` (one that training never uses) and ``composition`` (one that is :func:`held_out`).
    """
    while True:
        meaning = _draw_meaning(scene, rng)
        if held_out(meaning) == ("composition" in beyond):
            return word(meaning, rng, "test" if "wording" in beyond else "train")


def draw_absent(scene: Scene, rng: np.random.Generator) -> Instruction:
    """As :func:`draw`, but the pad that is the goal is not in ``scene``."""
    absent = [colour for colour in COLOURS if scene.pad(colour) is None]
    while True:
        meaning = dataclasses.replace(_draw_meaning(scene, rng), goal=pick(absent, rng))
        if not held_out(meaning):
            return word(meaning, rng)


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
    goals = {match[1] for match in reading.find(GOAL, COLOUR)}
    goal = reading.one_goal(goals, "; ".join(phrase.format("<colour>") for phrase in GOAL["train"][:4]))
    meaning = Instruction(
        goal=goal,
        keep_out=reading.zones(KEEP_OUT),
        slow=bool(reading.find(SLOW)),
        clear=bool(reading.find(CLEAR)),
        text=text,
    )
    rules = (phrase for wordings in (KEEP_OUT, SLOW, CLEAR) for phrase in wordings["train"][:2])
    reading.refuse_rest("; ".join(rules).format(*["<colour>"] * 2))
    return meaning
