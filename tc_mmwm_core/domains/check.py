"""Check a domain against the protocol (:class:`Domain`) by running it, before anything long is done with it."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from tc_mmwm_core.domains.base import Domain, DomainError, Driver, Judgement
from tc_mmwm_core.domains.conformance import (
    DISAGREE,
    TOLD,
    action_misfits,
    check_advice,
    check_judgement,
    check_self_filter,
    described,
    disagreeing,
    observed_misfits,
    saving_misfits,
    space_misfits,
    success_misfits,
    told_misfits,
)
from tc_mmwm_core.interface.robot import RobotInterface

NEEDED = ("name", "robot", "state", "environment", "judge", "draw_instruction", "driver", "drivers")
DEFAULTS = ("factors", "absent_goal", "rules", "advise", "self_filter")
NONSENSE = "qzx vlorp"  # that no domain can understand
DRAWS = 8  # instructions that are drawn in each layout
REPEATED = 20  # steps that are done again from a seed, and from a saved state
IN_VIEW = 0.5  # share of the states in which the robot has to be in the first camera's image
POINTED = 0.25  # of half an image, by which the cheapest place may be off the goal, in half of the episodes
FRAMES = 16  # of the first camera, at most, that the self filter is asked about

Verdict = Literal["OK", "WRONG", "WARNING", "SKIPPED"]


@dataclass(frozen=True)
class Finding:
    """What was checked, and what of it was found; ``told`` says what is wrong, where, and what is needed."""

    checked: str
    verdict: Verdict
    told: str


@dataclass
class _Driven:
    """What came of one episode, up to the first error."""

    kind: str
    seed: int
    misfits: dict[str, str] = field(default_factory=dict)  # the first by field, with its step
    told: list[dict[str, Any]] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)  # of the first camera, first and last
    seen: set[str] = field(default_factory=set)  # images that show something,
    moved: set[str] = field(default_factory=set)  # and that change
    ended: bool = False

    @property
    def name(self) -> str:
        return f"episode {self.seed} (driver {self.kind})"

    @property
    def states(self) -> np.ndarray:
        return np.stack([info["state"] for info in self.told])

    @property
    def violations(self) -> list[bool]:
        return [bool(info["violation"]) for info in self.told]

    @property
    def succeeded(self) -> bool:
        return bool(self.told[-1]["success"])

    @property
    def instruction(self) -> str:
        return self.told[0]["instruction"]

    @property
    def scene(self) -> dict[str, Any]:
        return self.told[0]["scene"]


@dataclass(frozen=True)
class _Trial:
    """What is asked: the domain, three environments of it, and what its drivers did in the first."""

    domain: Domain
    interface: RobotInterface
    tokens: Callable[[list[str]], Any]
    steps: int
    environment: gymnasium.Env
    other: gymnasium.Env
    blind: gymnasium.Env  # that need not render
    episodes: list[_Driven]  # without a fault in any step

    @property
    def longest(self) -> _Driven:
        return max(self.episodes, key=lambda episode: len(episode.actions))


def check(
    domain: Domain,
    interface: RobotInterface,
    tokens: Callable[[list[str]], Any],
    episodes: int,
    steps: int,
    seed: int,
) -> Iterator[Finding]:
    """Run ``domain`` and say of each promise of the protocol whether it is kept.

    Each of the domain's drivers drives as many ``episodes``, each of another seed, from ``seed`` on.

    Args:
        tokens: raises ValueError where a text has no room among a model's tokens.
        steps: an episode that is longer does not end by itself.
    """
    environments: list[gymnasium.Env] = []
    try:
        for checked, promise, function, arguments in (
            ("members", "all there", _members, (domain,)),
            ("environment", "a new Gymnasium environment each time", _made, (domain, environments)),
        ):
            finding = _found(checked, promise, function, *arguments)
            yield finding
            if finding.verdict == "WRONG":
                return
        kinds = np.repeat([*domain.drivers()], episodes).tolist()
        driven = [_drive(domain, environments[0], interface, kind, seed + i, steps) for i, kind in enumerate(kinds)]
        yield from _of_steps(driven, environments[0], interface)
        if good := [episode for episode in driven if not episode.misfits.keys() - {"limits"}]:
            yield from _of_episodes(_Trial(domain, interface, tokens, steps, *environments, good))
        else:
            told = "no episode was without fault: fix what is above, then check again"
            yield Finding("everything else", "SKIPPED", told)
    finally:
        for environment in environments:
            environment.close()


def _of_steps(episodes: Sequence[_Driven], environment: gymnasium.Env, interface: RobotInterface) -> Iterator[Finding]:
    """What was looked at in each step: the first misfit of each field is told."""
    yield _found("action space", f"that of robot '{interface.name}'", space_misfits, environment, interface)
    misfits: dict[str, str] = {}
    for episode in episodes:
        misfits = {name: f"{episode.name}, {told}" for name, told in episode.misfits.items()} | misfits
    images = [f"image.{spec.name}" for spec in interface.images]
    others = [name for name in misfits if name.startswith("image.") and name not in images]
    for checked, promise, fields in (
        ("running", "no episode ended in an error", ("error", "returned", "observation")),
        ("images", f"{', '.join(images) or 'none'}, as the interface has them", (*images, *others)),
        ("sensor", f"float32 [{interface.sensor_size}], finite", ("sensor",)),
        ("info", ", ".join(TOLD), ("info", *TOLD)),
        ("actions", "what the drivers do is within the interface's limits", ("action", "limits")),
    ):
        wrong = [misfits[name] for name in fields if name in misfits]
        if wrong or any(episode.told for episode in episodes):
            yield _finding(checked, promise, wrong)
        else:
            yield Finding(checked, "SKIPPED", "there was nothing to look at")


def _of_episodes(trial: _Trial) -> Iterator[Finding]:
    """What whole episodes show, and what the domain says about them."""
    for checked, promise, function in (
        ("views", "images show something, and change", _views),
        ("end of an episode", f"by itself, within {trial.steps} steps", _end),
        ("state", f"columns {', '.join(trial.domain.state)}", _states),
        ("instructions", "short enough, the same by the same rng, obeyed if given", _texts),
        ("seed", "the same one gives the same episode, others give others", _seeds),
        ("save and restore", "bit for bit, in another environment too", _saves),
        ("judge", "fits the states, the image, and the violations that info tells", _judges),
        ("other members", ", ".join(DEFAULTS), _others),
        ("unknown driver", "refused with DomainError", _unknown_driver),
    ):
        yield _found(checked, promise, function, trial)
    yield _variety(trial.episodes)
    yield _outcomes(trial.episodes)


def _members(domain: Domain) -> Iterator[str]:
    missing = {
        name: "tc_mmwm_core.domains.base.Domain says what it is"
        for name in NEEDED
        if not hasattr(domain, name) or getattr(type(domain), name, None) is getattr(Domain, name, domain)
    }
    for name in DEFAULTS:
        if not hasattr(domain, name):
            missing[name] = "inherit from tc_mmwm_core.domains.base.Domain, which has a default"
    if missing:
        yield from (f"'{name}' is missing; {hint}" for name, hint in missing.items())
        return
    if not isinstance(domain.state, dict):
        yield f"'state' is {described(domain.state)}, a dict is needed: names of the columns, and their units"
    shares = domain.drivers()
    if not isinstance(shares, dict) or not shares or min(shares.values()) < 0 or not sum(shares.values()) > 0:
        yield f"drivers() returns {shares!r}; shares by name are needed, none below 0, not all 0"
    try:
        pickle.loads(pickle.dumps(domain))
    except Exception as error:  # whatever its own parts raise
        hint = "what a simulator holds belongs in the environment"
        yield f"it cannot be sent to other processes (pickled): {_told(error)}; {hint}"


def _made(domain: Domain, environments: list[gymnasium.Env]) -> Iterator[str]:
    for render in (True, True, False):
        environment = domain.environment(render=render)
        if not isinstance(environment, gymnasium.Env):
            yield f"environment(render={render}) returns {described(environment)}, a gymnasium.Env is needed"
            return
        environments.append(environment)
    if environments[0] is environments[1]:
        yield "environment() returns the same object again, a new one each time is needed"


def _drive(
    domain: Domain, environment: gymnasium.Env, interface: RobotInterface, kind: str, seed: int, steps: int
) -> _Driven:
    episode = _Driven(kind, seed)
    try:
        drive = domain.driver(kind, np.random.default_rng([seed, 0xC4EC]))
        if callable(drive):
            _go(episode, environment, interface, drive, steps)
        else:
            needed = "a function of (environment, info) is needed"
            episode.misfits["returned"] = f"driver({kind!r}) returns {described(drive)}, {needed}"
    except Exception as error:  # whatever the domain raises
        step = f"step {len(episode.actions)}" if episode.told else "reset"
        episode.misfits.setdefault("error", f"{step}: {_told(error)}")
    return episode


def _go(episode: _Driven, environment: gymnasium.Env, interface: RobotInterface, drive: Driver, steps: int) -> None:
    result = environment.reset(seed=episode.seed)
    if not isinstance(result, tuple) or len(result) != 2:
        episode.misfits["returned"] = "reset() has to return (observation, info)"
        return
    observation, info = result
    first: dict[str, np.ndarray] = {}
    while True:
        step = len(episode.actions)
        found = observed_misfits(observation, interface)
        found |= told_misfits(info, episode.told[0] if episode.told else None)
        episode.misfits = {name: f"step {step}: {told}" for name, told in found.items()} | episode.misfits
        if episode.misfits.keys() & {"observation", "info", "scene", "instruction", "state"}:
            return
        episode.told.append(info | {"state": np.array(info["state"]), "scene": copy.deepcopy(info["scene"])})
        for camera, name in enumerate(f"image.{spec.name}" for spec in interface.images):
            if name in episode.misfits:
                continue
            image = np.array(observation[name])
            if np.ptp(image):
                episode.seen.add(name)
            if not np.array_equal(first.setdefault(name, image), image):
                episode.moved.add(name)
            if camera == 0:
                episode.frames[1:] = [image]
        if episode.ended or step == steps:
            found = {} if episode.misfits else success_misfits(episode.told)
            episode.misfits |= {name: f"step {step}: {told}" for name, told in found.items()}
            return
        action = drive(environment, info)
        if found := action_misfits(action, interface):
            episode.misfits |= {name: f"step {step}: {told}" for name, told in found.items()}
            return
        if interface.beyond_limits(action).any():
            told = f"step {step}: the action is beyond the interface's limits: {action.tolist()}"
            episode.misfits.setdefault("limits", told)
        episode.actions.append(np.array(action))
        result = environment.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            episode.misfits["returned"] = "step() has to return (observation, reward, terminated, truncated, info)"
            return
        observation, _, terminated, truncated, info = result
        episode.ended = bool(terminated or truncated)


def _views(trial: _Trial) -> Iterator[str]:
    for name in (f"image.{spec.name}" for spec in trial.interface.images):
        if not any(name in episode.seen for episode in trial.episodes):
            yield f"'{name}' is of one colour in every step: is the scene drawn?"
        elif not any(name in episode.moved for episode in trial.episodes):
            yield f"'{name}' is the same in every step of an episode: is it drawn anew, and is the robot in view?"


def _end(trial: _Trial) -> Iterator[str]:
    for episode in trial.episodes:
        if not episode.ended:
            yield f"{episode.name}: after {len(episode.actions)} steps neither terminated nor truncated"
            return


def _states(trial: _Trial) -> Iterator[str]:
    found, named = trial.episodes[0].states.shape[1], trial.domain.state
    if found != len(named):
        yield f"info['state'] has {found} columns, the domain's 'state' names {len(named)}: {', '.join(named)}"


def _texts(trial: _Trial) -> Iterator[str]:
    heard: list[str] = []
    for episode in trial.episodes:
        drawn, again = (_draws(trial.domain, episode) for _ in range(2))
        if wrong := [text for text in drawn if not isinstance(text, str) or not text.strip()]:
            yield f"{episode.name}: draw_instruction() returns {wrong[0]!r}, a sentence is needed"
            return
        if drawn != again:
            yield f"{episode.name}: draw_instruction() gives others for an rng of the same seed; draw from rng alone"
            return
        heard += [episode.instruction, *drawn]
    try:
        trial.tokens(list(dict.fromkeys(heard)))
    except ValueError as error:
        yield str(error)
    episode = trial.episodes[0]
    text = next((text for text in heard[1 : DRAWS + 1] if text != episode.instruction), episode.instruction)
    _, info = trial.other.reset(seed=episode.seed, options={"instruction": text})
    given = f"reset(seed={episode.seed}, options={{'instruction': {text!r}}})"
    if info["instruction"] != text:
        yield f"{given} gives the instruction {info['instruction']!r}"
    elif info["scene"] != episode.scene:
        yield f"{given} gives another scene than the seed alone"


def _draws(domain: Domain, episode: _Driven) -> list[str]:
    rng = np.random.default_rng(episode.seed)
    return [domain.draw_instruction(episode.scene, rng) for _ in range(DRAWS)]


def _seeds(trial: _Trial) -> Iterator[str]:
    longest, runs = trial.longest, []
    for world in (trial.environment, trial.other):
        begun = world.reset(seed=longest.seed)
        runs.append([_kept(*begun), *_repeat(world, longest.actions[:REPEATED])])
    if differs := _difference(*runs):
        yield f"{longest.name}, again: {differs}; draw from self.np_random alone, after super().reset(seed=seed)"
    first = [(episode.instruction, episode.scene, episode.states[0].tolist()) for episode in trial.episodes]
    if len(first) > 1 and all(each == first[0] for each in first):
        yield f"{len(first)} seeds give the same instruction, scene and state; draw from self.np_random"


def _saves(trial: _Trial) -> Iterator[str]:
    if missing := saving_misfits(trial.environment):
        yield from missing
        return
    longest = trial.longest
    half = len(longest.actions) // 2
    rest = longest.actions[half : half + REPEATED]
    for world in (trial.environment, trial.other, trial.blind):
        world.reset(seed=longest.seed)
    for action in longest.actions[:half]:
        trial.environment.step(np.array(action))
    saved = trial.environment.unwrapped.save()
    first = _repeat(trial.environment, rest)
    for world, which in (
        (trial.environment, "the same environment"),
        (trial.other, "another environment"),
        (trial.blind, "environment(render=False)"),
    ):
        world.unwrapped.restore(saved)
        if differs := _difference(first, _repeat(world, rest)):
            yield (
                f"{longest.name}, saved at step {half} and restored in {which}: {differs}; is everything saved, "
                "and copied?"
            )
            return


def _repeat(environment: gymnasium.Env, actions: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """What came of ``actions``, by name."""
    kept = []
    for action in actions:
        observation, reward, terminated, truncated, info = environment.step(np.array(action))
        outcome = {"reward": reward, "terminated": bool(terminated), "truncated": bool(truncated)}
        kept.append(_kept(observation, info) | outcome)
    return kept


def _kept(observation: dict[str, np.ndarray], info: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(observation | {f"info['{name}']": info[name] for name in TOLD})


def _difference(one: Sequence[dict[str, Any]], two: Sequence[dict[str, Any]]) -> str:
    """The first difference in words; empty where there is none. What is not rendered in ``two`` is not compared."""
    for step, (left, right) in enumerate(zip(one, two, strict=True)):
        for name in (name for name in left if name in right):
            if not np.array_equal(left[name], right[name]):
                return f"{name} differs at step {step} from there"
    return ""


def _judges(trial: _Trial) -> Iterator[str]:
    steps = wrong = 0
    grids, bodies = set(), set()
    judgements: list[Judgement] = []  # under the episode's own instruction
    where = ""
    for episode in trial.episodes:
        own = episode.instruction
        for text in sorted(dict.fromkeys((*_draws(trial.domain, episode), own)), key=own.__eq__):  # its own is the last
            judged, alone = (_judged(trial, episode, states, text) for states in (episode.states, episode.states[:1]))
            grids.add(len(judged.field_cost))
            bodies.add(judged.place.shape[1] // 2)
            first, among = (np.array([each.margin[0], each.cost[0]]) for each in (alone, judged))
            if not np.allclose(first, among, rtol=1e-3, atol=1e-5):  # sums of float32 depend on how many there are
                yield f"{episode.name}: judge() of {text!r} gives a state alone another result than among others"
                return
            if judged.cost.min() < -1e-3:
                yield f"{episode.name}: judge() of {text!r} returns a cost of {judged.cost.min():g}; 0 is done"
                return
        judgements.append(judged)
        differs = disagreeing(np.array(episode.violations, np.int8), judged.margin)
        steps, wrong = steps + len(differs), wrong + int(differs.sum())
        if differs.any() and not where:
            step = int(np.argmax(differs))
            told = f"info['violation'] {episode.violations[step]}, margin {judged.margin[step]:g}"
            where = f"{episode.name}, step {step}, {own!r}: {told}"
    if wrong > DISAGREE * steps:
        yield f"judge() and info disagree on the violation in {wrong} of {steps} steps; first in {where}"
    for name, found in (("the G of its fields", grids), ("the B of its places", bodies)):
        if len(found) > 1:
            yield f"{name} is {' and '.join(map(str, sorted(found)))}; it has to be the same in every judgement"
    yield from _coordinates(judgements)
    try:
        trial.domain.judge(episode.scene, episode.states, NONSENSE)
    except DomainError:
        return
    yield f"judge() of {NONSENSE!r} returns a verdict, DomainError is needed: nobody understands that text"


def _coordinates(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Whether they are the image's: the robot is mostly in view, and the cheapest place is at the goal."""
    share = float(np.concatenate([np.abs(judged.place[:, :2]).max(1) <= 1 for judged in judgements]).mean())
    if share < IN_VIEW:
        yield (
            f"place is within the first camera's image, [-1, 1], in {share:.0%} of the states: x right and y up from "
            "its centre are needed, not pixels or metres"
        )
    off = []
    for judged in judgements:
        if len(judged.referents) and judged.referents[0, 3] and np.ptp(judged.field_cost):
            x, y, extent, _ = map(float, judged.referents[0])
            side = len(judged.field_cost)
            row, column = np.unravel_index(judged.field_cost.argmin(), judged.field_cost.shape)
            cheapest = float((column + 0.5) * 2 / side - 1), float(1 - (row + 0.5) * 2 / side)
            off.append((np.hypot(x - cheapest[0], y - cheapest[1]) - extent, cheapest, (x, y)))
    if off and np.median([gap for gap, *_ in off]) > POINTED:
        _, (column, row), (x, y) = max(off)
        yield (
            f"field_cost is lowest at ({column:.2f}, {row:.2f}), and the goal, the first of the referents, is at "
            f"({x:.2f}, {y:.2f}): x goes right and y up, and the first row of a field is at the top"
        )


def _judged(trial: _Trial, episode: _Driven, states: np.ndarray, text: str) -> Judgement:
    judgement = trial.domain.judge(episode.scene, states, text)
    check_judgement(judgement, trial.domain, states, text, len(trial.interface.images) - 1)
    return judgement


def _others(trial: _Trial) -> Iterator[str]:
    domain, first = trial.domain, trial.episodes[0]
    for episode in trial.episodes:
        scene, states, text = episode.scene, episode.states, episode.instruction
        check_advice(domain.advise(scene, states, text), domain, states, text, trial.interface.action_size)
        rules = domain.rules(text)
        if not isinstance(rules, tuple) or not all(isinstance(rule, str) for rule in rules):
            yield f"rules() of {text!r} returns {rules!r}, a tuple of str is needed"
            return
        absent = domain.absent_goal(scene, np.random.default_rng(episode.seed))
        if absent is not None and not (isinstance(absent, str) and absent.strip()):
            yield f"{episode.name}: absent_goal() returns {absent!r}, a sentence or None is needed"
            return
    if images := [image for episode in trial.episodes for image in episode.frames][:FRAMES]:
        check_self_filter(domain.self_filter(np.stack(images)), domain, np.stack(images))
    for factor in domain.factors:
        trial.other.reset(seed=first.seed, options={"factors": (factor,)})
        domain.draw_instruction(first.scene, np.random.default_rng(first.seed), (factor,))


def _unknown_driver(trial: _Trial) -> Iterator[str]:
    try:
        trial.domain.driver(NONSENSE, np.random.default_rng(0))
    except DomainError:
        return
    yield f"driver({NONSENSE!r}) returns one, DomainError is needed: a misspelt name would drive as another"


def _variety(episodes: Sequence[_Driven]) -> Finding:
    """Whether there are words to learn, and places."""
    texts, first = {episode.instruction for episode in episodes}, episodes[0]
    warnings = []
    if len(texts) == 1:
        warnings.append(f"every episode has the instruction {first.instruction!r}: no words are learned")
    if all(episode.scene == first.scene for episode in episodes):
        warnings.append("every episode has the same scene: no other one is learned")
    return _finding("variety", f"{len(texts)} instructions in {len(episodes)} episodes", warnings, "WARNING")


def _outcomes(episodes: Sequence[_Driven]) -> Finding:
    """Whether there is success to imitate, and violations to learn from and calibrate on."""
    told = []
    for kind in dict.fromkeys(episode.kind for episode in episodes):
        driven = [episode for episode in episodes if episode.kind == kind]
        succeeded, broke = sum(each.succeeded for each in driven), sum(any(each.violations) for each in driven)
        told.append(f"{kind}: of {len(driven)} episodes {succeeded} succeed, {broke} break a rule")
    warnings = []
    if not any(episode.succeeded for episode in episodes):
        warnings.append("no episode succeeds: there is nothing to imitate")
    if not any(any(episode.violations) for episode in episodes):
        warnings.append("no episode breaks a rule: no threshold can be calibrated")
    elif all(all(episode.violations) for episode in episodes):
        warnings.append("every step breaks a rule: a margin above 0 is a violation, one below is none")
    return _finding("outcomes", "\n".join(told), [*warnings, *told] if warnings else [], "WARNING")


def _found(checked: str, promise: str, function: Callable[..., Iterable[str]], *arguments: Any) -> Finding:
    """What ``function`` finds wrong; an error that it ends in is wrong, too."""
    wrong: list[str] = []
    try:
        wrong.extend(function(*arguments))
    except DomainError as error:
        wrong.append(str(error))
    except Exception as error:  # whatever the domain raises
        wrong.append(_told(error))
    return _finding(checked, promise, wrong)


def _finding(checked: str, promise: str, wrong: Sequence[str], if_wrong: Verdict = "WRONG") -> Finding:
    return Finding(checked, if_wrong if wrong else "OK", "\n".join(wrong) or promise)


def _told(error: Exception) -> str:
    """An error of the domain's own code, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno}, {frame.name})"
