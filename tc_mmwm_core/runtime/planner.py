"""The decision rule: from a step and an instruction to one defensible action, or to the safe action and the reason why.

Free of ROS: the planner node, the evaluation and the benchmarks all decide through this file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, RootModel

from tc_mmwm_core.config import Config, ConfigError, load, parse
from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import SECOND, Step
from tc_mmwm_core.resources import resource
from tc_mmwm_core.runtime import proposals, selection
from tc_mmwm_core.runtime.candidates import ExternalCandidates
from tc_mmwm_core.runtime.limits import limit_rate, limit_sequence, outside_value_limits
from tc_mmwm_core.runtime.proposals import ProposalConfig
from tc_mmwm_core.runtime.screener import Instruction, InstructionError, Scene, Screener, ToldToStop
from tc_mmwm_core.runtime.selection import ProgressRule, Screening, Verdict

NOT_PARAMETERS = frozenset({"threshold"})  # on a robot the threshold is the calibrated one
NODE_PARAMETERS = frozenset(  # that the planner node has beside these settings
    {"model", "robot", "provider", "threads", "deadline", "max_candidate_age", "max_external_candidates"}
    | {"marker_candidates", "require_instruction", "instruction", "autostart"}
    | {"use_sim_time", "start_type_description_service", "qos_overrides"}  # as every node has
)
STILL = 0.15  # normalised: with no velocity or position farther than this from the safe one, the robot stands still
WAITS = 0.02  # the same, of all that another policy proposes: it does not want to move
STOPPING = 0  # which of the candidates stops the robot
STALL, GAIN = 1.0, 0.1  # s in which less than that is gained of progress: the robot gets no nearer
HALVINGS = 10  # of trust, at most: more would only take longer to return from


class PlannerState(IntEnum):
    """What the planner is doing; the constants of ``PlannerState.msg``."""

    UNCONFIGURED = 0
    INACTIVE = 1
    WAITING = 2
    PLANNING = 3
    ALL_REJECTED = 4
    STALE_INPUT = 5
    BAD_INPUT = 6
    DEADLINE_MISSED = 7
    FAILED = 8
    RETREATING = 9
    GOAL_NOT_FOUND = 10


class PlannerConfig(Config):
    """Settings of the decision rule."""

    proposals: ProposalConfig = ProposalConfig()
    progress: ProgressRule = Field(
        "mean", description="rank accepted candidates by final, mean or best progress over the horizon"
    )
    caution: float = Field(0.2, ge=0, description="progress subtracted per unit of violation score above tau - 1")
    trust: float = Field(
        0.0, ge=0, description="progress subtracted per unit of mean squared distance (normalised) from the proposal"
    )
    patience: float = Field(
        0.0,
        ge=0,
        description="s; trust halves with each time that long for which the policy would move the robot but it stands "
        "still, or has got no nearer for a second, and returns as it does. 0: trust stays",
    )
    external: Literal["preferred", "competing", "only"] = Field(
        "preferred",
        description="preferred: execute the best accepted external candidate, and the planner's own only if none of "
        "them is accepted. competing: the best of all, and trust also counts how far external ones stray from the "
        "bundle's policy. only: stop where none of them is accepted or none is fresh",
    )
    external_patience: float = Field(
        2.0,
        ge=0,
        description="s; external candidates are not preferred once the robot has got no nearer for that long, until it "
        "has: their policy is stuck, or undoes what is done where it is rejected. Not counted is the time for which "
        "they would stand still, as they may at any time. 0: they always are",
    )
    speed: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of each velocity's limits that is used; less than 1 for first runs on a robot",
    )
    seed: int = Field(0, ge=0, description="seed of the noise; the same inputs and seed give the same choice")
    retreat: bool = Field(
        True,
        description="if no candidate is acceptable, execute one that is predicted to lead out; false: stop",
    )
    require_goal: bool = Field(
        True,
        description="until the goal is seen execute another policy's candidates or none; with bundles that know "
        "whether it is (goal_threshold). False: drive to what resembles it most",
    )
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="acceptance threshold tau, for ablations; unset: the bundle's calibrated one",
    )


def read_planner(path: Path) -> PlannerConfig:
    """Settings in a YAML of their own, or in a ROS 2 parameter file beside the node's other parameters.

    Raises:
        ConfigError: names the file and the field.
    """
    content = load(path, RootModel[dict[str, Any]]).root
    nodes = {name: node["ros__parameters"] for name, node in content.items() if _is_node(node)}
    if nodes:
        content = _of_node(nodes, path)
    return parse(content, PlannerConfig, str(path))


def _is_node(content: Any) -> bool:
    return isinstance(content, dict) and "ros__parameters" in content


def _of_node(nodes: dict[str, Any], path: Path) -> dict[str, Any]:
    """The planner's settings among the parameters of ``nodes``; as in ROS the last that is said in the file holds.

    Names that a file for all nodes (``/**``) has for others are passed over, and so are the node's own parameters.
    """
    ours = {name: name.rsplit("/", 1)[-1] for name in nodes if name.rsplit("/", 1)[-1] in ("planner", "*", "**")}
    if not ours or sum("*" not in name for name in ours) > 1:
        raise ConfigError(f"{path}: parameters of {', '.join(nodes)}: those of one node 'planner' are needed")
    content: dict[str, Any] = {}
    for name, last in ours.items():
        given = {} if nodes[name] is None else nodes[name]
        if not isinstance(given, dict):
            raise ConfigError(f"{path}: {name}: ros__parameters is {given!r}, a mapping of names is needed")
        for key, value in given.items():
            first = str(key).split(".")[0]
            if first in NODE_PARAMETERS or (last != "planner" and first not in PlannerConfig.model_fields):
                continue
            if first in NOT_PARAMETERS:
                raise ConfigError(f"{path}: {key}: the planner node has no such parameter")
            _put(content, str(key), value, path)
    return content


def _put(content: dict[str, Any], name: str, value: Any, path: Path) -> None:
    """Put ``value`` where a parameter's ``name``, which may be dotted or of a mapping, says."""
    if isinstance(value, dict):
        for key, below in value.items():
            _put(content, f"{name}.{key}", below, path)
        return
    *groups, last = name.split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {name}: '{group}' has a value of its own, and nothing below it")
    content[last] = value


def planner_file(bundle: Path, given: Path | None = None) -> Path | None:
    """``given``, else ``config/planner/<name of the bundle's folder>.yaml``, as in the launch file, if there is one."""
    shipped = resource("config", "planner") / f"{bundle.resolve().name}.yaml"
    return given or (shipped if shipped.exists() else None)


def planner_for(bundle: Path, given: Path | None = None) -> PlannerConfig:
    """Settings in :func:`planner_file`, or the defaults. ConfigError: see :func:`read_planner`."""
    path = planner_file(bundle, given)
    return read_planner(path) if path else PlannerConfig()


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do now, and why."""

    action: np.ndarray | None  # float32 [A], units; None: what stops the robot is not known, so nothing is commanded
    state: PlannerState
    reason: str  # empty while PLANNING, else what was found and what is allowed
    screening: Screening | None = None  # None where nothing was screened
    scene: Scene | None = None
    timings: dict[str, float] = field(default_factory=dict)  # ms: encode, propose, screen, select


class Planner:
    """Decides, once per control period.

    Remembers the last action (for the rate limit), the last plan (to shift it), how long it was held up (to trust the
    policy less), when it last overruled another policy, whether it has seen the goal, and what was seen (for where the
    view is hidden); without an observation for as long as a plan lasts, what was seen is forgotten. The noise of a
    decision is drawn from the seed and the step's stamp alone: the same steps give the same decisions.
    """

    def __init__(self, screener: Screener, interface: RobotInterface, config: PlannerConfig | None = None) -> None:
        self.screener = screener
        self.interface = interface
        self.config = config or PlannerConfig()
        bundle = screener.bundle
        self.threshold = bundle.manifest.threshold if self.config.threshold is None else self.config.threshold
        self._step_duration = bundle.step_duration
        # What moves the robot the more, the farther it is from the safe action: velocities, and positions to be held.
        self._motions = np.array([bool(field.hold) or field.unit.endswith("/s") for field in interface.action.fields])
        # Positions whose commands stay near them.
        self._followed = np.array([bool(field.hold and field.max_rate) for field in interface.action.fields])
        self._limits = _slower(interface, self.config.speed)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the robot stands still, in a scene of which nothing is known."""
        self._sensed: np.ndarray | None = None  # [Ds], at the last step
        self._rest: np.ndarray | None = None  # [A] units, the safe action since the robot stands still; None: it moves
        self._proposed_to = False  # by another policy
        self._last_action: np.ndarray | None = None  # [A] units
        self._halt()
        self.begin_episode()

    def begin_episode(self) -> None:
        """Forget what was seen and how it fared, as training does where an episode begins; not what is being done.

        But where positions are commanded, what was done held in another place.
        """
        self._instructed(None)
        if any(field.hold for field in self.interface.action.fields):
            self._last_action = self._rest = None
        self._memory: np.ndarray | None = None
        self._seen_ns = 0

    def _instructed(self, instruction: Instruction | None) -> None:
        """Forget how it fared under another instruction."""
        self._instruction = instruction
        self._held_up = 0.0  # s
        self._furthest, self._since_gain = -np.inf, 0.0  # progress; s
        self._goal_seen = not self.config.require_goal or self.screener.bundle.manifest.goal_threshold is None

    def _halt(self) -> None:
        """Forget the last action and plan: the robot stands still."""
        self._last_action = self._rest = self.safe_action()
        self._plan: np.ndarray | None = None  # [K, A] normalised
        self._plan_ns = 0

    def safe_action(self) -> np.ndarray | None:
        """What stops the robot now, [A] in units; None before anything was sensed, if it is to hold a position.

        A position with a ``max_rate`` is held where it was last commanded, as far as that is within reach of where it
        was sensed: it neither jumps back nor sinks with a sagging arm. Without one a command may be anywhere, and to go
        on to there is no stop: it is held where it was sensed when the robot came to a stand, as before any command.
        """
        if self._rest is not None:
            return self._rest
        sensed = self.interface.safe_action(self._sensed)
        if self._last_action is None:
            return sensed
        return np.where(self._followed, self._within_reach(self._last_action), sensed)

    def _within_reach(self, action: np.ndarray) -> np.ndarray:
        """``action`` [A], but a position with a ``max_rate`` no farther off than that allows in a latent step."""
        sensed = self.interface.safe_action(self._sensed)
        near = limit_rate(action, sensed, self.interface.action_max_rate, self._step_duration)
        return np.where(self._followed, near, action)

    def warm_up(self, decisions: int = 5) -> None:
        """Decide on blank input, so that the first real decision is as fast as the rest; nothing of it is kept."""
        step, instruction = self.screener.blank()
        self._instructed(instruction)
        self._goal_seen = True
        external = []
        if self.config.external == "only":
            shape = (1, self.screener.bundle.manifest.horizon, self.interface.action_size)
            external.append(ExternalCandidates("warm-up", step.stamp_ns, np.zeros(shape, np.float32)))
        for _ in range(decisions):
            self.decide(step, instruction, *external)
        self.reset()

    def stop(self, state: PlannerState, reason: str, **record: object) -> Decision:
        """The safe action, at once: it is exempt from the rate limit."""
        self._halt()
        return Decision(self._rest, state, reason, **record)

    def decide(
        self,
        step: Step | Fault,
        instruction: Instruction | InstructionError | None,
        *external: ExternalCandidates,
    ) -> Decision:
        """The action of this control period.

        The first reason to stop wins: being told to, an instruction that can't be read, none at all, an input that
        can't be used, a goal that was not seen so far, no acceptable candidate and no better place to retreat to. What
        was wrong is a value here, not an exception, so that every stop takes this one path. ``external`` candidates, of
        one policy or several, are shifted by the time gone by since the observation that they were made for; that they
        are fresh enough is for the caller to see to. Where they are preferred, our own are executed only if none of
        them is accepted, or ``external_patience`` is over. Until the goal is seen our own are not: whose policy
        proposes is taken to know where its goal is.
        """
        if isinstance(step, Step):
            self._sensed = step.sensor
        if isinstance(instruction, ToldToStop):
            return self.stop(PlannerState.WAITING, str(instruction))
        if isinstance(instruction, InstructionError):
            return self.stop(PlannerState.BAD_INPUT, str(instruction))
        if instruction is None:
            return self.stop(PlannerState.WAITING, "instruction: none was given yet")
        if isinstance(step, Fault):
            return self.stop(_state_of(step), str(step))
        if instruction is not self._instruction:
            self._instructed(instruction)
        timings: dict[str, float] = {}
        self._safe = self.interface.normalise_action(self.safe_action())
        with _timed(timings, "encode"):
            scene = self.screener.encode(step, instruction, self._remembered(step))
            self._memory, self._seen_ns = scene.memory, step.stamp_ns
        in_vain = self.config.external != "only" and not self._sees_goal(scene)
        alone = self.config.external == "only" or in_vain  # no candidates but theirs
        self._proposed_to |= bool(external)
        if alone and not external:
            state, reason = self._in_vain(scene, instruction) if in_vain else self._left_alone()
            return self.stop(state, reason, scene=scene, timings=timings)
        with _timed(timings, "propose"):
            rng = np.random.default_rng((self.config.seed, step.stamp_ns))
            own, sources = self._propose(scene, step, rng, only_safe=alone)
            actions, theirs_at, waits = self.interface.denormalise_action(own), range(0), False
            if external:
                theirs = np.concatenate([self._shifted(each, step) for each in external])
                actions = np.concatenate([actions, theirs])
                sources += tuple((each.source, len(each.actions)) for each in external)
                theirs_at = range(len(own), len(actions))
                waits = self._stands_still(self.interface.normalise_action(theirs[:, 0]), WAITS)
        preferred = theirs_at if alone or self._prefers_external(waits) else range(0)
        screening = self._screen(scene, actions, sources, timings, safe=1, external=theirs_at, preferred=preferred)
        for iteration in range(1, 0 if alone else self._rounds + 1):
            with _timed(timings, "propose"):
                refined = self._refine(screening, iteration, rng)
            if refined is None:
                break
            screening = _join(screening, self._screen(scene, refined, (("refined", len(refined)),), timings))
        with _timed(timings, "select"):
            chosen, state, reason = self._choose(screening, only_external=alone)
            stalled = self._stalled(float(screening.progress[STOPPING, 0]), waits)
            self._count_time_held_up(screening.actions[max(chosen, 0), 0], scene.proposal[0, 0], stalled)
        if chosen < 0:
            if in_vain:
                state, missing = self._in_vain(scene, instruction)
                reason = f"{missing}; {reason}"
            return self.stop(state, reason, screening=screening, scene=scene, timings=timings)
        screening = replace(screening, chosen=chosen)
        self._plan = self.interface.normalise_action(screening.actions[chosen])
        self._plan_ns = step.stamp_ns
        self._last_action = screening.actions[chosen, 0].copy()
        self._rest = self._last_action if chosen == STOPPING else None
        return Decision(self._last_action, state, reason, screening, scene, timings)

    def _sees_goal(self, scene: Scene) -> bool:
        """Whether the goal is in view or was since it was told: the robot itself may come to hide it."""
        if not self._goal_seen:
            self._goal_seen = float(scene.goal[0]) > self.screener.bundle.manifest.goal_threshold
        return self._goal_seen

    def _in_vain(self, scene: Scene, instruction: Instruction) -> tuple[PlannerState, str]:
        """What was found in place of the goal."""
        needed = self.screener.bundle.manifest.goal_threshold
        return PlannerState.GOAL_NOT_FOUND, (
            f"goal: nothing in view is what {instruction.text!r} asks for: progress is {scene.goal[0]:.3f} in the best "
            f"place, more than {needed:.3f} is needed"
        )

    def _left_alone(self) -> tuple[PlannerState, str]:
        """Without another policy's candidates, where nothing else is executed."""
        if self._proposed_to:
            return PlannerState.STALE_INPUT, "candidate_actions: none is fresh any more, and 'external' is 'only'"
        return PlannerState.WAITING, "candidate_actions: none was heard yet, and 'external' is 'only'"

    def _choose(self, screening: Screening, only_external: bool) -> tuple[int, PlannerState, str]:
        """The candidate to execute (-1: the safe action), what that means, and why.

        With ``only_external`` it is one of the external ones, which are preferred then, and there is no retreat.
        """
        eligible = screening.external if only_external else range(len(screening.verdict))
        if (screening.verdict[eligible] == Verdict.ACCEPTED).any():
            scores = screening.score
            if not self.screener.bundle.manifest.progress_taught:
                scores = scores.copy()
                scores[screening.preferred] = 0.0  # in their policy's order: nothing else ranks them
            chosen = selection.choose(screening.verdict, scores, screening.preferred)
            return chosen, PlannerState.PLANNING, ""
        reason = _why_all_rejected(screening, eligible)
        retreats = self.config.retreat and not only_external
        way_out = selection.retreat(screening.verdict, screening.violation) if retreats else -1
        if way_out < 0:
            return way_out, PlannerState.ALL_REJECTED, reason
        stopped, there = screening.violation[STOPPING, -1], screening.violation[way_out, -1]
        return way_out, PlannerState.RETREATING, f"{reason}; goes where it is {there:.3f}, stopping it is {stopped:.3f}"

    def _stalled(self, progress: float, waits: bool) -> bool:
        """Whether ``progress`` where the robot is has not been better than ever before for :data:`STALL`.

        Not counted is the time for which another policy ``waits``, nor any where progress means nothing.
        """
        if not self.screener.bundle.manifest.progress_taught:
            return False
        if progress > self._furthest + GAIN * self.config.speed:
            self._furthest, self._since_gain = progress, 0.0
        elif not waits:
            self._since_gain += 1 / self.interface.rate
        return self._since_gain >= STALL

    def _count_time_held_up(self, action: np.ndarray, proposal: np.ndarray, stalled: bool) -> None:
        """One period more where ``proposal`` (normalised) moves, but ``action`` (units) does not or it leads nowhere.

        Else half less. What the policy proposes and variants of it may all be rejected, and what is accepted strays
        farther from it than standing still does; or it drives at what it does not see, a thin wall, or at a mark that
        its own arm hides. With much trust the robot would stay there for ever.
        """
        period = 1 / self.interface.rate
        still = self._stands_still(self.interface.normalise_action(action), STILL * self.config.speed)
        held_up = not self._stands_still(proposal) and (still or stalled)
        self._held_up += period if held_up else -period / 2
        self._held_up = min(max(self._held_up, 0.0), HALVINGS * self.config.patience)

    def _stands_still(self, actions: np.ndarray, still: float = STILL) -> bool:
        """Whether ``actions`` [..., A], normalised, hardly move the robot, any of them."""
        return bool((np.abs(actions - self._safe)[..., self._motions] <= still).all())

    @property
    def _trust(self) -> float:
        """The trust in the policy at present."""
        patience = self.config.patience
        return self.config.trust * 2 ** -(self._held_up / patience) if patience else self.config.trust

    def _prefers_external(self, waits: bool) -> bool:
        """Whether the best accepted external candidate comes first; ``waits``: their policy does not want to move."""
        patience = self.config.external_patience
        impatient = 0 < patience <= self._since_gain and not waits
        return self.config.external == "preferred" and not impatient

    @property
    def _rounds(self) -> int:
        refinement = self.config.proposals.refinement
        return 0 if refinement.method == "none" else refinement.iterations

    def _steps_since(self, stamp_ns: int, step: Step) -> float:
        """Latent steps between ``stamp_ns`` and ``step``. Time is counted in whole control periods: ticks jitter."""
        periods = round((step.stamp_ns - stamp_ns) / SECOND * self.interface.rate)
        return periods / self.screener.bundle.manifest.frame_skip

    def _remembered(self, step: Step) -> np.ndarray | None:
        """What was seen until now; None where that is too long ago or the clock was set back."""
        fresh = 0 <= self._steps_since(self._seen_ns, step) < self.screener.bundle.manifest.horizon
        return self._memory if fresh else None

    def _shifted(self, external: ExternalCandidates, step: Step) -> np.ndarray:
        """What is left of ``external`` candidates at ``step``, [N, K, A] in units."""
        return proposals.shift_plan(external.actions, max(0.0, self._steps_since(external.stamp_ns, step)))

    def _shifted_plan(self, step: Step) -> np.ndarray | None:
        """What is left of the last plan, [K, A] normalised; None where it is over or the clock was set back."""
        if self._plan is None:
            return None
        steps = self._steps_since(self._plan_ns, step)
        return proposals.shift_plan(self._plan, steps) if 0 <= steps < len(self._plan) else None

    def _propose(
        self, scene: Scene, step: Step, rng: np.random.Generator, only_safe: bool
    ) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
        """Our own candidates [N, K, A], normalised, and who proposed them; the first is the safe action."""
        policy = scene.proposal[0]
        if only_safe:
            return np.broadcast_to(self._safe, (1, *policy.shape)), (("safe", 1),)
        shifted = self._shifted_plan(step)
        return proposals.propose(self.config.proposals, policy, shifted, self._safe, self._motions, rng)

    def _screen(
        self,
        scene: Scene,
        actions: np.ndarray,
        sources: tuple[tuple[str, int], ...],
        timings: dict[str, float],
        safe: int = 0,
        external: range = range(0),
        preferred: range = range(0),
    ) -> Screening:
        """Screen ``actions`` [N, K, A] (units) as the limits would let the robot execute them.

        The first ``safe`` of them stop the robot, and are as exempt from the rate limit as :meth:`stop` is. The
        ``external`` ones are another policy's. Where they are ``preferred``, how far they stray from our own says
        nothing against them.
        """
        interface = self.interface
        previous = self.safe_action() if self._last_action is None else self._last_action
        if self._rest is not None:  # what stands may have been blocked, or moved by hand, and is to move on from there
            previous = self._within_reach(previous)
        with _timed(timings, "select"):
            outside = outside_value_limits(actions, interface.action_limits).any((1, 2))
            limited = limit_sequence(
                actions,
                previous,
                self._limits,
                interface.action_max_rate,
                1 / interface.rate,
                self._step_duration,
            )
            limited[:safe] = self.safe_action()
            normalised = interface.normalise_action(limited)
        with _timed(timings, "screen"):
            rollouts = self.screener.screen(scene, normalised)
        with _timed(timings, "select"):
            config, strayed = self.config, np.square(normalised - scene.proposal[0]).mean((1, 2))
            strayed[preferred] = 0
            return Screening(
                actions=np.where(outside[:, None, None], actions, limited),
                violation=rollouts.violation,
                progress=rollouts.progress,
                verdict=selection.judge(actions, outside, rollouts, self.threshold),
                score=selection.score(rollouts, strayed, config.progress, self.threshold, config.caution, self._trust),
                threshold=self.threshold,
                fields=interface.action_names,
                limits=interface.action_limits,
                chosen=-1,
                sources=sources,
                external=external,
                preferred=preferred,
            )

    def _refine(self, screening: Screening, iteration: int, rng: np.random.Generator) -> np.ndarray | None:
        """The next round's candidates [N, K, A] (units) around the best so far; None where there is nothing to rest on.

        It rests on accepted candidates where there are any, else on those that violate least: accept first, then
        progress. Where a preferred candidate is accepted, no other would be chosen: there is nothing to refine.
        """
        if (screening.verdict[screening.preferred] == Verdict.ACCEPTED).any():
            return None
        config = self.config.proposals
        wanted = Verdict.ACCEPTED if screening.accepted else Verdict.REJECTED_VIOLATION
        merit = screening.score if screening.accepted else -screening.violation.max(1)
        best = selection.best(merit, screening.verdict == wanted, config.refinement.elites)
        if not len(best):
            return None
        elites = self.interface.normalise_action(screening.actions[best])
        if config.refinement.method == "mppi":
            refined = proposals.refine_mppi(elites, merit[best], config, iteration, rng)
        else:
            refined = proposals.refine_cem(elites, config, rng)
        return self.interface.denormalise_action(refined)


@contextmanager
def _timed(timings: dict[str, float], what: str) -> Iterator[None]:
    """Add the time that the block takes to ``timings[what]``, in ms."""
    start = time.perf_counter()
    yield
    timings[what] = timings.get(what, 0.0) + (time.perf_counter() - start) * 1e3


def _state_of(fault: Fault) -> PlannerState:
    match fault.kind:
        case FaultKind.WAITING:
            return PlannerState.WAITING
        case FaultKind.STALE:
            return PlannerState.STALE_INPUT
    return PlannerState.BAD_INPUT


def _join(first: Screening, second: Screening) -> Screening:
    """Two rounds of one decision as one record."""
    arrays = ("actions", "violation", "progress", "verdict", "score")
    joined = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in arrays}
    return replace(first, sources=first.sources + second.sources, **joined)


def _slower(interface: RobotInterface, share: float) -> np.ndarray:
    """The action limits [A, 2] with that ``share`` of each velocity's on both sides of its safe value."""
    limits = interface.action_limits.copy()
    for row, of in zip(limits, interface.action.fields, strict=True):
        if of.unit.endswith("/s") and of.safe is not None:
            row[:] = of.safe + share * (row - of.safe)
    return limits


def _why_all_rejected(screening: Screening, eligible: range) -> str:
    """How many candidates were rejected for what, and the one that came nearest to being accepted."""
    verdicts = screening.verdict[eligible]
    counts = [(verdict, int(np.count_nonzero(verdicts == verdict))) for verdict in Verdict]
    parts = [f"{count} {verdict.name.removeprefix('REJECTED_').lower()}" for verdict, count in counts if count]
    reason = f"all {len(verdicts)} candidates rejected ({', '.join(parts)})"
    broken = verdicts == Verdict.REJECTED_VIOLATION
    if broken.any():
        least = float(screening.violation[eligible][broken].max(1).min())
        reason += f"; least violation {least:.3f}, allowed is {screening.threshold:.3f}"
    return reason
