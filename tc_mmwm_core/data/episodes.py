"""From what was said and done in a bag (events, instructions, commands) to its episodes: when which instruction was in
force, who judged it, and what came of it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from tc_mmwm_core.data.bag import Bag
from tc_mmwm_core.data.report import ConversionError, ConversionReport
from tc_mmwm_core.interface.action import read_action
from tc_mmwm_core.interface.fault import Fault
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stopping import tells_to_stop
from tc_mmwm_core.interface.stream import SECOND, Step, message_time

KINDS = ("START", "VIOLATION_BEGIN", "VIOLATION_END", "END", "INSTRUCTION")  # EpisodeEvent.kind
START, VIOLATION_BEGIN, VIOLATION_END, END, INSTRUCTION = range(5)
VERDICT = {0: False, 1: True}  # EpisodeEvent.success; 2 is unknown
ACTIVE = 2  # PlannerState.state from which on the planner commands the robot
TOGETHER_NS = SECOND  # at most so far apart, an instruction on its topic and the same in an event are one
OFF_NS = SECOND // 2  # stamped so long before or after it was received, an event may be of a clock that is off
UNSTAMPED = "does its sender fill it in (header: auto)?"
NOTHING = "stop"  # an empty instruction stops the planner


@dataclass
class Episode:
    """A stretch under one instruction, and the steps that were made of it."""

    start_ns: int
    end_ns: int  # included
    instruction: str
    name: str
    success: bool | None = None
    judged: bool = False
    scene: dict[str, Any] | None = None
    scene_seed: int | None = None
    begun_ns: int = 0  # its START; 0: none says that anything begins anew
    labelled: list[int] = field(default_factory=list)  # when each VIOLATION_BEGIN was, in all pieces of its episode
    cut_gaps: bool = False  # nobody says where attempts begin and end: a long gap is such a place
    broken: list[tuple[int, int]] = field(default_factory=list, init=False)  # [begin, end) of each violation
    ticks: list[int] = field(default_factory=list, init=False)
    steps: list[Step | Fault] = field(default_factory=list, init=False)

    def piece(self, longest: int) -> int:
        """How many of its ticks are to come at once: where no events say what an episode is, at most ``longest``."""
        return math.ceil(len(self.ticks) / math.ceil(len(self.ticks) / longest)) if self.cut_gaps else len(self.ticks)

    def split(self, count: int) -> Episode:
        """Its first ``count`` ticks and their steps, which it no longer holds itself."""
        part = replace(self)
        part.broken, part.ticks, part.steps = self.broken, self.ticks[:count], self.steps[:count]
        self.ticks, self.steps = self.ticks[count:], self.steps[count:]
        return part


@dataclass
class Timeline:
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


def read_timeline(
    bag: Bag,
    interface: RobotInterface,
    names: dict[str, str],
    planner: str | None,
    offset_ns: int,
    report: ConversionReport,
) -> Timeline:
    """All that is needed of ``bag`` to find its episodes.

    An event without a stamp was when it was received: with two clocks, at the newest command that had come by then.

    Args:
        names: the topics' names in the bag, by those in the interface.
        planner: the topic of its PlannerState; None: it has none that can be used.
        offset_ns: how far the bag's times are ahead of the stamps; not 0: they are of two clocks.
        report: gets which events had no stamp, or one far from when they were received.

    Raises:
        ConversionError: no command can be read; with two clocks, the stamps of commands fall by more than a second.
    """
    action, instruction = names[interface.action.topic], names[interface.instruction.topic]
    judged = names[interface.events.topic] if interface.events else None
    commands: list[tuple[int, np.ndarray | Fault]] = []
    events: list[tuple[int, Any]] = []
    told: list[tuple[int, str]] = []
    obeyed: list[tuple[int, str | None]] = []
    unstamped: Counter[int] = Counter()  # events, by kind
    delays: list[tuple[int, int]] = []  # of the other events: stamp, and how long after it each was received
    commanded_ns = 0
    for raw, message in bag.contents({action, instruction, judged, planner} - {None}):
        stamp_ns = message_time(message, raw.log_ns)
        if raw.topic == action:
            if offset_ns and stamp_ns < commanded_ns - SECOND:
                raise ConversionError(
                    f"{bag.path}: {action}: its stamps fall by {(commanded_ns - stamp_ns) / SECOND:.1f} s within the "
                    "recording: a simulation was restarted; record each in a bag of its own"
                )
            commands.append((stamp_ns, read_action(message, interface.action)))
            commanded_ns = max(commanded_ns, stamp_ns)
        elif raw.topic == instruction:
            told.append((stamp_ns, message.data.strip()))
        elif raw.topic == planner:
            obeyed.append((stamp_ns, message.instruction.strip() if message.state >= ACTIVE else None))
        else:
            received_ns = commanded_ns if offset_ns else raw.log_ns
            events.append((stamp_ns or received_ns, message))
            if not stamp_ns:
                unstamped[message.kind] += 1
            elif received_ns:
                delays.append((stamp_ns, received_ns - stamp_ns))
    if not commands:
        raise ConversionError(f"{bag.path}: no message on {action} can be read: {next(iter(bag.unreadable.values()))}")
    missed_ns = [log_ns for topic, log_ns in bag.unreadable if topic == judged]
    for said in (commands, events, told, obeyed):
        said.sort(key=lambda item: item[0])
    begin_ns = commands[0][0] if offset_ns else bag.start_ns  # what was latched before is heard late
    _note_clock([delay_ns for stamp_ns, delay_ns in delays if stamp_ns >= begin_ns], unstamped, judged, report)
    times, actions = [stamp for stamp, _ in commands], [action for _, action in commands]
    return Timeline(times, actions, events, told, obeyed, missed_ns)


def _note_clock(delays_ns: list[int], unstamped: Counter[int], topic: str | None, report: ConversionReport) -> None:
    """Say which events had no stamp (by kind), and how far the stamps of others are from when they were received."""
    if unstamped:
        report.notes.append(
            f"{topic}: {unstamped.total()} event(s) have no stamp (header.stamp is 0) and count from when they were "
            f"received: {_counted(unstamped)}; {UNSTAMPED}"
        )
    for sign, side in ((1, "before"), (-1, "after")):
        if off := [sign * delay_ns for delay_ns in delays_ns if sign * delay_ns > OFF_NS]:
            report.notes.append(
                f"{topic}: {len(off)} event(s) are stamped up to {max(off) / SECOND:.1f} s {side} they were received; "
                "if their sender's clock is off, so is what they label"
            )


def find_episodes(
    timeline: Timeline,
    bag: Bag,
    interface: RobotInterface,
    offset_ns: int,
    instruction: str | None,
    report: ConversionReport,
) -> list[Episode]:
    """The episodes of ``bag`` without their steps, each under one instruction, but for those with nothing to learn.

    Args:
        offset_ns: how far the bag's times are ahead of the stamps; not 0: they are of two clocks.
        instruction: where none was recorded.
        report: gets what was cut, assumed and left out.

    Raises:
        ConversionError: no instruction was recorded, and none is given.
    """
    if offset_ns:  # the bag's clock may run at another speed than the stamps'
        first_ns, last_ns = timeline.command_ns[0] - SECOND, timeline.command_ns[-1] + SECOND
    else:
        first_ns, last_ns = bag.start_ns - SECOND, bag.end_ns + SECOND
    if any(event.kind == START for _, event in timeline.events):
        _note_before_start(timeline.events, first_ns + SECOND, interface.events.topic, report)
        events = timeline.events = _within_episodes(timeline.events, first_ns + SECOND, interface.events.topic, report)
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
                + f"; {_unused(timeline.events)}" * bool(timeline.events)
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
    """Say how much of the recording, from ``begin_ns`` on, lies before its first START: it is of no episode."""
    start_ns = next(stamp_ns for stamp_ns, event in events if event.kind == START)
    seconds = (start_ns - begin_ns) / SECOND
    if seconds >= 1:
        report.notes.append(f"{topic}: the first {seconds:.1f} s, before the first START, were left out")


def _within_episodes(
    events: list[tuple[int, Any]], begin_ns: int, topic: str, report: ConversionReport
) -> list[tuple[int, Any]]:
    """The events that count, by time: each START, and up to END what is of that episode or names none.

    A violation that began between episodes and goes on at START is one from START on. What is left out and not older
    than ``begin_ns``, where the bag begins, is noted.
    """
    kept: list[tuple[int, Any]] = []
    outside: list[tuple[int, Any]] = []
    strange: list[tuple[int, Any]] = []  # they name another episode than the one that goes on
    begun: tuple[int, Any] | None = None  # a violation, since the last episode
    running: str | None = None  # None: no episode goes on
    for stamp_ns, event in events:
        if event.kind == START:
            running = event.episode
            kept.append((stamp_ns, event))
            if begun and begun[1].episode in ("", running):
                kept.append((stamp_ns, begun[1]))
            elif begun:
                outside.append(begun)
            begun = None
        elif running is None:
            if event.kind == VIOLATION_BEGIN and begun is None:
                begun = (stamp_ns, event)
                continue
            if event.kind == VIOLATION_END and begun:
                outside.append(begun)
                begun = None
            outside.append((stamp_ns, event))
        elif running and event.episode not in ("", running):
            strange.append((stamp_ns, event))
        else:
            kept.append((stamp_ns, event))
            running = None if event.kind == END else running
    outside = [each for each in (*outside, *filter(None, [begun])) if each[0] >= begin_ns]
    if outside:
        report.notes.append(f"{topic}: outside of episodes, {_unused(outside)}")
    if strange:
        named = ", ".join(sorted({event.episode for _, event in strange})[:3])
        report.notes.append(
            f"{topic}: another episode ({named}) is named than the one that was running, {_unused(strange)}"
        )
    return kept


def _unused(events: list[tuple[int, Any]]) -> str:
    return f"{len(events)} event(s) were not used: {_counted(Counter(event.kind for _, event in events))}"


def _counted(kinds: Counter[int]) -> str:
    return ", ".join(f"{KINDS[kind] if kind < len(KINDS) else kind} {count}" for kind, count in sorted(kinds.items()))


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


def _said_beside(timeline: Timeline, since_ns: int) -> list[tuple[int, str]]:
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
) -> list[Episode]:
    """Episodes from START to END, cut where the instruction changed: by an event, or by what was ``said`` beside them.

    A simulator that describes its scene judges what its events say: what was said beside them, nobody judges.
    """
    judging = any(
        event.kind == VIOLATION_BEGIN or (event.kind == END and event.success in VERDICT) for _, event in events
    )
    episodes: list[Episode] = []
    pieces: list[Episode] = []  # of the episode that goes on
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
            first = Episode(stamp_ns, last_ns, event.instruction, event.episode, judged=judging or scene is not None)
            first.scene, first.scene_seed, first.begun_ns = scene, int(event.seed), stamp_ns
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


def _settle(pieces: list[Episode], end: Any, report: ConversionReport) -> None:
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
) -> list[Episode]:
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
        Episode(stamp_ns, end_ns, text, str(index), cut_gaps=True)
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
