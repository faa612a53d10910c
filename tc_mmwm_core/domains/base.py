"""What a simulated world with language must offer: the protocol that collection, training and evaluation rely on.

A domain is found by name (``navigation``) or as ``module:factory``; its environment is a plain Gymnasium one. ``tc-mmwm
check`` says whether a domain keeps to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from tc_mmwm_core.config import did_you_mean
from tc_mmwm_core.resources import ResourceError, robot_file, robot_given

DOMAINS = {
    "navigation": "tc_mmwm_core.domains.navigation.domain:make",
    "manipulation": "tc_mmwm_core.domains.manipulation.domain:make",
}


class DomainError(ValueError):
    """What is asked for and no domain has: the domain itself, a driver of it, an oracle for this instruction, ..."""


Driver = Callable[[gymnasium.Env, dict[str, Any]], np.ndarray]  # of (environment, info), an action [A] in units


@dataclass(frozen=True)
class Judgement:
    """An oracle's verdict on S states under one instruction. All of it is finite, ``elsewhere`` aside.

    Attributes:
        margin: [S] float32, how far the instruction is broken; > 0 means "violates". Its scale is the domain's own.
        cost: [S] float32, cost to go to the instruction's goal; 0 when done. Its scale is the domain's own.
        referents: [R, 4] float32 rows of x, y, extent, present (0/1): where is what the instruction names, the goal
            and then in the order of the sentence (a slot has to tell them apart by their phrases), in coordinates of
            the first camera's image, x right and y up in [-1, 1].
        place: [S, 2 B] float32, x and y of each of B points in the same coordinates: the robot, then its front (a robot
            that must turn before it can drive) or what it moves; B is ``model.bodies`` of the training config.
        field_cost, field_margin: [G, G] float32, cost and margin of standing at the centres of a grid over the first
            camera's image, first row at the top. G is the same in every judgement; labels keep them as float16, so that
            no value may be beyond 65504.
        elsewhere: [S, C - 1, B, 2] float32, x and y of the same points in the images of the other cameras, in the robot
            interface's order; NaN where out of view, None where unknown. What ``model.keypoints`` learns from.
    """

    margin: np.ndarray
    cost: np.ndarray
    referents: np.ndarray
    place: np.ndarray
    field_cost: np.ndarray
    field_margin: np.ndarray
    elsewhere: np.ndarray | None = None


class Domain(Protocol):
    """A simulated world with language. A class that inherits from it may leave out what has a default here.

    It is sent to other processes (pickled): what a simulator holds belongs to :meth:`environment`.
    """

    name: str
    robot: str  # file name of its robot interface under config/robots
    factors: tuple[str, ...] = ()  # of variation, that can be taken beyond what training sees, e.g. "wording", "size"
    state: dict[str, str]  # columns of the true state by name, with their SI unit; what is in rad is an angle

    def environment(self, render: bool = True) -> gymnasium.Env:
        """A Gymnasium environment.

        Observations: ``{"image.<name>": uint8 [H, W, C], ..., "sensor": float32 [Ds]}`` in the robot interface's order
        and units. Actions: float32 [A] in units; ``action_space`` is a Box of the interface's limits.
        ``reset(seed, options={"instruction": str, "factors": names of :attr:`factors` taken beyond training})``.
        The same seed gives the same episode, in another environment too.
        ``info``: ``instruction`` str and ``scene`` dict of what JSON can hold (no NumPy numbers or arrays:
        ``float(x)``, ``x.tolist()``), both the same in the whole episode, ``state`` float32 [P], ``margin`` float,
        ``violation`` bool (of this step: whether the margin is above 0), ``rules`` list of the broken rules in words,
        ``reached`` bool, ``success`` bool; optional: ``named_rules`` list of the rules that the instruction gives, in
        the same words (for compliance by rule).
        An episode must end by itself, terminated or truncated within its usual length: an evaluation drives it to its
        end. Without ``render`` images may be missing, and all else is the same. The unwrapped environment also has
        ``save() -> state`` and ``restore(state)``, bit-exact, also in another environment that is in the same episode.
        """
        ...

    def judge(self, scene: dict[str, Any], states: np.ndarray, text: str) -> Judgement:
        """Judge ``states`` [S, P] in ``scene`` under an instruction.

        Raises:
            DomainError: some of the text can't be understood, or it names a goal that ``scene`` has not. A recording
                under such a text counts as unjudged; any other error ends what asked for the judgement.
        """
        ...

    def draw_instruction(self, scene: dict[str, Any], rng: np.random.Generator, factors: Collection[str] = ()) -> str:
        """An instruction that can be carried out in ``scene``; ``factors`` are those taken beyond training."""
        ...

    def absent_goal(self, scene: dict[str, Any], rng: np.random.Generator) -> str | None:
        """An instruction like those drawn, but whose goal ``scene`` does not have; None, the default: there is none.

        What a planner makes of it is measured: it should say so, and stay where it is.
        """
        return None

    def rules(self, text: str) -> tuple[str, ...]:
        """Kinds of rule that an instruction asks for, e.g. ("zone", "speed"); none: (), the default."""
        return ()

    def advise(self, scene: dict[str, Any], states: np.ndarray, text: str) -> np.ndarray | None:
        """What an expert would do in each of ``states`` [S, P] under an instruction: [S, A] in units, NaN: nothing.

        Teaches the policy on every recorded motion what only successful ones would show it (DAgger, Ross et al., 2011).
        None, the default: the domain has no expert that can be asked so; the policy then imitates recorded successes.
        """
        return None

    def self_filter(self, image: np.ndarray) -> np.ndarray | None:
        """Which pixels of the first camera's images uint8 [S, H, W, C] show the robot itself: bool [S, H, W].

        Asked of images that the domain's simulator drew, and of no real recording, which has no scene.
        Teaches the memory of the view that what lies behind the robot is hidden, not gone. None, the default: unknown.
        """
        return None

    def driver(self, kind: str, rng: np.random.Generator) -> Driver:
        """A scripted driver, called at every step.

        Raises:
            DomainError: ``kind`` is none of :meth:`drivers`.
        """
        ...

    def drivers(self) -> dict[str, float]:
        """Kinds of driver, and the share of episodes that each collects; 0: only where it is asked for."""
        ...


def imported(target: str) -> Callable[[], Any]:
    """The factory that ``module:factory`` names. ImportError, AttributeError: there is none."""
    module, _, factory = target.partition(":")
    return getattr(importlib.import_module(module), factory)


def load_domain(name: str) -> Domain:
    """Find a domain by name or as ``module:factory``.

    Raises:
        DomainError: no such domain, module or factory, or the factory returns a class.
    """
    target = DOMAINS.get(name, name)
    if not all(target.partition(":")):
        known = f"known are {', '.join(DOMAINS)}, or your own as module:factory"
        raise DomainError(f"domain {name!r}: {known}{did_you_mean(name, DOMAINS)}")
    try:
        domain = imported(target)()
    except (ImportError, AttributeError) as error:
        raise DomainError(f"domain {name!r} cannot be loaded: {error}") from error
    if isinstance(domain, type):
        raise DomainError(f"domain {name!r} returns the class {domain.__name__}; an instance is needed")
    return domain


def robot_of(domain: Domain, given: Path | None = None) -> Path:
    """The robot interface to use with ``domain``: ``given``, a file or a shipped one's name, else the domain's own.

    Raises:
        ResourceError: there is no such file.
        DomainError: none is given, and that of the domain is not shipped.
    """
    if given is not None:
        return robot_given(given)
    try:
        return robot_file(domain.robot)
    except ResourceError:
        told = f"--robot is missing, and {domain.robot}, which domain {domain.name} names, is none that ships"
        raise DomainError(f"{told}; give --robot FILE") from None
