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
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
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

CLOCKS_DIFFER_NS = 10 * SECOND  # stamps and bag times this far apart come from different clocks
LEAD = 0.1  # of a period: how far ticks lie before the commands
LONG_GAP = 1.0  # s without a valid step: without events, a new trajectory begins after it
SHORTEST = 2  # steps
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
    broken: list[tuple[int, int]] = field(default_factory=list)  # [begin, end) of each violation
    scene: dict[str, Any] | None = None
    scene_seed: int | None = None
    cut_gaps: bool = False  # nobody says where attempts begin and end: a long gap is such a place
    ticks: list[int] = field(default_factory=list)
    steps: list[Step | Fault] = field(default_factory=list)


@dataclass
class _Timeline:
    """What was said and done."""

    command_ns: list[int]
    commands: list[np.ndarray | Fault]
    events: list[tuple[int, Any]]
    instructions: list[tuple[int, str]]
    missed_ns: list[int]  # when an event was received that cannot be read


def convert(
    path: str | Path,
    output: str | Path,
    interface: RobotInterface,
    *,
    namespace: str | None = None,
    instruction: str | None = None,
    source: Literal["simulated", "real"] | None = None,
    success: bool | None = None,
    force: bool = False,
    progress: bool = False,
) -> ConversionReport:
    """Append the trajectories of the bag at ``path`` to the dataset at ``output``, all of them or none.

    Args:
        namespace: of the robot in the bag; found by itself where only one fits.
        instruction: for bags in which none was recorded.
        source: by default simulated where the events describe a scene, else real.
        success: of the trajectories of which it is not known; see :func:`outcome`.
        force: also where the dataset already holds this bag.
        progress: show a bar.

    Raises:
        BagError: not a bag, empty, or damaged beyond salvage.
        ConversionError: a topic is missing (those there are listed), or no instruction.
        AlreadyHeldError: the dataset holds this bag; only without ``force``.
        DatasetError: the dataset there was made for another robot interface.
    """
    options = (Path(output), interface, namespace, instruction, source, success, force, progress)
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
    timeline = _read_timeline(bag, interface, names)
    episodes = _episodes(timeline, bag, interface, offset_ns, instruction, report)
    for episode in episodes:
        episode.ticks = _ticks(episode, timeline.command_ns, interface.rate)
    provenance = {"bag": bag.path.name, "sha256": digest, "namespace": robot, "interface": interface.digest}
    with ExitStack() as stack:
        shard = None
        for episode in _observe(bag, interface, names, episodes, offset_ns, report, progress):
            for trajectory in _trajectories(episode, timeline, interface, report):
                trajectory.source = source or ("simulated" if episode.scene is not None else "real")
                trajectory.success = outcome(trajectory, success)
                trajectory.provenance |= provenance
                shard = shard or stack.enter_context(writer.shard())
                shard.add(trajectory)
                report.account(trajectory)
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


def _read_timeline(bag: Bag, interface: RobotInterface, names: dict[str, str]) -> _Timeline:
    action, told = names[interface.action.topic], names[interface.instruction.topic]
    judged = names[interface.events.topic] if interface.events else None
    commands: list[tuple[int, np.ndarray | Fault]] = []
    events: list[tuple[int, Any]] = []
    instructions: list[tuple[int, str]] = []
    for raw, message in bag.contents({action, told} | ({judged} if judged else set())):
        stamp_ns = message_time(message, raw.log_ns)
        if raw.topic == action:
            commands.append((stamp_ns, read_action(message, interface.action)))
        elif raw.topic == told:
            instructions.append((stamp_ns, message.data.strip()))
        else:
            events.append((stamp_ns, message))
    if not commands:
        raise ConversionError(f"{bag.path}: no message on {action} can be read: {next(iter(bag.unreadable.values()))}")
    missed_ns = [log_ns for topic, log_ns in bag.unreadable if topic == judged]
    commands.sort(key=lambda item: item[0])
    events.sort(key=lambda item: item[0])
    times, actions = [stamp for stamp, _ in commands], [action for _, action in commands]
    return _Timeline(times, actions, events, instructions, missed_ns)


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
    if any(event.kind == START for _, event in timeline.events):
        episodes = _by_events(timeline.events, last_ns, report)
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
        if not episode.instruction.strip():
            said = _said(timeline.instructions, episode, offset_ns)
            if said:
                topic = interface.instruction.topic
                report.notes.append(f"episode {episode.name}: its event has no instruction; {topic} said '{said}'")
            episode.instruction = said or instruction or ""
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


def _said(instructions: list[tuple[int, str]], episode: _Episode, offset_ns: int) -> str:
    """What was said last before ``episode`` began, or else first in it; empty where nothing was, or none can tell."""
    texts = [(stamp_ns, text) for stamp_ns, text in instructions if text]
    if offset_ns:  # instructions have no stamp, so it is not known which came when
        different = {text for _, text in texts}
        return different.pop() if len(different) == 1 else ""
    before = [text for stamp_ns, text in texts if stamp_ns <= episode.start_ns]
    within = [text for stamp_ns, text in texts if episode.start_ns < stamp_ns <= episode.end_ns]
    return next(iter(before[-1:] + within), "")


def _by_events(events: list[tuple[int, Any]], last_ns: int, report: ConversionReport) -> list[_Episode]:
    """Episodes from START to END, cut where the instruction changed; only the last piece has the outcome."""
    judging = any(
        event.kind == VIOLATION_BEGIN or (event.kind == END and event.success in VERDICT) for _, event in events
    )
    episodes: list[_Episode] = []
    current: _Episode | None = None
    broken_since: int | None = None

    def close(at_ns: int, success: bool | None = None) -> None:
        if current is None:
            return
        current.end_ns, current.success = at_ns, success
        if broken_since is not None:
            current.broken.append((broken_since, at_ns + 1))
        episodes.append(current)

    for stamp_ns, event in events:
        if event.kind == START:
            close(stamp_ns - 1)
            broken_since = None
            scene = _scene(event.scene, report)
            current = _Episode(stamp_ns, last_ns, event.instruction, event.episode, judged=judging or scene is not None)
            current.scene, current.scene_seed = scene, int(event.seed)
        elif current is None:
            continue
        elif event.kind == VIOLATION_BEGIN:
            broken_since = stamp_ns if broken_since is None else broken_since
        elif event.kind == VIOLATION_END and broken_since is not None:
            current.broken.append((broken_since, stamp_ns))
            broken_since = None
        elif event.kind == INSTRUCTION:
            close(stamp_ns - 1)
            before = current
            current = _Episode(stamp_ns, last_ns, event.instruction, before.name, judged=before.judged)
            current.scene, current.scene_seed = before.scene, before.scene_seed
        elif event.kind == END:
            close(stamp_ns, VERDICT.get(event.success))
            current, broken_since = None, None
    close(last_ns)
    return episodes


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
    offset_ns: int,
    report: ConversionReport,
    progress: bool,
) -> Iterator[_Episode]:
    """Make the steps of every episode, and yield each when it is complete.

    A tick is made when something is received after it. Where the bag's clock is not that of the stamps, the two may run
    at different speeds, so a message counts as received at the newest stamp that had come by then.
    """
    topics = {names[topic]: topic for topic in interface.observation_topics()}
    waiting = deque(sorted(episodes, key=lambda episode: episode.start_ns))
    running: list[tuple[_Episode, StepStream]] = []
    latched: dict[str, tuple[str, Any, int]] = {}  # by topic, what was said last
    newest_ns = received_ns = 0

    def advance(until_ns: float) -> Iterator[_Episode]:
        for episode, stream in list(running):
            while len(episode.steps) < len(episode.ticks) and episode.ticks[len(episode.steps)] < until_ns:
                episode.steps.append(stream.step(episode.ticks[len(episode.steps)]))
            if len(episode.steps) == len(episode.ticks):
                running.remove((episode, stream))
                yield episode

    total = sum(bag.topics[name].messages for name in topics)
    contents = bag.contents(set(topics))
    for raw, message in tqdm(contents, total=total, unit="msg", desc=bag.path.name, disable=not progress):
        stamp_ns = message_time(message, raw.log_ns)
        newest_ns = max(newest_ns, stamp_ns)
        received_ns = newest_ns if offset_ns else raw.log_ns
        yield from advance(received_ns)
        while waiting and waiting[0].start_ns <= stamp_ns:
            running.append((waiting.popleft(), StepStream(interface)))
            for said in latched.values():
                running[-1][1].add(*said)
        heard = (topics[raw.topic], message, received_ns)
        if heard[0] in interface.latched_topics:
            latched[heard[0]] = heard
        for episode, stream in running:
            if stamp_ns >= episode.start_ns or heard[0] in latched:
                stream.add(*heard)
    for episode, _ in running:  # what came after the end of the bag is not known
        episode.ticks = episode.ticks[: max(bisect.bisect(episode.ticks, received_ns), len(episode.steps))]
    yield from advance(float("inf"))
    for episode in waiting:
        report.notes.append(f"episode {episode.name}: nothing was observed in it")


# --- trajectories


def _trajectories(
    episode: _Episode, timeline: _Timeline, interface: RobotInterface, report: ConversionReport
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
        violation = [_violation(tick, episode, period_ns) for tick in episode.ticks[begin:end]]
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


def _violation(tick: int, episode: _Episode, period_ns: int) -> int:
    """1: the instruction is broken at the tick, or was between it and the one before; 0: not; -1: nobody knows."""
    if not episode.judged:
        return -1
    return int(any(begin <= tick < end or (begin > tick - period_ns and end <= tick) for begin, end in episode.broken))


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
