"""From a bag to trajectories, through the same stream-to-step path that the planner uses live.

Two passes over the bag. The first reads what was said and done (events, instructions, commands) and finds the episodes.
The second feeds the observations to one StepStream, in the order in which they were received, and steps it at the
interface's rate. As in the planner, a step holds what had been received by its tick, also between episodes: a camera
that is late live is as late in the dataset, and what a sensor said holds for its max_age.

Ticks lie just before the commands where those come at the control rate: a command is decided on what was seen right
before it, so its effect shows in the following step and not in the one after that.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.bag import Bag, DamagedBagError
from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.data.episodes import UNSTAMPED, Episode, Timeline, find_episodes, read_timeline
from tc_mmwm_core.data.report import ConversionError, ConversionReport, outcome
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.fault import Fault
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import SECOND, Step, StepStream, message_time

PLANNER_STATE = "tc_mmwm_ros/msg/PlannerState"

CLOCKS_DIFFER_NS = 10 * SECOND  # stamps and bag times this far apart come from different clocks
LEAD = 0.1  # of a period: how far ticks lie before the commands
LONG_GAP = 1.0  # s without a valid step: without events, a new trajectory begins after it
SHORTEST = 2  # steps
LONGEST = 60.0  # s: without events, trajectories are at most so long, unless another length is asked for
STATE = ("x", "y", "yaw", "forward_speed", "turn_rate")


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
        ConversionError: a topic is missing (those there are listed), or no instruction; ``longest`` is too short; the
            clock was set back by more than a second.
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
    _check_order(bag)
    _check_stamps(bag, interface, names)
    offset_ns = _clock_offset(bag, interface, names, report)
    planner = None if offset_ns else _planner_state(bag, robot)  # else its times are not the instruction topic's
    timeline = read_timeline(bag, interface, names, planner, offset_ns, report)
    episodes = find_episodes(timeline, bag, interface, offset_ns, instruction, report)
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
                report.account(trajectory, interface)
            episode.steps.clear()  # written: an hour of them would not fit into memory
    if shard and not force and (twice := _held_twice(writer.path, shard.path.name)):
        report.notes.append(
            f"{twice} of the trajectories are in the dataset twice now: it held them of another bag; was that "
            "this one, converted before its recording had ended?"
        )
    for topic, count in Counter(topic for topic, _ in bag.unreadable).items():
        first = next(why for (name, _), why in bag.unreadable.items() if name == topic)
        report.notes.append(f"{count} of {bag.topics[topic].messages} messages were left out: {first}")
    return report


# --- topics and clocks


def _held_twice(path: Path, shard: str) -> int:
    """How many trajectories of ``shard`` the other shards of the dataset at ``path`` hold as well."""
    infos = Dataset.open(path).trajectories
    others = {info.identity for info in infos if info.shard != shard}
    return sum(info.shard == shard and info.identity in others for info in infos)


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


def _check_order(bag: Bag) -> None:
    """ConversionError: the recorder's clock was set back, so that two stretches of time lie one over the other."""
    topic, fall_ns = bag.setback() or ("", 0)
    if fall_ns > SECOND:
        raise ConversionError(
            f"{bag.path}: {topic}: its times fall by {fall_ns / SECOND:.1f} s within the recording (a simulation was "
            "restarted, or the clock set back): what was recorded before and after cannot be told apart; record each "
            "in a bag of its own, as our recorder does"
        )


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


# --- what was seen


def _ticks(episode: Episode, command_ns: list[int], rate: float) -> list[int]:
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


def _observe(
    bag: Bag,
    interface: RobotInterface,
    names: dict[str, str],
    episodes: list[Episode],
    longest: int,
    offset_ns: int,
    report: ConversionReport,
    progress: bool,
) -> Iterator[Episode]:
    """Make the steps of every episode, and yield each when it is complete.

    Where no events say what an episode is, it comes in pieces of the same length, of at most ``longest`` steps.
    A tick is made when something is received after it. Where the bag's clock is not that of the stamps, the two may run
    at different speeds, so a message counts as received at the newest stamp that had come by then.
    """
    topics = {names[topic]: topic for topic in interface.observation_topics()}
    waiting = deque(sorted(episodes, key=lambda episode: episode.start_ns))
    stream = StepStream(interface)  # one for all of them, as live
    period_ns = round(SECOND / interface.rate)
    newest_ns = 0
    received_ns: int | None = None

    def advance(until_ns: float) -> Iterator[Episode]:
        while waiting:
            episode = waiting[0]
            while len(episode.steps) < len(episode.ticks):
                tick = episode.ticks[len(episode.steps)]
                if tick >= until_ns:
                    return
                if not episode.steps:
                    stream.discard(tick - period_ns)  # live, what was refused until then is told by an earlier step
                episode.steps.append(stream.step(tick))
                if len(episode.steps) == episode.piece(longest) < len(episode.ticks):
                    report.length_cuts += 1
                    yield episode.split(len(episode.steps))
            if not episode.steps:
                report.notes.append(f"episode {episode.name}: nothing was observed in it")
            yield waiting.popleft()

    total = sum(bag.topics[name].messages for name in topics)
    contents = bag.contents(set(topics))
    for raw, message in tqdm(contents, total=total, unit="msg", desc=bag.path.name, disable=not progress):
        newest_ns = max(newest_ns, message_time(message, raw.log_ns))
        first = received_ns is None
        received_ns = newest_ns if offset_ns else raw.log_ns
        if first:  # nothing is known before, nor after the bag's end
            for episode in waiting:
                begin = bisect.bisect_left(episode.ticks, received_ns)
                end = len(episode.ticks) if offset_ns else bisect.bisect(episode.ticks, bag.end_ns)
                episode.ticks = episode.ticks[begin:end]
        yield from advance(received_ns)
        stream.add(topics[raw.topic], message, received_ns)
    for episode in waiting:  # what came after the end of the bag is not known
        episode.ticks = episode.ticks[: max(bisect.bisect(episode.ticks, received_ns or 0), len(episode.steps))]
    yield from advance(math.inf)


# --- trajectories


def _trajectories(
    episode: Episode, timeline: Timeline, interface: RobotInterface, reaction_ns: int, report: ConversionReport
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
    episode: Episode,
    timeline: Timeline,
    interface: RobotInterface,
    period_ns: int,
    report: ConversionReport,
) -> tuple[Step, np.ndarray] | None:
    """What was seen and done at a tick; None, counted by reason, where one of the two is missing.

    What is seen may be of before START: the planner's memory begins when nothing is, and so does the trajectory.
    """
    if isinstance(step, Fault):
        report.count(f"{step.field}: {step.kind.value}", step.reason)
        return None
    for topic, stamp_ns in step.stamps_ns.items():
        if stamp_ns < episode.begun_ns and topic not in interface.lasting_topics:
            report.count(f"{topic}: older than START", f"{topic}: the newest message was older than the episode")
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


def _violation(tick: int, episode: Episode, period_ns: int, reaction_ns: int) -> int:
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
