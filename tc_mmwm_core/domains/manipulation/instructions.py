"""The manipulation grammar: an instruction is goal × rules × wording, and every wording reads back as what it means."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.grammar import COLOUR, ZONE_PAIR, Reading, Split, Wordings, pick, sentence, unusual_pair
from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.manipulation.scene import Scene

SPEED_LIMIT = 0.18  # m/s of the hand, what "slowly" allows
LOW, HIGH = 0.15, 0.10  # m, hand heights that "low" stays below and "high" stays above
VERBS = {"reach-wall": "reach", "push": "push", "push-wall": "push", "pick-place-wall": "place"}  # of each task


@dataclass(frozen=True)
class Instruction:
    """What an instruction means.

    Attributes:
        verb: ``reach`` with the hand, ``push`` the puck, or pick it up and ``place`` it.
        goal: colour of the mark that it is about.
        keep_out: colours of the zones that neither hand nor moved puck may be over, at most two, in the text's order.
        slow: the hand's speed must stay below :data:`SPEED_LIMIT`.
        height: ``low`` (the hand stays below :data:`LOW`), ``high`` (above :data:`HIGH`) or empty.
        spare: ``wall`` or ``puck``, which must not be touched, or empty.
        text: one wording of it.
    """

    verb: str
    goal: str
    keep_out: tuple[str, ...] = ()
    slow: bool = False
    height: str = ""
    spare: str = ""
    text: str = ""


GOAL: dict[str, Wordings] = {
    "reach": {
        "train": (
            "reach the {} mark",
            "go to the {} mark",
            "bring the hand to the {} circle",
            "move the gripper over the {} mark",
            "head for the {} spot",
            "move to the {} circle",
            "your goal is the {} spot",
            "travel to the {} mark",
            "hover over the {} circle",
            "position the hand above the {} spot",
            "take the gripper to the {} circle",
            "steer the hand towards the {} mark",
            "approach the {} spot",
            "find the {} circle",
            "get to the {} mark",
            "proceed to the {} spot",
            "come to the {} circle",
            "stop over the {} mark",
            "place the hand above the {} mark",
            "reach out to the {} spot",
        ),
        "test": ("make your way to the {} mark", "get the gripper to the {} spot"),
    },
    "push": {
        "train": (
            "push the puck to the {} mark",
            "slide the puck to the {} mark",
            "push the puck onto the {} circle",
            "shove the puck to the {} spot",
            "move the puck along the table to the {} mark",
            "please slide the puck onto the {} spot",
            "nudge the puck to the {} spot",
            "push the puck across the table until it is on the {} mark",
            "shift the puck to the {} circle by sliding it",
            "use the gripper to push the puck to the {} spot",
            "send the puck along the table to the {} circle",
            "with a push bring the puck to the {} mark",
            "keep pushing the puck until it reaches the {} spot",
            "drive the puck to the {} mark with the gripper",
            "the puck has to slide to the {} circle",
            "pull or push the puck to the {} mark",
            "sweep the puck over to the {} spot",
            "move the puck to the {} circle without lifting it",
        ),
        "test": ("drag the puck to the {} mark", "get the puck over to the {} circle by pushing"),
    },
    "place": {
        "train": (
            "pick up the puck and place it on the {} mark",
            "pick the puck and put it on the {} circle",
            "grasp the puck and set it down on the {} mark",
            "take the puck and place it on the {} spot",
            "put the puck down on the {} circle",
            "carry the puck to the {} mark",
            "lift the puck and lower it onto the {} mark",
            "transport the puck to the {} circle",
            "bring the puck to the {} spot",
            "collect the puck and leave it on the {} spot",
            "drop the puck on the {} circle",
            "hand the puck over to the {} mark",
            "return the puck to the {} spot",
            "pick the puck up and release it over the {} mark",
            "get the puck and deposit it on the {} circle",
            "set the puck on the {} spot",
            "grab the puck and take it to the {} mark",
            "lay the puck down at the {} spot",
            "relocate the puck to the {} circle",
        ),
        "test": ("fetch the puck and drop it off at the {} mark", "deliver the puck to the {} spot"),
    },
}
KEEP_OUT: Wordings = {
    "train": (
        "never enter the {} zone",
        "stay out of the {} zone",
        "keep out of the {} area",
        "avoid the {} zone",
        "do not cross the {} square",
        "don't move over the {} area",
        "keep off the {} square",
        "the {} zone is forbidden",
        "without entering the {} zone",
        "stay away from the {} area",
        "the {} area must not be entered",
        "go around the {} zone",
        "do not go into the {} square",
        "do not touch the {} zone",
        "leave the {} square free",
        "the {} zone is closed",
        "bypass the {} area",
        "no part of the {} zone may be crossed",
    ),
    "test": ("steer clear of the {} zone", "do not pass over the {} area", "the {} square is off limits"),
}
SLOW: Wordings = {
    "train": (
        "move slowly",
        "go slow",
        "keep your speed low",
        "no fast moves",
        "at low speed",
        "at a slow pace",
        "do not hurry",
        "be gentle",
        "take your time",
        "without haste",
        "slow and steady",
        "no quick movements",
        "slow down",
        "at a crawl",
        "unhurriedly",
        "do everything slowly",
    ),
    "test": ("take it slow", "without rushing"),
}
HEIGHT: dict[str, Wordings] = {
    "low": {
        "train": (
            "keep the gripper low",
            "keep the gripper below fifteen centimetres",
            "stay low over the table",
            "do not raise the hand high",
            "stay under fifteen centimetres",
            "keep the hand down low",
            "keep the gripper near the table",
            "never lift the hand far",
            "do not rise above fifteen centimetres",
            "stay close to the table top",
        ),
        "test": ("do not go higher than fifteen centimetres", "keep the hand close to the table"),
    },
    "high": {
        "train": (
            "keep the gripper high",
            "keep the gripper above ten centimetres",
            "stay high over the table",
            "do not lower the hand",
            "stay over ten centimetres",
            "keep the hand up high",
            "keep the gripper far from the table",
            "never let the hand sink",
            "do not drop below ten centimetres",
            "stay well up",
        ),
        "test": ("do not go lower than ten centimetres", "keep the hand well above the table"),
    },
}
SPARE: Wordings = {
    "train": (
        "do not touch the {}",
        "never bump into the {}",
        "without hitting the {}",
        "don't brush against the {}",
        "leave the {} alone",
        "do not hit the {}",
        "do not knock against the {}",
        "keep your hands off the {}",
        "avoid any contact with the {}",
        "do not disturb the {}",
        "do not come against the {}",
    ),
    "test": ("make no contact with the {}", "leave the {} untouched"),
}


def rules_for(task: str) -> tuple[str, ...]:
    """Kinds of rule that can be kept while the task is done, each as often as it is drawn."""
    kinds = ("zone", "zone", "zone", "slow", "low")
    if task == "reach-wall":
        return (*kinds, "high", "wall", "puck")
    return (*kinds, "wall") if task != "push" else kinds


def held_out(meaning: Instruction) -> bool:
    """Whether training never combines so: some pairs of a mark's and a zone's colour, and a speed with a height rule.

    Each colour and each rule is trained on; only their combination is not.
    """
    return unusual_pair(meaning.goal, meaning.keep_out) or (meaning.slow and bool(meaning.height))


def word(meaning: Instruction, rng: np.random.Generator, split: Split = "train") -> Instruction:
    """Give ``meaning`` a wording drawn from ``split``."""
    goal = pick(GOAL[meaning.verb][split], rng).format(meaning.goal)
    rules = []
    if meaning.keep_out:
        zones = meaning.keep_out[0]
        if len(meaning.keep_out) == 2:
            meaning = dataclasses.replace(meaning, keep_out=tuple(rng.permutation(meaning.keep_out).tolist()))
            zones = pick(ZONE_PAIR, rng).format(*meaning.keep_out)
        rules.append(pick(KEEP_OUT[split], rng).format(zones))
    if meaning.slow:
        rules.append(pick(SLOW[split], rng))
    if meaning.height:
        rules.append(pick(HEIGHT[meaning.height][split], rng))
    if meaning.spare:
        rules.append(pick(SPARE[split], rng).format(meaning.spare))
    return dataclasses.replace(meaning, text=sentence(goal, rules, rng))


def draw(scene: Scene, rng: np.random.Generator, beyond: Collection[str] = ()) -> Instruction:
    """Draw an instruction that can be carried out in ``scene``; one keep-out in ten names a zone that is not there.

    ``beyond`` may hold ``wording`` (one that training never uses) and ``composition`` (one that is :func:`held_out`).
    """
    while True:
        meaning = _draw_meaning(scene, rng)
        if held_out(meaning) == ("composition" in beyond):
            return word(meaning, rng, "test" if "wording" in beyond else "train")


def draw_absent(scene: Scene, rng: np.random.Generator) -> Instruction:
    """As :func:`draw`, but the mark that is the goal is not in ``scene``."""
    absent = [colour for colour in COLOURS if scene.mark(colour) is None]
    while True:
        meaning = dataclasses.replace(_draw_meaning(scene, rng), goal=pick(absent, rng))
        if not held_out(meaning):
            return word(meaning, rng)


def _draw_meaning(scene: Scene, rng: np.random.Generator) -> Instruction:
    goal = scene.marks[rng.integers(len(scene.marks))].colour
    kinds = rules_for(scene.task)
    present = [zone.colour for zone in scene.zones]
    absent = [colour for colour in COLOURS if colour not in present]
    zones: list[str] = []
    slow, height, spare = False, "", ""
    for kind in rng.choice(kinds, rng.choice([0, 1, 2], p=[0.15, 0.45, 0.40])):
        match kind:
            case "zone":
                zones.append(str(rng.choice(absent if rng.random() < 0.1 else present)))
            case "slow":
                slow = True
            case "low" | "high":
                height = str(kind)
            case "wall" | "puck":
                spare = str(kind)
    return Instruction(VERBS[scene.task], goal, tuple(sorted(set(zones))), slow, height, spare)


@functools.lru_cache(maxsize=8192)
def parse(text: str) -> Instruction:
    """Read a wording of the grammar back.

    Raises:
        DomainError: no goal clause of the grammar is found, or two, or two rules that exclude each other, or there is
            more in the text than clauses of the grammar; known wordings are listed.
    """
    reading = Reading(text)
    goals = {(verb, match[1]) for verb in GOAL for match in reading.find(GOAL[verb], COLOUR)}
    known = "; ".join(wordings["train"][0].format("<colour>") for wordings in GOAL.values())
    verb, goal = reading.one_goal(goals, known)
    heights = [height for height in HEIGHT if reading.find(HEIGHT[height])]
    spared = sorted({match[1] for match in reading.find(SPARE, "(wall|puck)")})
    for name, several in (("height", heights), ("spared object", spared)):
        if len(several) > 1:
            raise DomainError(f"instruction {text!r}: more than one {name}: {' and '.join(several)}")
    meaning = Instruction(
        verb=verb,
        goal=goal,
        keep_out=reading.zones(KEEP_OUT),
        slow=bool(reading.find(SLOW)),
        height="".join(heights),
        spare="".join(spared),
        text=text,
    )
    rules = (wordings["train"][0] for wordings in (KEEP_OUT, SLOW, *HEIGHT.values(), SPARE))
    reading.refuse_rest("; ".join(rules).format("<colour>", "<wall or puck>"))
    return meaning
