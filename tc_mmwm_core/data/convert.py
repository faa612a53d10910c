"""From a bag to trajectories, through the same stream-to-step path that the planner uses live.

Two passes over the bag. The first reads what was said and done (events, instructions, commands) and finds the episodes.
The second feeds the observations to one StepStream per episode, in the order in which they were received, and steps it
at the interface's rate. As in the planner, a step holds what had been received by its tick: a camera that is late live
is as late in the dataset.

Ticks lie just before the commands where those come at the control rate: a command is decided on what was seen right
before it, so its effect shows in the following step and not in the one after that.
"""

from __future__ import annotations

import bisect
import json
import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.bag import Bag, DamagedBagError
from tc_mmwm_core.data.dataset import DatasetWriter
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.action import read_action
from tc_mmwm_core.interface.fault import Fault
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stopping import tells_to_stop
from tc_mmwm_core.interface.stream import SECOND, Step, StepStream, message_time

START, VIOLATION_BEGIN, VIOLATION_END, END, INSTRUCTION = range(5)  # EpisodeEvent.kind
VERDICT = {0: False, 1: True}  # EpisodeEvent.success; 2 is unknown
PLANNER_STATE = "tc_mmwm_ros/msg/PlannerState"
ACTIVE = 2  # PlannerState.state from which on the planner commands the robot

CLOCKS_DIFFER_NS = 10 * SECOND  # stamps and bag times this far apart come from different clocks
LEAD = 0.1  # of a period: how far ticks lie before the commands
TOGETHER_NS = SECOND  # at most so far apart, an instruction on its topic and the same in an event are one
NOTHING = "stop"  # an empty instruction stops the planner
LONG_GAP = 1.0  # s without a valid step: without events, a new trajectory begins after it
SHORTEST = 2  # steps
LONGEST = 60.0  # s: without events, trajectories are at most so long, unless another length is asked for
UNSTAMPED = "does its sender fill it in (header: auto)?"
STATE = ("x", "y", "yaw", "forward_speed", "turn_rate")


class ConversionError(ValueError):
    """A bag does not hold what the robot interface needs."""


@dataclass
class ConversionReport:
    """What became of one bag, or LeRobotDataset."""

    bag: str  # its path
    output: str
    duration: float = 0.0  # s
    messages: dict[str, int] = field(default_factory=dict)  # by topic of the interface
    trajectories: int = 0
    steps: int = 0
    valid_steps: int = 0
    violating_steps: int = 0
    unjudged_steps: int = 0
    successes: int = 0
    failures: int = 0
    unknown_outcomes: int = 0
    instruction_cuts: int = 0  # where episodes were cut since the robot was told something else than their events say
    length_cuts: int = 0  # where stretches without events were cut since they were longer than was asked for
    broken_successes: int = 0  # episodes that END calls a success despite a violation: counted as failures
    faults: dict[str, int] = field(default_factory=dict)  # steps that are not valid, by what was wrong
    examples: dict[str, str] = field(default_factory=dict)  # the first such reason in full
    notes: list[str] = field(default_factory=list)  # what was salvaged, left out, assumed
    error: str | None = None  # why it could not be converted

    def count(self, what: str, example: str) -> None:
        """One more step that is not valid because of ``what``."""
        self.faults[what] = self.faults.get(what, 0) + 1
        self.examples.setdefault(what, example)

    def account(self, trajectory: Trajectory) -> None:
        """One more trajectory."""
        self.trajectories += 1
        self.steps += len(trajectory)
        self.valid_steps += int(trajectory.valid.sum())
        verdicts = Counter(trajectory.violation.tolist())
        self.violating_steps += verdicts[1]
        self.unjudged_steps += verdicts[-1]
        self.successes += trajectory.success is True
        self.failures += trajectory.success is False
        self.unknown_outcomes += trajectory.success is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(self.__dict__)

    def table(self) -> str:
        """For people."""
        judged = self.steps - self.unjudged_steps
        rows = [
            ("recording", f"{self.bag} ({self.duration:.1f} s)"),
            ("dataset", self.output),
            ("messages", ", ".join(f"{topic} {count}" for topic, count in self.messages.items())),
            ("trajectories", f"{self.trajectories} ({self.steps} steps, {self.valid_steps} valid)"),
            ("outcome", f"{self.successes} success, {self.failures} failure, {self.unknown_outcomes} unknown"),
            ("violations", f"{self.violating_steps} of {judged} judged steps, {self.unjudged_steps} not judged"),
        ]
        lines = [f"{name:<13} {value}" for name, value in rows if value]
        if self.length_cuts:
            lines.append(f"note: {self.length_cuts} cuts since no events say what an episode is (see --longest)")
        if self.broken_successes:
            lines.append(
                f"note: {self.broken_successes} episode(s) that END calls a success hold a violation: counted as "
                "failures (success: goal reached without violation)"
            )
        if self.faults:
            lines.append("steps that are not valid, those between trajectories included:")
            for what, count in sorted(self.faults.items(), key=lambda item: -item[1]):
                lines.append(f"  {count:>6}  {what}, first: {self.examples[what]}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


@dataclass
class _Episode:
    """A stretch under one instruction, and the steps that were made of it."""

    start_ns: int
    end_ns: int  # included
    instruction: str
    name: str
    success: bool | None = None
    judged: bool = False
    scene: dict[str, Any] | None = None
    scene_seed: int | None = None
    labelled: list[int] = field(default_factory=list)  # when each VIOLATION_BEGIN was, in all pieces of its episode
    cut_gaps: bool = False  # nobody says where attempts begin and end: a long gap is such a place
    broken: list[tuple[int, int]] = field(default_factory=list, init=False)  # [begin, end) of each violation
    ticks: list[int] = field(default_factory=list, init=False)
    steps: list[Step | Fault] = field(default_factory=list, init=False)

    def piece(self, longest: int) -> int:
        """How many of its ticks are to come at once: where no events say what an episode is, at most ``longest``."""
        return math.ceil(len(self.ticks) / math.ceil(len(self.ticks) / longest)) if self.cut_gaps else len(self.ticks)

    def split(self, count: int) -> _Episode:
        """Its first ``count`` ticks and their steps, which it no longer holds itself."""
        part = replace(self)
        part.broken, part.ticks, part.steps = self.broken, self.ticks[:count], self.steps[:count]
        self.ticks, self.steps = self.ticks[count:], self.steps[count:]
        return part


@dataclass
class _Timeline:
    """What was said and done."""

    command_ns: list[int]
    commands: list[np.ndarray | Fault]
    events: list[tuple[int, Any]]
    told: list[tuple[int, str]]  # on the instruction topic
    obeyed: list[tuple[int, str | None]]  # what the planner, each second, says that it obeys; None: it is not active
    missed_ns: list[int]  # when an event was received that cannot be read

    @property
    def instructions(self) -> list[tuple[int, str]]:
        """Told on their topic, or newly obeyed by the planner, whose parameter sets one too."""
        obeyed = [(0, ""), *((at_ns, text) for at_ns, text in self.obeyed if text is not None)]
        news = [after for before, after in pairwise(obeyed) if after[1] != before[1]]
        return sorted([*self.told, *news], key=lambda item: item[0])


def convert(
    path: str | Path,
    output: str | Path,
    interface: RobotInterface,
    *,
    namespace: str | None = None,
    instruction: str | None = None,
    source: Literal["simulated", "real"] | None = None,
    success: bool | None = None,
    longest: float = LONGEST,
    reaction: float = 0.0,
    force: bool = False,
    progress: bool = False,
) -> ConversionReport:
    """Append the trajectories of the bag at ``path`` to the dataset at ``output``, all of them or none.

    Args:
        namespace: of the robot in the bag; found by itself where only one fits.
        instruction: for bags in which none was recorded.
        source: by default simulated where the events describe a scene, else real.
        success: of the trajectories of which it is not known; see :func:`outcome`.
        reaction: s: how late a VIOLATION_BEGIN may be; so long before it, steps count as unjudged, not as complying.
        longest: s: where no events say what an episode is, what is longer is cut into pieces of equal length.
        force: also where the dataset already holds this bag.
        progress: show a bar.

    Raises:
        BagError: not a bag, empty, or damaged beyond salvage.
        ConversionError: a topic is missing (those there are listed), or no instruction; ``longest`` is too short.
        AlreadyHeldError: the dataset holds this bag; only without ``force``.
        DatasetError: the dataset there was made for another robot interface.
    """
    if longest * interface.rate < SHORTEST:
        raise ConversionError(
            f"longest (--longest): is {longest:g} s; a trajectory needs {SHORTEST} steps, at {interface.rate:g} Hz "
            f"{SHORTEST / interface.rate:g} s"
        )
    options = (Path(output), interface, namespace, instruction, source, success, longest, reaction, force, progress)
    try:
        return _convert(Bag(path), *options)
    except DamagedBagError:
        return _convert(Bag(path, salvage=True), *options)


def _convert(
    bag: Bag,
    output: Path,
    interface: RobotInterface,
    namespace: str | None,
    instruction: str | None,
    source: Literal["simulated", "real"] | None,
    success: bool | None,
    longest: float,
    reaction: float,
    force: bool,
    progress: bool,
) -> ConversionReport:
    report = ConversionReport(bag=str(bag.path), output=str(output), duration=bag.duration, notes=list(bag.lost))
    names, robot = _find_topics(bag, interface, namespace, report)
    report.messages = {topic: bag.topics[name].messages for topic, name in names.items() if name in bag.topics}
    writer = DatasetWriter(output, interface)
    digest = bag.sha256()
    if not force:
        writer.check_new(bag.path, "sha256", digest, namespace=robot)
    _check_stamps(bag, interface, names)
    offset_ns = _clock_offset(bag, interface, names, report)
    planner = None if offset_ns else _planner_state(bag, robot)  # else its times are not the instruction topic's
    timeline = _read_timeline(bag, interface, names, planner)
    episodes = _episodes(timeline, bag, interface, offset_ns, instruction, report)
    for episode in episodes:
        episode.ticks = _ticks(episode, timeline.command_ns, interface.rate)
    provenance = {"bag": bag.path.name, "sha256": digest, "namespace": robot, "interface": interface.digest}
    with ExitStack() as stack:
        shard = None
        longest_steps = math.floor(longest * interface.rate)
        for episode in _observe(bag, interface, names, episodes, longest_steps, offset_ns, report, progress):
            for trajectory in _trajectories(episode, timeline, interface, round(reaction * SECOND), report):
                trajectory.source = source or ("simulated" if episode.scene is not None else "real")
                trajectory.success = outcome(trajectory, success)
                trajectory.provenance |= provenance
                shard = shard or stack.enter_context(writer.shard())
                shard.add(trajectory)
                report.account(trajectory)
            episode.steps.clear()  # written: an hour of them would not fit into memory
    for topic, count in Counter(topic for topic, _ in bag.unreadable).items():
        first = next(why for (name, _), why in bag.unreadable.items() if name == topic)
        report.notes.append(f"{count} of {bag.topics[topic].messages} messages were left out: {first}")
    return report


def outcome(trajectory: Trajectory, given: bool | None) -> bool | None:
    """Its success, or where that is not known ``given``: that the goal was reached. A violation is no success."""
    if trajectory.success is not None or given is None:
        return trajectory.success
    return given and not (trajectory.violation == 1).any().item()


# --- topics and clocks


def _find_topics(
    bag: Bag, interface: RobotInterface, namespace: str | None, report: ConversionReport
) -> tuple[dict[str, str], str]:
    """{topic in the interface: topic in the bag}, and under which namespace: "/" where none or all are absolute.

    ConversionError: one that is needed is missing or of another type.
    """
    needed = interface.observation_topics() | {interface.action.topic: interface.action.type}
    if namespace is None:
        namespace = _guess_namespace(bag, needed)
        if namespace:
            report.notes.append(f"the robot's namespace in this bag is {namespace}")
    names = {topic: _absolute(topic, namespace) for topic in interface.topics()}
    problems = []
    for topic, kind in interface.topics().items():
        found = bag.topics.get(names[topic])
        if found is not None and found.messages and found.type != kind:
            problems.append(f"{names[topic]} is {found.type}, the robot interface says {kind}")
        elif topic in needed and (found is None or not found.messages):
            same = [name for name, other in bag.topics.items() if other.type == kind and other.messages]
            hint = f"; of the same type: {', '.join(same)} (set it as the topic in the robot interface)" if same else ""
            what = "is not in the bag" if found is None else "has no messages"
            problems.append(f"{names[topic]} ({kind}) {what}{hint}")
    if problems:
        listing = "\n".join(
            f"  {name:<32} {found.type:<36} {found.messages:>7} messages" for name, found in sorted(bag.topics.items())
        )
        raise ConversionError(
            f"{bag.path} does not fit the robot interface '{interface.name}':\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + f"\ntopics in the bag:\n{listing}"
        )
    anywhere = all(topic.startswith("/") for topic in names)
    return names, "/" if anywhere else f"/{namespace.strip('/')}"


def _absolute(topic: str, namespace: str) -> str:
    return topic if topic.startswith("/") else f"/{namespace.strip('/')}/{topic}".replace("//", "/")


def _guess_namespace(bag: Bag, needed: dict[str, str]) -> str:
    """The one namespace under which every needed topic is recorded; empty where the root fits or nothing does."""
    relative = [topic for topic in needed if not topic.startswith("/")]
    fitting = {""} if all(f"/{topic}" in bag.topics for topic in relative) else set()
    if not fitting and relative:
        endings = [name.removesuffix(f"/{relative[0]}") for name in bag.topics if name.endswith(f"/{relative[0]}")]
        fitting = {start for start in endings if all(f"{start}/{topic}" in bag.topics for topic in relative)}
    if len(fitting) > 1:
        raise ConversionError(f"{bag.path}: several robots: give --namespace, one of {', '.join(sorted(fitting))}")
    return fitting.pop() if fitting else ""


def _planner_state(bag: Bag, robot: str) -> str | None:
    """The topic on which the planner of ``robot`` tells what it obeys; None where none was recorded, or several.

    It is ``<robot>/<node>/state``: what lies deeper is of another robot.
    """
    states = [name for name, topic in bag.topics.items() if topic.type == PLANNER_STATE and topic.messages]
    found = [name for name in states if name.rsplit("/", 2)[0] == robot.rstrip("/")]
    return found[0] if len(found) == 1 else None


def _check_stamps(bag: Bag, interface: RobotInterface, names: dict[str, str]) -> None:
    """ConversionError: nobody stamped the commands or the events, so none of them can be placed."""
    for topic in (interface.action.topic, *([interface.events.topic] if interface.events else [])):
        stamps = (message_time(message, raw.log_ns) for raw, message in bag.contents({names[topic]}))
        if next(stamps, None) == 0 and not any(stamps):
            raise ConversionError(
                f"{bag.path}: {names[topic]}: header.stamp is 0 in all {bag.topics[names[topic]].messages} messages; "
                f"{UNSTAMPED}"
            )


def _clock_offset(bag: Bag, interface: RobotInterface, names: dict[str, str], report: ConversionReport) -> int:
    """ns that bag times are ahead of stamps where they come from different clocks (simulated time), else 0.

    ConversionError: they do, and an input has no stamp of its own.
    """
    seen: dict[str, list[int | None]] = {}  # by topic, of each message; None: nobody stamped it
    unstamped: set[str] = set()
    inputs = {names[topic] for topic in (*interface.observation_topics(), interface.action.topic)}
    latched = {names[topic] for topic in interface.latched_topics}
    for raw, message in bag.contents(inputs):
        if hasattr(message, "header"):
            stamp_ns = message_time(message, raw.log_ns)
            seen.setdefault(raw.topic, []).append(raw.log_ns - stamp_ns if stamp_ns else None)
        else:
            unstamped.add(raw.topic)
        enough = [len(offsets) >= 10 for topic, offsets in seen.items() if topic not in latched]
        if len(seen.keys() | unstamped) == len(inputs) and all(enough):
            break
    for topic, offsets in seen.items():
        if all(offset is None for offset in offsets):
            found = f"header.stamp is 0 in its first {len(offsets)} messages"
            report.notes.append(f"{topic}: not used: {found}; {UNSTAMPED}")
    current = [offsets for topic, offsets in seen.items() if topic not in latched]  # which may be heard long after
    known = [[offset for offset in offsets if offset is not None] for offsets in current]
    offsets = [int(np.median(offsets)) for offsets in known if offsets]
    offset_ns = int(np.median(offsets)) if offsets else 0
    if abs(offset_ns) < CLOCKS_DIFFER_NS:
        return 0
    if unstamped:
        raise ConversionError(
            f"{bag.path}: bag times are {offset_ns / SECOND:.0f} s ahead of the header stamps (simulated time?), so "
            f"{', '.join(sorted(unstamped))}, which has no header, cannot be placed; record with use_sim_time:=true"
        )
    return offset_ns


# --- what was said and done


def _read_timeline(bag: Bag, interface: RobotInterface, names: dict[str, str], planner: str | None) -> _Timeline:
    action, instruction = names[interface.action.topic], names[interface.instruction.topic]
    judged = names[interface.events.topic] if interface.events else None
    commands: list[tuple[int, np.ndarray | Fault]] = []
    events: list[tuple[int, Any]] = []
    told: list[tuple[int, str]] = []
    obeyed: list[tuple[int, str | None]] = []
    for raw, message in bag.contents({action, instruction, judged, planner} - {None}):
        stamp_ns = message_time(message, raw.log_ns)
        if raw.topic == action:
            commands.append((stamp_ns, read_action(message, interface.action)))
        elif raw.topic == instruction:
            told.append((stamp_ns, message.data.strip()))
        elif raw.topic == planner:
            obeyed.append((stamp_ns, message.instruction.strip() if message.state >= ACTIVE else None))
        else:
            events.append((stamp_ns, message))
    if not commands:
        raise ConversionError(f"{bag.path}: no message on {action} can be read: {next(iter(bag.unreadable.values()))}")
    missed_ns = [log_ns for topic, log_ns in bag.unreadable if topic == judged]
    for said in (commands, events, told, obeyed):
        said.sort(key=lambda item: item[0])
    times, actions = [stamp for stamp, _ in commands], [action for _, action in commands]
    return _Timeline(times, actions, events, told, obeyed, missed_ns)


def _episodes(
    timeline: _Timeline,
    bag: Bag,
    interface: RobotInterface,
    offset_ns: int,
    instruction: str | None,
    report: ConversionReport,
) -> list[_Episode]:
    if offset_ns:  # the bag's clock may run at another speed than the stamps'
        first_ns, last_ns = timeline.command_ns[0] - SECOND, timeline.command_ns[-1] + SECOND
    else:
        first_ns, last_ns = bag.start_ns - SECOND, bag.end_ns + SECOND
    events = timeline.events
    if any(event.kind == START for _, event in events):
        _note_before_start(events, first_ns + SECOND, interface.events.topic, report)
        _complete(events, timeline.instructions, offset_ns, interface.instruction.topic, report)
        said = _said_beside(timeline, first_ns + SECOND + TOGETHER_NS) if not offset_ns else []
        if offset_ns and {text for _, text in timeline.instructions} - {event.instruction for _, event in events}:
            topic = interface.instruction.topic
            report.notes.append(f"{topic}: its times are not those of the stamps, so what the events say counts")
        episodes = _by_events(events, said, last_ns, report)
    else:
        if interface.events:
            report.notes.append(
                f"no episode begins on {interface.events.topic}: cut at gaps and instructions, nothing judged"
            )
        episodes = _by_instructions(timeline.instructions, first_ns, last_ns, offset_ns, instruction, bag)
    for episode in episodes:
        # with two clocks nobody can tell in which episode it was received
        if any(offset_ns or episode.start_ns <= at_ns <= episode.end_ns for at_ns in timeline.missed_ns):
            report.notes.append(f"episode {episode.name}: not judged, since one of its events cannot be read")
            episode.judged, episode.success = False, None
        episode.start_ns, episode.end_ns = max(episode.start_ns, first_ns), min(episode.end_ns, last_ns)
        episode.instruction = episode.instruction or instruction or ""
    episodes = [episode for episode in episodes if episode.start_ns < episode.end_ns]
    known = [episode for episode in episodes if episode.instruction]
    if episodes and not known:
        raise ConversionError(f"{bag.path}: no instruction was recorded; give one with --instruction")
    for episode in episodes:
        if not episode.instruction:
            report.notes.append(f"episode {episode.name}: left out, it has no instruction; give one with --instruction")
        elif tells_to_stop(episode.instruction):
            report.notes.append(f"episode {episode.name}: left out, '{episode.instruction}' is nothing to learn")
    return [episode for episode in known if not tells_to_stop(episode.instruction)]


def _note_before_start(events: list[tuple[int, Any]], begin_ns: int, topic: str, report: ConversionReport) -> None:
    """Say what of the recording, from ``begin_ns`` on, lies before its first START: it is of no episode."""
    start_ns = next(stamp_ns for stamp_ns, event in events if event.kind == START)
    seconds = (start_ns - begin_ns) / SECOND
    early = sum(begin_ns <= stamp_ns < start_ns for stamp_ns, _ in events)
    if early or seconds >= 1:
        report.notes.append(
            f"{topic}: the first {seconds:.1f} s, before the first START, were left out"
            + f", with {early} event(s)" * bool(early)
        )


def _complete(
    events: list[tuple[int, Any]],
    instructions: list[tuple[int, str]],
    offset_ns: int,
    topic: str,
    report: ConversionReport,
) -> None:
    """Give events that have no instruction the one said last until a second after them, or else first before the next.

    With two clocks nobody can tell which was said when: they get one where no other was said.
    """
    texts = [(heard_ns, text) for heard_ns, text in instructions if text]
    for index, (stamp_ns, event) in enumerate(events):
        event.instruction = event.instruction.strip()
        if event.instruction or event.kind not in (START, INSTRUCTION):
            continue
        ends = (at_ns for at_ns, later in events[index + 1 :] if later.kind in (START, INSTRUCTION, END))
        end_ns = next(ends, texts[-1][0] if texts else stamp_ns)
        known = [text for heard_ns, text in texts if heard_ns <= stamp_ns + TOGETHER_NS][-1:]
        known += [text for heard_ns, text in texts if stamp_ns < heard_ns <= end_ns]
        if offset_ns:
            known = [text for _, text in texts] if len({text for _, text in texts}) == 1 else []
        if known:
            event.instruction = known[0]
            report.notes.append(f"episode {event.episode}: its event has no instruction; {topic} said '{known[0]}'")


def _said_beside(timeline: _Timeline, since_ns: int) -> list[tuple[int, str]]:
    """What the robot was told within an episode, other than its events say: on the topic, or as its planner obeys.

    Not what the topic said before ``since_ns``: it may have been latched long ago. Nor what an event says too: the two
    are received at different moments, up to a second apart, and one who repeats an instruction may go on a little.
    So may the planner say what it obeyed before; where it still does later, it never obeyed the new one.
    """
    events = timeline.events
    told = [(at_ns, _aim(event.instruction)) for at_ns, event in events if event.kind in (START, INSTRUCTION)]
    said = [(at_ns, text, False) for at_ns, text in timeline.told]
    said += [(at_ns, text, True) for at_ns, text in timeline.obeyed]
    changes: list[tuple[int, str]] = []
    in_force: str | None = None  # None: between episodes
    event_ns = in_force_ns = 0
    heard: str | None = None  # on the topic
    obeyed, obeyed_ns = None, 0  # by the planner, and since when; None: it is not active
    for at_ns, what, by_planner in sorted([*((*event, False) for event in events), *said], key=lambda item: item[0]):
        if not isinstance(what, str | None):
            if what.kind in (START, INSTRUCTION):
                in_force, event_ns, in_force_ns = _aim(what.instruction), at_ns, at_ns
            elif what.kind == END:
                in_force = None
            continue
        aim = None if what is None else _aim(what)
        if by_planner:
            # just activated and told nothing yet, or told to stop long ago: which of the two, only time tells
            lasting = aim == obeyed or (obeyed is None and not what)
            if aim != obeyed:
                obeyed, obeyed_ns = aim, at_ns
        else:
            lasting, heard = aim == heard, aim
        if in_force is None or aim is None or aim == in_force:
            continue
        if by_planner and lasting:
            if at_ns - in_force_ns <= TOGETHER_NS:
                continue
            at_ns = max(in_force_ns, obeyed_ns)
        else:
            others = {text for told_ns, text in told if told_ns != event_ns and abs(at_ns - told_ns) <= TOGETHER_NS}
            early = at_ns < since_ns and not by_planner
            unheeded = lasting and (at_ns - event_ns <= TOGETHER_NS or in_force == obeyed)
            if early or unheeded or aim in others:
                continue
        changes.append((at_ns, what or NOTHING))
        in_force, in_force_ns = aim, at_ns
    return changes


def _aim(text: str) -> str:
    """``text`` to be compared: there are many ways to tell a robot to stop."""
    return NOTHING if not text or tells_to_stop(text) else text


def _by_events(
    events: list[tuple[int, Any]], said: list[tuple[int, str]], last_ns: int, report: ConversionReport
) -> list[_Episode]:
    """Episodes from START to END, cut where the instruction changed: by an event, or by what was ``said`` beside them.

    A simulator that describes its scene judges what its events say: what was said beside them, nobody judges.
    """
    judging = any(
        event.kind == VIOLATION_BEGIN or (event.kind == END and event.success in VERDICT) for _, event in events
    )
    episodes: list[_Episode] = []
    pieces: list[_Episode] = []  # of the episode that goes on
    broken_since: int | None = None

    def close(at_ns: int) -> None:
        """The last piece ends before ``at_ns``."""
        pieces[-1].end_ns = at_ns - 1
        if broken_since is not None:
            pieces[-1].broken.append((broken_since, at_ns))

    for stamp_ns, event in sorted([*events, *said], key=lambda item: item[0]):
        if not isinstance(event, str) and event.kind == START:
            if pieces:
                close(stamp_ns)
            episodes += pieces
            broken_since = None
            scene = _scene(event.scene, report)
            first = _Episode(stamp_ns, last_ns, event.instruction, event.episode, judged=judging or scene is not None)
            first.scene, first.scene_seed = scene, int(event.seed)
            pieces = [first]
        elif not pieces:
            continue
        elif isinstance(event, str):
            close(stamp_ns)
            judged = first.judged and first.scene is None
            pieces.append(replace(first, start_ns=stamp_ns, end_ns=last_ns, instruction=event, judged=judged))
            report.instruction_cuts += 1
            report.notes.append(f"episode {first.name}: cut where it was told '{event}'")
        elif event.kind == INSTRUCTION:
            close(stamp_ns)
            pieces.append(replace(first, start_ns=stamp_ns, end_ns=last_ns, instruction=event.instruction))
        elif event.kind == VIOLATION_BEGIN:
            broken_since = stamp_ns if broken_since is None else broken_since
            first.labelled.append(stamp_ns)
        elif event.kind == VIOLATION_END and broken_since is not None:
            pieces[-1].broken.append((broken_since, stamp_ns))
            broken_since = None
        elif event.kind == END:
            close(stamp_ns + 1)
            _settle(pieces, event, report)
            episodes += pieces
            pieces, broken_since = [], None
    if pieces:
        close(last_ns + 1)
    return episodes + pieces


def _settle(pieces: list[_Episode], end: Any, report: ConversionReport) -> None:
    """Give the outcome that ``end`` tells to the last piece of its episode in which there was something to reach.

    It stays unknown where ``end`` names another instruction than that piece's, or where nobody judged it.
    """
    aims = [piece for piece in pieces if not tells_to_stop(piece.instruction)]
    if not aims or not aims[-1].judged or (len(pieces) > 1 and end.instruction not in ("", aims[-1].instruction)):
        return
    aims[-1].success = VERDICT.get(end.success)
    if aims[-1].success and aims[-1].broken:
        report.broken_successes += 1
        aims[-1].success = False


def _by_instructions(
    instructions: list[tuple[int, str]], first_ns: int, last_ns: int, offset_ns: int, given: str | None, bag: Bag
) -> list[_Episode]:
    """One episode for each instruction in turn; outcome and violations are unknown."""
    changes = [
        entry for before, entry in zip([(0, None), *instructions], instructions, strict=False) if entry[1] != before[1]
    ]
    if offset_ns and len(changes) > 1:
        raise ConversionError(f"{bag.path}: instructions cannot be placed in simulated time; record with use_sim_time")
    if not changes and not given:
        raise ConversionError(f"{bag.path}: no instruction was recorded; give one with --instruction")
    if not changes or given:
        changes = [(first_ns, given or ""), *changes]
    if offset_ns or len(changes) == 1:
        changes[0] = (first_ns, changes[0][1])  # a recorder that starts late hears a latched instruction late
    ends = [stamp - 1 for stamp, _ in changes[1:]] + [last_ns]
    return [
        _Episode(stamp_ns, end_ns, text, str(index), cut_gaps=True)
        for index, ((stamp_ns, text), end_ns) in enumerate(zip(changes, ends, strict=True))
        if text
    ]


def _scene(text: str, report: ConversionReport) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        scene = json.loads(text)
    except json.JSONDecodeError as error:
        report.notes.append(f"the scene of an episode is not JSON and was left out: {error}")
        return None
    return scene if isinstance(scene, dict) else None


def _ticks(episode: _Episode, command_ns: list[int], rate: float) -> list[int]:
    """Ticks of an episode at ``rate``, just before the commands where these have one phase, else from its start."""
    period = SECOND / rate
    inside = command_ns[bisect.bisect_left(command_ns, episode.start_ns) : bisect.bisect(command_ns, episode.end_ns)]
    lead = 0.0
    if inside:
        angle = 2 * np.pi * ((np.asarray(inside) - episode.start_ns) % period) / period
        mean = np.exp(1j * angle).mean()
        if abs(mean) > 0.5:
            lead = (np.angle(mean) / (2 * np.pi) - LEAD) % 1.0 * period
    count = int((episode.end_ns - episode.start_ns - lead) // period) + 1
    return [episode.start_ns + round(lead + index * period) for index in range(max(count, 0))]


# --- what was seen


def _observe(
    bag: Bag,
    interface: RobotInterface,
    names: dict[str, str],
    episodes: list[_Episode],
    longest: int,
    offset_ns: int,
    report: ConversionReport,
    progress: bool,
) -> Iterator[_Episode]:
    """Make the steps of every episode, and yield each when it is complete.

    Where no events say what an episode is, it comes in pieces of the same length, of at most ``longest`` steps.
    A tick is made when something is received after it. Where the bag's clock is not that of the stamps, the two may run
    at different speeds, so a message counts as received at the newest stamp that had come by then.
    """
    topics = {names[topic]: topic for topic in interface.observation_topics()}
    waiting = deque(sorted(episodes, key=lambda episode: episode.start_ns))
    running: list[tuple[_Episode, StepStream]] = []
    latched = StepStream(interface)  # what was said once counts in the episodes that begin later, too
    period_ns = round(SECOND / interface.rate)
    newest_ns = received_ns = 0
    first_ns: int | None = None

    def advance(until_ns: float) -> Iterator[_Episode]:
        for episode, stream in list(running):
            while len(episode.steps) < len(episode.ticks) and episode.ticks[len(episode.steps)] < until_ns:
                tick = episode.ticks[len(episode.steps)]
                if not episode.steps:
                    stream.discard(tick - period_ns)  # live, what was refused until then is told by an earlier step
                episode.steps.append(stream.step(tick))
                if len(episode.steps) == episode.piece(longest) < len(episode.ticks):
                    report.length_cuts += 1
                    yield episode.split(len(episode.steps))
            if len(episode.steps) == len(episode.ticks):
                running.remove((episode, stream))
                yield episode

    total = sum(bag.topics[name].messages for name in topics)
    contents = bag.contents(set(topics))
    for raw, message in tqdm(contents, total=total, unit="msg", desc=bag.path.name, disable=not progress):
        stamp_ns = message_time(message, raw.log_ns)
        newest_ns = max(newest_ns, stamp_ns)
        received_ns = newest_ns if offset_ns else raw.log_ns
        first_ns = received_ns if first_ns is None else first_ns
        while waiting and waiting[0].start_ns <= stamp_ns:
            episode = waiting.popleft()
            begin, end = bisect.bisect_left(episode.ticks, first_ns), len(episode.ticks)
            if not offset_ns:
                end = bisect.bisect(episode.ticks, bag.end_ns)
            episode.ticks = episode.ticks[begin:end]  # nothing is known before and after
            stream = StepStream(interface)
            stream.carry_latched(latched)
            running.append((episode, stream))
        yield from advance(received_ns)
        heard = (topics[raw.topic], message, received_ns)
        is_latched = heard[0] in interface.latched_topics
        for episode, stream in running:
            if stamp_ns >= episode.start_ns or is_latched:
                stream.add(*heard)
        if is_latched:
            latched.add(*heard)
    for episode, _ in running:  # what came after the end of the bag is not known
        episode.ticks = episode.ticks[: max(bisect.bisect(episode.ticks, received_ns), len(episode.steps))]
    yield from advance(float("inf"))
    for episode in waiting:
        report.notes.append(f"episode {episode.name}: nothing was observed in it")


# --- trajectories


def _trajectories(
    episode: _Episode, timeline: _Timeline, interface: RobotInterface, reaction_ns: int, report: ConversionReport
) -> Iterator[Trajectory]:
    """The trajectory of an episode without the invalid steps at its ends; several where it is cut at gaps."""
    period_ns = round(SECOND / interface.rate)
    rows = [
        _row(tick, step, episode, timeline, interface, period_ns, report)
        for tick, step in zip(episode.ticks, episode.steps, strict=True)
    ]
    valid = np.array([row is not None for row in rows], bool)
    pieces = _pieces(valid, round(LONG_GAP * interface.rate) if episode.cut_gaps else None)
    for index, (begin, end) in enumerate(pieces):
        if end - begin < SHORTEST:
            report.notes.append(f"episode {episode.name}: a piece of {end - begin} step(s) was left out as too short")
            continue
        violation = [_violation(tick, episode, period_ns, reaction_ns) for tick in episode.ticks[begin:end]]
        sensor = np.zeros((end - begin, interface.sensor_size), np.float32)
        action = np.zeros((end - begin, interface.action_size), np.float32)
        images = {
            spec.name: np.zeros((end - begin, spec.height, spec.width, spec.channels), np.uint8)
            for spec in interface.images
        }
        for row, content in enumerate(rows[begin:end]):
            if content is not None:
                step, action[row] = content
                sensor[row] = step.sensor
                for name, image in step.images.items():
                    images[name][row] = image
        yield Trajectory(
            images=images,
            sensor=sensor,
            action=action,
            valid=valid[begin:end],
            violation=np.array(violation, np.int8),
            instruction=episode.instruction,
            success=episode.success if index == len(pieces) - 1 else None,
            source="real",
            provenance={"episode": episode.name, "start_ns": episode.ticks[begin], "scene_seed": episode.scene_seed},
            scene=episode.scene,
            state=_state(sensor, valid[begin:end], interface) if episode.scene is not None else None,
        )


def _row(
    tick: int,
    step: Step | Fault,
    episode: _Episode,
    timeline: _Timeline,
    interface: RobotInterface,
    period_ns: int,
    report: ConversionReport,
) -> tuple[Step, np.ndarray] | None:
    """What was seen and done at a tick; None, counted by reason, where one of the two is missing."""
    if isinstance(step, Fault):
        report.count(f"{step.field}: {step.kind.value}", step.reason)
        return None
    index = bisect.bisect_left(timeline.command_ns, tick + period_ns) - 1
    if index < 0 or timeline.command_ns[index] < max(tick - period_ns, episode.start_ns):
        report.count("no command", f"nothing on {interface.action.topic} within a period of {1 / interface.rate:g} s")
        return None
    action = timeline.commands[index]
    if isinstance(action, Fault):
        report.count(f"{action.field}: {action.kind.value}", action.reason)
        return None
    return step, action


def _pieces(valid: np.ndarray, longest_gap: int | None) -> list[tuple[int, int]]:
    """[begin, end) from first to last valid step, cut at runs of more than ``longest_gap`` steps that are not valid."""
    found = np.flatnonzero(valid)
    if not len(found):
        return []
    cuts = np.flatnonzero(np.diff(found) - 1 > longest_gap) if longest_gap is not None else np.zeros(0, int)
    begins = [found[0], *found[cuts + 1]]
    ends = [*found[cuts], found[-1]]
    return [(int(begin), int(end) + 1) for begin, end in zip(begins, ends, strict=True)]


def _violation(tick: int, episode: _Episode, period_ns: int, reaction_ns: int) -> int:
    """1: the instruction is broken at the tick, or was between it and the one before; 0: not; -1: nobody knows.

    Who labels by hand is late: within the reaction time before a violation is labelled, it may have begun already.
    """
    if not episode.judged:
        return -1
    if any(begin <= tick < end or (begin > tick - period_ns and end <= tick) for begin, end in episode.broken):
        return 1
    return -1 if any(begin - reaction_ns <= tick < begin for begin in episode.labelled) else 0


def _state(sensor: np.ndarray, valid: np.ndarray, interface: RobotInterface) -> np.ndarray | None:
    """The simulator's state [L, 5] (x, y, yaw, forward speed, turn rate) from exact odometry, where there is one.

    For robots in simulators that describe their scene: a sensor with the fields x, y, cos_yaw, sin_yaw, forward_speed
    and turn_rate is taken as the truth. NaN where a step is not valid.
    """
    needed = ("x", "y", "cos_yaw", "sin_yaw", "forward_speed", "turn_rate")
    for spec in interface.sensors:
        if set(needed) <= {field.name for field in spec.fields}:
            columns = {name: sensor[:, interface.sensor_names.index(f"{spec.name}.{name}")] for name in needed}
            columns["yaw"] = np.arctan2(columns["sin_yaw"], columns["cos_yaw"])
            state = np.stack([columns[name] for name in STATE], 1).astype(np.float32)
            state[~valid] = np.nan
            return state
    return None
