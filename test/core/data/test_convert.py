"""Bags of every kind become the same trajectories; what is wrong with a bag is said, counted or salvaged."""

from __future__ import annotations

import gc
import math
import os
import re
import shutil
import sqlite3
from collections import deque
from contextlib import closing

import numpy as np
import pytest
from mcap.reader import make_reader
from robot_bags import (
    END,
    INSTRUCTION,
    SCENE,
    START,
    VIOLATION_BEGIN,
    VIOLATION_END,
    Drive,
    episode,
    picture,
    store,
    twist,
)
from robot_messages import SECOND, boolean, header, image, odometry
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from tc_mmwm_core.data.bag import Bag, BagError
from tc_mmwm_core.data.convert import convert
from tc_mmwm_core.data.dataset import AlreadyHeldError, Dataset, DatasetWriter, ShardWriter
from tc_mmwm_core.data.report import ConversionError
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import Step, StepStream


@pytest.fixture
def run(navigation, tmp_path):
    """Write a drive, convert it, return the report and the dataset."""

    def run(drive: Drive, **arguments):
        bag = drive.write(tmp_path / "bag")
        report = convert(bag, tmp_path / "dataset", navigation, **arguments)
        return report, Dataset.open(tmp_path / "dataset")

    return run


def test_an_episode_becomes_a_trajectory(run, navigation):
    report, dataset = run(episode())
    [trajectory] = dataset
    # commands lie 30 ms after a tenth of a second, so ticks lie 20 ms after it: what was seen then, and done next
    steps = len(trajectory)
    assert steps == 45 and trajectory.valid.all() and report.faults == {}
    seen = np.arange(steps) * 2
    np.testing.assert_allclose(trajectory.sensor[:, 0], seen / 20, atol=1e-6)
    np.testing.assert_array_equal(trajectory.images["overhead"][:, 0, 0, 0], seen)
    np.testing.assert_allclose(trajectory.action[:, 0], np.arange(steps) / 100, atol=1e-7)
    ticks = 0.02 + np.arange(steps) / 10
    np.testing.assert_array_equal(trajectory.violation, (ticks >= 2.0) & (ticks < 3.0))
    assert trajectory.instruction == "go" and trajectory.success is False and trajectory.source == "simulated"
    assert trajectory.scene == {"pads": ["green"]}
    np.testing.assert_allclose(trajectory.state[:, 0], trajectory.sensor[:, 0])
    np.testing.assert_allclose(trajectory.state[:, 1:], [[0.0, 0.0, 0.3, 0.0]] * steps, atol=1e-6)
    assert trajectory.provenance["bag"] == "bag" and trajectory.provenance["interface"] == navigation.digest
    assert len(trajectory.provenance["sha256"]) == 64 and trajectory.provenance["scene_seed"] == 7
    assert report.violating_steps == 10 and report.failures == 1 and "10 of 45 judged steps" in report.table()


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE])
@pytest.mark.parametrize("bare", [False, True])
def test_every_kind_of_bag_gives_the_same(navigation, tmp_path, storage, compression, bare):
    if bare and compression is not CompressionMode.NONE:
        pytest.skip("rosbag2 keeps the compression mode in metadata.yaml, which a bare file has not")
    bag = episode(duration=2.0).write(tmp_path / "bag", storage, compression)
    convert(next(bag.glob("bag.*")) if bare else bag, tmp_path / "dataset", navigation)
    [trajectory] = Dataset.open(tmp_path / "dataset")
    assert len(trajectory) == 20 and trajectory.valid.all()
    np.testing.assert_array_equal(trajectory.images["overhead"][:, 0, 0, 0], np.arange(20) * 2)


def test_folder_without_metadata(navigation, tmp_path):
    bag = episode().write(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    assert convert(bag, tmp_path / "dataset", navigation).steps == 45


def test_instruction_changes_cut_and_only_the_last_piece_has_the_outcome(run):
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.event(1.5, VIOLATION_BEGIN, "go left")
    drive.event(2.0, INSTRUCTION, "go right")
    drive.event(2.5, VIOLATION_END, "go right")
    drive.event(4.0, END, "go right", success=1)
    report, [left, right] = run(drive)
    assert (left.instruction, left.success) == ("go left", None)
    assert (right.instruction, right.success) == ("go right", False)  # not True: it begins with a violation
    assert report.broken_successes == 1
    assert left.violation.sum() == 5 and right.violation.tolist() == [1] * 5 + [0] * (len(right) - 5)


def test_a_violation_that_ends_with_its_instruction_labels_nothing_of_the_next(run):
    """As the simulated robot says it: all three at one stamp, here just after the violation began."""
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.event(1.97, VIOLATION_BEGIN, "go left")
    drive.event(2.0, VIOLATION_END, "go left")
    drive.event(2.0, INSTRUCTION, "go right")
    drive.event(3.0, INSTRUCTION, "go back")
    drive.event(3.0, VIOLATION_BEGIN, "go back")
    _, [left, right, back] = run(drive)
    assert not left.violation.any() and not right.violation.any() and back.violation.all()


def test_only_the_verdict_at_the_end_judges(run):
    """An EpisodeEvent that leaves `success` out holds 0, FALSE: at START that says nothing."""
    drive = Drive()
    drive.event(0.0, START, success=0)
    drive.event(4.5, END)
    _, [trajectory] = run(drive)
    assert (trajectory.violation == -1).all() and trajectory.success is None


@pytest.mark.parametrize("reaction", [0.0, 0.5, 20.0])
def test_shortly_before_a_violation_is_labelled_nobody_knows(run, reaction):
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.event(0.6, VIOLATION_BEGIN)
    drive.event(0.8, VIOLATION_END)
    drive.event(1.8, INSTRUCTION, "go right")  # so shortly before, it may have been the other that was broken
    drive.event(2.0, VIOLATION_BEGIN)
    drive.event(2.2, VIOLATION_END)
    drive.event(3.0, END, success=0)
    drive.event(3.1, START, "go left")  # another episode knows nothing of it
    drive.event(4.5, END, success=1)
    report, dataset = run(drive, reaction=reaction)
    ticks = 0.02 + np.arange(45) / 10
    expected = np.zeros(45, int)
    for begin in (0.6, 2.0):
        expected[(ticks >= begin - reaction) & (ticks < begin)] = -1
    expected[6:8] = expected[20:22] = 1
    for trajectory in dataset:
        first = round((trajectory.provenance["start_ns"] / SECOND - drive.start) * 10)
        last = first + len(trajectory)
        episode_of = expected if first < 30 else np.zeros(45, int)
        np.testing.assert_array_equal(trajectory.violation, episode_of[first:last])
    assert report.unjudged_steps == {0.0: 0, 0.5: 10, 20.0: 18}[reaction] and report.violating_steps == 4


def test_a_violation_between_two_ticks_is_not_lost(run):
    drive = Drive()
    drive.event(0.0, START)
    drive.event(1.03, VIOLATION_BEGIN)
    drive.event(1.09, VIOLATION_END)
    _, [trajectory] = run(drive)
    assert np.flatnonzero(trajectory.violation).tolist() == [11]  # the tick at 1.12 s


def test_without_events_cut_at_gaps_and_instructions_nothing_judged(run):
    drive = Drive(duration=8.0)
    drive.instruct(0.0, "go left")
    drive.instruct(3.0, "go left")  # said again
    drive.instruct(5.0, "go right")
    for topic in ("camera/image_raw", "odom", "scan", "bumper"):
        drive.without(topic, 1.5, 3.0)
    report, dataset = run(drive)
    assert [info.instruction for info in dataset.trajectories] == ["go left", "go left", "go right"]
    assert all(info.success is None and info.source == "real" and info.scene is None for info in dataset.trajectories)
    assert all((trajectory.violation == -1).all() and trajectory.valid.all() for trajectory in dataset)
    assert report.unjudged_steps == report.steps and any("nothing judged" in note for note in report.notes)
    assert sum(report.faults.values()) > 0 and "overhead: stale" in report.faults


def test_before_the_first_message_there_is_nothing_that_could_be_missing(run):
    drive = Drive()
    drive.instruct(-0.1, "go left")
    report, [trajectory] = run(drive)
    assert len(trajectory) == 50 and report.faults == {}


def test_what_was_not_heard_yet_is_not_put_down_to_the_clocks(run):
    drive = Drive()
    drive.instruct(0.01, "go left")
    drive.instruct(2.01, "go right")  # just after a frame: at its first tick, nothing was heard under it yet
    drive.without("camera/image_raw", 0.0, 0.3)
    report, [left, right] = run(drive)
    assert report.faults == {"overhead: waiting": 3}
    assert report.examples["overhead: waiting"] == "camera/image_raw: nothing heard yet (sensor_msgs/msg/Image)"
    assert (len(left), len(right)) == (17, 30) and right.sensor[0, 0] == 2.0  # as it went on seeing


def test_a_step_that_sees_what_was_before_start_is_not_of_the_episode(run):
    """A simulator puts the robot elsewhere: until the first message from there, live it sees where it was."""
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.event(2.0, END, "go left", success=1)
    drive.event(2.2, START, "go left")
    for topic in ("camera/image_raw", "odom"):
        drive.without(topic, 2.15, 2.35)
    drive.event(4.5, END, "go left", success=1)
    report, [first, second] = run(drive)
    assert (len(first), len(second)) == (20, 21) and second.valid.all() and second.sensor[0, 0] == np.float32(2.4)
    assert report.faults == {"camera/image_raw: older than START": 2}


def test_without_events_what_is_long_comes_in_pieces_that_follow_one_another(run, navigation, tmp_path):
    drive = Drive(duration=8.0)
    drive.instruct(-0.1, "go")
    report, pieces = run(drive, longest=3.0)
    assert [len(piece) for piece in pieces] == [27, 27, 26] and report.length_cuts == 2 and report.faults == {}
    assert "note: 2 cut(s) for length, where no events say what an episode is (see --longest)" in report.table()
    whole = convert(tmp_path / "bag", tmp_path / "whole", navigation)
    [expected] = Dataset.open(tmp_path / "whole")
    assert whole.length_cuts == 0 and "--longest" not in whole.table()
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(np.concatenate([piece.arrays()[name] for piece in pieces]), array)
    begun = [piece.provenance["start_ns"] - expected.provenance["start_ns"] for piece in pieces]
    assert begun == [0, 27 * SECOND // 10, 54 * SECOND // 10]


def test_what_events_call_an_episode_is_never_cut_for_its_length(run):
    report, [trajectory] = run(episode(), longest=1.0)
    assert len(trajectory) == 45 and report.length_cuts == 0


def test_what_lasts_as_long_as_is_allowed_is_whole(run):
    drive = Drive(duration=8.0)
    drive.instruct(-0.1, "go")
    report, [trajectory] = run(drive, longest=8.0)
    assert len(trajectory) == 80 and report.length_cuts == 0


def test_a_length_that_holds_no_trajectory_is_refused(run):
    with pytest.raises(ConversionError, match=r"--longest\): is 0.1 s; a trajectory needs 2 steps, at 10 Hz 0.2 s"):
        run(episode(), longest=0.1)


@pytest.mark.parametrize("events", [True, False])
def test_long_recordings_need_no_more_memory_than_short_ones(run, monkeypatch, events):
    alive, add = [], ShardWriter.add

    def counted(self, trajectory):
        alive.append(sum(isinstance(each, Step) for each in gc.get_objects()))
        add(self, trajectory)

    monkeypatch.setattr(ShardWriter, "add", counted)
    drive = Drive(duration=9.0)
    drive.instruct(-0.1, "go")
    for second in range(9 * events):
        drive.event(second, START)
    _, dataset = run(drive, longest=1.0)
    assert len(dataset) == len(alive) == 9 and max(alive) <= 11


def unstamped(drive: Drive, topic: str) -> None:
    """Its messages as a sender leaves them that does not fill in their header."""
    for _, name, message in drive.entries:
        if name == f"/{topic}":
            message.header.stamp.sec = message.header.stamp.nanosec = 0


@pytest.mark.parametrize(("topic", "messages"), [("cmd_vel", 50), ("episode_event", 4)])
def test_commands_and_events_without_a_stamp_are_refused(run, topic, messages):
    drive = episode()
    unstamped(drive, topic)
    with pytest.raises(ConversionError, match=rf"/{topic}: header.stamp is 0 in all {messages} messages; does"):
        run(drive)


@pytest.mark.parametrize("bag_time_offset", [0.0, 1.7e9])
def test_what_is_latched_counts_in_every_episode_though_said_once(robot, tmp_path, bag_time_offset):
    """Long before the first; with a bag clock that is not that of the stamps, too."""
    drive = Drive()
    for begin, end in ((0.5, 2.0), (2.5, 4.5)):
        drive.event(begin, START)
        drive.event(end, END, success=1)
    drive.without("bumper")
    drive.add(900.0, "heading", odometry(900.0, x=0.25), latency=99.0)  # heard when the recorder came
    drive.add(1003.0, "heading", odometry(1003.0, x=0.75))
    heading = {"name": "heading", "path": "pose.pose.position.x", "unit": "m"}
    robot["sensors"][2] = {"name": "latched", "topic": "heading", "type": "nav_msgs/msg/Odometry", "max_age": 1000.0}
    robot["sensors"][2] |= {"latched": True, "fields": [heading]}
    report = convert(
        drive.write(tmp_path / "bag", bag_time_offset=bag_time_offset),
        tmp_path / "dataset",
        RobotInterface.from_dict(robot, "mine"),
    )
    first, second = Dataset.open(tmp_path / "dataset")
    assert first.valid.all() and second.valid.all(), report.table()
    np.testing.assert_array_equal(first.sensor[:, -1], np.full(len(first), 0.25, np.float32))
    np.testing.assert_array_equal(np.unique(second.sensor[:, -1]), [0.25, 0.75])
    assert not any("clock" in note for note in report.notes)


@pytest.mark.parametrize("latched", [True, False])
def test_what_is_said_on_change_is_carried_into_an_episode_as_it_is_live(robot, tmp_path, latched):
    """Two drivers, each with a joint of its own, on one topic, and messages that are refused between the episodes."""
    drive = Drive(duration=9.0)
    for begin, end in ((0.5, 2.0), (4.0, 6.0), (7.0, 8.5)):
        drive.event(begin, START)
        drive.event(end, END, success=1)
    drive.without("bumper")

    def say(joint: str, value: float, after: float, stamped: float) -> None:
        kind, nothing = store.types["sensor_msgs/msg/JointState"], np.zeros(0)
        message = kind(header(drive.start + stamped), [joint], np.array([value]), nothing, nothing)
        drive.add(drive.start + after, "joint_states", message)

    say("elbow", 0.25, -0.1, -0.1)
    say("finger", 0.5, -0.05, -0.05)
    say("elbow", 9.0, 2.5, 4.5)  # stamped too far ahead
    say("finger", 9.0, 2.6, -1.0)  # older than the one before
    say("finger", 0.75, 5.0, 5.0)
    say("elbow", 0.125, 6.5, 6.5)
    fields = [{"name": joint, "path": f"position['{joint}']", "unit": "rad"} for joint in ("elbow", "finger")]
    robot["sensors"][2] = {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/msg/JointState"}
    robot["sensors"][2] |= {"max_age": 1000.0, "latched": latched, "fields": fields}
    interface = RobotInterface.from_dict(robot, "mine")
    report = convert(drive.write(tmp_path / "bag"), tmp_path / "dataset", interface)
    dataset = Dataset.open(tmp_path / "dataset")
    assert [len(each) for each in dataset] == [15, 20, 15] and report.faults == {}, report.table()

    coming = deque(sorted(drive.entries, key=lambda entry: entry[0]))
    live = StepStream(interface)
    seen: dict[int, np.ndarray] = {}  # by tick
    for tick in range(90):
        now = drive.start + 0.02 + tick / 10
        while coming and coming[0][0] <= now:
            received, topic, message = coming.popleft()
            if topic.lstrip("/") in interface.observation_topics():
                live.add(topic.lstrip("/"), message, round(received * SECOND))
        if isinstance(step := live.step(round(now * SECOND)), Step):
            seen[tick] = step.sensor
    for trajectory in dataset:
        first = round((trajectory.provenance["start_ns"] / SECOND - drive.start - 0.02) * 10)
        for index, sensor in enumerate(trajectory.sensor):
            np.testing.assert_array_equal(sensor, seen[first + index])
    np.testing.assert_array_equal(dataset[2].sensor[0, -2:], [0.125, 0.75])


def test_inputs_without_a_stamp_do_not_set_the_clock_but_are_counted(run):
    drive = episode()
    for topic in ("odom", "scan"):
        unstamped(drive, topic)
    report, _ = run(drive)
    assert report.trajectories == 0 and report.faults.keys() == {"odometry: stale"}
    told = [note.split(" in its first")[0] for note in report.notes]
    assert {f"/{topic}: not used: header.stamp is 0" for topic in ("odom", "scan")} == set(told)


@pytest.mark.parametrize("success", [True, False])
def test_success_is_given_where_it_is_not_known(run, success):
    told = Drive(duration=8.0)
    told.instruct(0.0, "go left")
    told.instruct(3.0, "go right")
    report, dataset = run(told, success=success)
    assert [info.success for info in dataset.trajectories] == [success, success] and report.unknown_outcomes == 0


def test_success_that_is_known_stays_and_one_with_a_violation_is_none(run, navigation, tmp_path):
    _, [trajectory] = run(episode(), success=True)
    assert trajectory.success is False
    broken = Drive(start=2000.0)
    broken.event(0.0, START)
    broken.event(1.0, VIOLATION_BEGIN)
    broken.event(2.0, VIOLATION_END)
    broken.event(4.5, END)
    convert(broken.write(tmp_path / "broken"), tmp_path / "other", navigation, success=True)
    assert [info.success for info in Dataset.open(tmp_path / "other").trajectories] == [False]


def test_an_episode_that_end_calls_a_success_despite_a_violation_is_a_failure(run):
    drive = Drive()
    drive.event(0.0, START)
    drive.event(1.0, VIOLATION_BEGIN)
    drive.event(1.5, VIOLATION_END)
    drive.event(2.0, END, success=1)
    drive.event(2.5, START)
    drive.event(4.5, END, success=1)
    report, dataset = run(drive)
    assert [info.success for info in dataset.trajectories] == [False, True]
    assert (report.successes, report.failures, report.broken_successes) == (1, 1, 1)
    assert "note: 1 episode(s) that END calls a success hold a violation: counted as failures" in report.table()


def test_no_instruction(run):
    with pytest.raises(ConversionError, match="give one with --instruction"):
        run(Drive())


def test_an_episode_whose_event_has_no_instruction_takes_what_was_said(run):
    drive = Drive()
    drive.instruct(0.0, "go left")
    drive.event(0.5, START, instruction=" ")
    drive.event(2.0, END, instruction="", success=1)
    drive.event(2.2, START, "go right")
    drive.event(4.5, END, "go right")
    report, [left, right] = run(drive)
    assert (left.instruction, left.success, right.instruction) == ("go left", True, "go right")
    assert "episode e1: its event has no instruction; instruction said 'go left'" in report.notes


def test_an_episode_of_which_nobody_knows_the_instruction_is_left_out(navigation, tmp_path):
    drive = Drive()
    drive.event(0.5, START, instruction="")
    drive.event(2.0, END, instruction="")
    with pytest.raises(ConversionError, match="no instruction was recorded; give one with --instruction"):
        convert(drive.write(tmp_path / "blank"), tmp_path / "dataset", navigation)
    drive.event(2.2, START, "go right")
    drive.event(4.5, END, "go right")
    bag = drive.write(tmp_path / "bag")
    report = convert(bag, tmp_path / "dataset", navigation)
    assert "episode e1: left out, it has no instruction; give one with --instruction" in report.notes
    [right] = Dataset.open(tmp_path / "dataset")
    assert right.instruction == "go right"
    convert(bag, tmp_path / "given", navigation, instruction="go left")
    assert [each.instruction for each in Dataset.open(tmp_path / "given")] == ["go left", "go right"]


def test_what_was_done_when_told_to_stop_is_left_out(run):
    drive = Drive(duration=6.0)
    drive.instruct(0.0, "go left")
    drive.instruct(2.0, "Stop!")
    drive.instruct(4.0, "go right")
    report, dataset = run(drive)
    assert [info.instruction for info in dataset.trajectories] == ["go left", "go right"]
    assert "episode 1: left out, 'Stop!' is nothing to learn" in report.notes


def test_told_to_stop_within_an_episode_what_was_done_until_told_otherwise_is_left_out(run):
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.instruct(0.01, "go left")
    drive.instruct(2.0, "Stop!")
    drive.instruct(3.0, "go left")
    drive.event(4.5, END, "", success=1)
    report, [before, after] = run(drive)
    assert [before.instruction, after.instruction] == ["go left", "go left"]
    assert (before.success, after.success) == (None, True)
    assert before.sensor[-1, 0] < 2.0 and after.sensor[0, 0] >= 3.0 and len(before) == 20
    assert report.instruction_cuts == 2
    assert "episode e1: cut where it was told 'Stop!'" in report.notes
    assert "episode e1: left out, 'Stop!' is nothing to learn" in report.notes


@pytest.mark.parametrize("told", ["", "go left"])
def test_the_outcome_is_of_what_was_done_before_it_was_told_to_stop(run, told):
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.instruct(3.0, "stop")
    drive.event(4.5, END, told, success=1)
    _, [trajectory] = run(drive)
    assert (trajectory.instruction, trajectory.success, len(trajectory)) == ("go left", True, 30)


@pytest.mark.parametrize(("told", "success"), [("", True), ("go right", True), ("go left", None)])
def test_told_something_else_within_an_episode_it_is_cut_there(run, told, success):
    """The outcome is that of what was told last, unless END says that it is of something else."""
    drive = Drive()
    drive.event(0.0, START, "go left")
    drive.event(1.8, VIOLATION_BEGIN, "go left")
    drive.event(1.9, VIOLATION_END, "go left")
    drive.instruct(2.0, "go right")
    drive.event(4.5, END, told, success=1)
    report, [left, right] = run(drive)
    assert (left.instruction, left.success) == ("go left", None)
    assert (right.instruction, right.success) == ("go right", success)
    assert len(left) == 20 and len(right) == 25 and left.violation.sum() == 1 and not right.violation.any()
    assert report.instruction_cuts == 1 and report.broken_successes == 0


def test_what_an_event_says_too_or_was_latched_cuts_nothing(run, navigation, tmp_path):
    drive = Drive(duration=12.0)
    drive.instruct(0.1, "go away")  # latched, heard late by a recorder that has just started
    drive.event(0.0, START, "go left")
    drive.instruct(0.3, "go left")
    drive.event(3.0, INSTRUCTION, "go right")
    drive.instruct(2.9, "go right")  # its sender hears itself first, or last
    drive.instruct(5.2, "go up")
    drive.event(5.5, END, "go right", success=1)
    drive.event(5.6, START, "go up")
    drive.instruct(5.7, "go up")
    drive.instruct(7.0, "go up")  # said again
    drive.event(8.0, START, "go down")
    drive.instruct(8.3, "go up")  # who repeats it goes on a little
    drive.instruct(8.6, "go down")
    drive.event(11.0, END, "go down", success=0)
    report, dataset = run(drive)
    drive.without("instruction")
    convert(drive.write(tmp_path / "silent"), tmp_path / "expected", navigation)
    assert report.instruction_cuts == 0 and len(dataset) == 4
    for found, expected in zip(dataset, Dataset.open(tmp_path / "expected"), strict=True):
        assert (found.instruction, found.success) == (expected.instruction, expected.success)
        np.testing.assert_array_equal(found.sensor, expected.sensor)


def test_who_goes_on_repeating_another_instruction_is_heard(run):
    drive = Drive()
    drive.event(0.0, START, "go left")
    for tick in range(45):
        drive.instruct(tick / 10, "go right")
    drive.event(4.5, END, "", success=1)
    _, [left, right] = run(drive)
    assert (left.instruction, right.instruction, right.success) == ("go left", "go right", True)
    assert 0.8 < left.sensor[-1, 0] < 1.2


@pytest.mark.parametrize("events", [True, False])
def test_what_the_planner_was_told_by_its_parameter_counts_too(run, events):
    """It is on no topic of instructions: the planner tells what it obeys, each second and where it changes."""
    drive = Drive(duration=8.0)
    if events:
        drive.event(0.0, START, "go left")
        drive.event(7.5, END, "")
    drive.instruct(-0.1, "go left")
    for after in (0.02, 1.0, 2.0):
        drive.planner_state(after, "go left")
    drive.planner_state(1.5, "go away", state=1)  # inactive, it commands nothing
    drive.planner_state(3.0, "go right")
    drive.planner_state(4.0, "go right")
    drive.planner_state(5.0, "")  # told to stop
    drive.instruct(6.0, "go left")
    drive.planner_state(5.999, "go right")  # of before
    drive.planner_state(6.02, "go left")
    _, dataset = run(drive)
    told = [(each.instruction, each.sensor[0, 0].round(), each.sensor[-1, 0].round()) for each in dataset]
    assert told == [("go left", 0, 3), ("go right", 3, 5), ("go left", 6, 7 if events else 8)]


@pytest.mark.parametrize("since", [-1.0, 0.0, 1.0])
def test_what_the_planner_obeyed_all_along_counts_from_the_event_that_it_did_not_heed(run, since):
    drive = Drive(duration=12.0)
    drive.instruct(since - 0.05, "go right")
    for second in range(13):
        drive.planner_state(second + 0.4 - 1.0, "go right" if second - 0.6 >= since else "go left")
    drive.planner_state(since, "go right")
    drive.event(2.0, START, "go left")
    drive.event(6.5, END, "", success=1)
    drive.event(7.0, START, "go up")
    drive.event(9.0, INSTRUCTION, "go down")
    drive.event(11.5, END, "go down", success=1)
    report, dataset = run(drive)
    told = [(each.instruction, each.success, each.sensor[0, 0].round()) for each in dataset]
    assert told == [("go right", True, 2), ("go right", None, 7), ("go right", None, 9)]
    assert report.instruction_cuts == 3
    assert report.notes.count("episode e1: cut where it was told 'go right'") == 3


@pytest.mark.parametrize("robot", ["", "/a"])
def test_what_the_planner_of_another_robot_obeys_is_none_of_this_ones_business(navigation, tmp_path, robot):
    drive = Drive(prefix=robot)
    drive.event(0.0, START, "go left")
    drive.event(4.5, END, "go left", success=1)
    drive.prefix = f"{robot}/b"  # all that it has in this bag is its planner's state
    for second in range(5):
        drive.planner_state(second, "go right")
    report = convert(drive.write(tmp_path / "bag"), tmp_path / "dataset", navigation)
    assert [each.instruction for each in Dataset.open(tmp_path / "dataset")] == ["go left"]
    assert report.instruction_cuts == 0

    drive.prefix = robot
    for second in range(5):
        drive.planner_state(second, "go up")
    convert(drive.write(tmp_path / "own"), tmp_path / "obeyed", navigation)
    assert [each.instruction for each in Dataset.open(tmp_path / "obeyed")] == ["go up"]


def test_a_planner_that_obeys_what_the_events_say_cuts_nothing(run):
    """It tells each second, what was before shortly after the event too, and does not hear of it at once."""
    drive = Drive(duration=10.0)
    texts = ((0.5, START, "go left"), (3.0, INSTRUCTION, "go right"), (6.0, START, "go up"))
    for begin, kind, text in texts:
        drive.event(begin, kind, text)
        drive.instruct(begin + 0.05, text)
        drive.planner_state(begin + 0.6, text)
    drive.event(5.5, END, "go right", success=1)
    drive.event(9.5, END, "go up", success=1)
    drive.planner_state(-0.5, "")  # active, and told nothing yet
    for second in range(10):
        heeded = [text for begin, _, text in texts if begin + 0.6 <= second + 0.5]
        drive.planner_state(second + 0.5, heeded[-1] if heeded else "")
    report, dataset = run(drive)
    assert [(each.instruction, each.success) for each in dataset] == [
        ("go left", None),
        ("go right", True),
        ("go up", True),
    ]
    assert report.instruction_cuts == 0


def test_what_the_planner_obeyed_before_it_was_inactive_does_not_count_until_it_is_active_again(run):
    drive = Drive(duration=9.0)
    for second in range(9):
        drive.planner_state(second + 0.5, "go right", state=3 if second in (0, 6, 7, 8) else 1)
    drive.event(2.0, START, "go left")
    drive.event(8.5, END, "", success=1)
    _, dataset = run(drive)
    told = [(each.instruction, each.sensor[0, 0]) for each in dataset]
    assert [text for text, _ in told] == ["go left", "go right"] and told[1][1] == 6.5


def test_a_planner_that_was_told_to_stop_before_the_episode_teaches_nothing(navigation, tmp_path):
    drive = Drive(duration=10.0)
    for second in range(10):
        drive.planner_state(second + 0.5, "" if second < 5 else "go left")
    drive.event(2.0, START, "go left")
    drive.event(9.5, END, "go left", success=1)
    report = convert(drive.write(tmp_path / "bag"), tmp_path / "dataset", navigation)
    [trajectory] = Dataset.open(tmp_path / "dataset")
    assert (trajectory.instruction, trajectory.success, trajectory.sensor[0, 0]) == ("go left", True, 5.5)
    assert report.instruction_cuts == 2 and "episode e1: left out, 'stop' is nothing to learn" in report.notes


def test_told_on_its_topic_what_the_planner_does_not_obey_changes_nothing_however_often(run):
    drive = Drive(duration=8.0)
    drive.event(0.5, START, "go left")
    for tick in range(70):
        drive.instruct(0.6 + tick / 10, "go right")
    for second in range(8):
        drive.planner_state(second + 0.5, "go left")
    drive.event(7.5, END, "", success=1)
    report, [*_, trajectory] = run(drive)
    assert trajectory.instruction == "go left" and trajectory.success is True and report.instruction_cuts <= 2


@pytest.mark.parametrize("text", ["stop", "Stop!", ""])
def test_to_be_told_to_stop_and_to_obey_is_one(run, text):
    drive = Drive(duration=8.0)
    drive.event(0.0, START, "go left")
    drive.instruct(2.0, text)
    drive.instruct(4.0, "go left")
    drive.event(7.5, END, "go left", success=1)
    drive.planner_state(0.02, "go left")
    for after in (2.1, 3.0, 4.05):
        drive.planner_state(after, "")
    for after in (4.1, 5.0, 6.0, 7.0):
        drive.planner_state(after, "go left")
    report, dataset = run(drive)
    told = [(each.instruction, each.success, each.sensor[0, 0].round()) for each in dataset]
    assert told == [("go left", None, 0), ("go left", True, 4)]
    assert report.instruction_cuts == 2
    assert sum("nothing to learn" in note for note in report.notes) == 1


def test_what_a_simulator_was_not_told_by_its_events_it_did_not_judge(run):
    drive = Drive()
    drive.event(0.0, START, "go left", scene=SCENE)
    drive.instruct(2.0, "go right")
    drive.event(3.5, INSTRUCTION, "go up")
    drive.event(4.5, END, "go up", success=1)
    _, [left, right, up] = run(drive)
    assert (right.instruction, right.success, up.success) == ("go right", None, True)
    assert (left.violation == 0).all() and (right.violation == -1).all() and (up.violation == 0).all()
    assert right.scene == left.scene


def test_what_was_recorded_before_the_first_start_is_told(run):
    drive = Drive()
    drive.event(0.5, VIOLATION_BEGIN)
    drive.event(1.0, VIOLATION_END)
    drive.event(2.5, START)
    drive.event(4.5, END, success=1)
    report, [trajectory] = run(drive)
    assert len(trajectory) == 20 and trajectory.success is True and not trajectory.violation.any()
    told = "outside of episodes, 2 event(s) were not used: VIOLATION_BEGIN 1, VIOLATION_END 1"
    assert {"episode_event: the first 2.5 s, before the first START, were left out", f"episode_event: {told}"} == set(
        report.notes
    )


@pytest.mark.parametrize("bag_time_offset", [0.0, 1.7e9])
def test_an_event_without_a_stamp_counts_from_when_it_was_received(robot, tmp_path, bag_time_offset):
    del robot["sensors"][2]
    drive = Drive()
    drive.event(0.0, START)
    drive.event(2.0, VIOLATION_BEGIN, stamped=math.inf)
    drive.event(3.0, VIOLATION_END)
    drive.event(4.5, END, success=0, stamped=math.inf)
    bag = drive.write(tmp_path / "bag", bag_time_offset=bag_time_offset)
    report = convert(bag, tmp_path / "dataset", RobotInterface.from_dict(robot, "mine"))
    [trajectory] = Dataset.open(tmp_path / "dataset")
    assert len(trajectory) == 45 and np.flatnonzero(trajectory.violation).tolist() == list(range(20, 30))
    [note] = report.notes
    assert note == (
        "/episode_event: 2 event(s) have no stamp (header.stamp is 0) and count from when they were received: "
        "VIOLATION_BEGIN 1, END 1; does its sender fill it in (header: auto)?"
    )


def test_what_names_another_episode_than_the_one_that_goes_on_is_not_used(run):
    drive = Drive()
    drive.event(0.0, START, episode="a")
    drive.event(0.5, VIOLATION_BEGIN, episode="b")
    drive.event(1.0, END, success=1, episode="b")
    drive.event(2.0, VIOLATION_BEGIN, episode="")
    drive.event(3.0, VIOLATION_END, episode="a")
    drive.event(3.5, START, episode="c")  # whatever went on
    drive.event(4.5, END, success=1, episode="")
    report, [first, second] = run(drive)
    assert len(first) == 35 and np.flatnonzero(first.violation).tolist() == list(range(20, 30))
    assert (first.success, second.success, second.violation.any()) == (None, True, False)
    told = (
        "another episode (b) is named than the one that was running, 2 event(s) were not used: VIOLATION_BEGIN 1, END 1"
    )
    assert report.notes == [f"episode_event: {told}"]


@pytest.mark.parametrize("named", ["", "b"])
def test_a_violation_that_began_between_episodes_goes_on_in_the_next(run, named):
    drive = Drive()
    drive.event(0.0, START, episode="a")
    drive.event(1.0, VIOLATION_BEGIN, episode="a")  # over with its episode
    drive.event(2.0, END, success=0, episode="a")
    drive.event(2.1, END, success=1, episode="a")
    drive.event(2.4, VIOLATION_BEGIN, episode=named)
    drive.event(2.5, START, episode="b")
    drive.event(3.5, VIOLATION_END, episode="b")
    drive.event(4.5, END, success=1, episode="b")
    report, [first, second] = run(drive, reaction=0.5)
    assert first.violation.tolist() == [0] * 5 + [-1] * 5 + [1] * 10
    assert second.violation.tolist() == [1] * 10 + [0] * 10 and second.success is False
    assert report.notes == ["episode_event: outside of episodes, 1 event(s) were not used: END 1"]


@pytest.mark.parametrize(("ahead", "told"), [(-3.0, "before"), (1.0, "after"), (0.4, "")])
@pytest.mark.parametrize("bag_time_offset", [0.0, 1.7e9])
def test_events_of_a_clock_that_is_off_are_told_of(robot, tmp_path, ahead, told, bag_time_offset):
    del robot["sensors"][2]
    drive = Drive(duration=9.0)
    for after, kind in ((-5.0, START), (4.0, START), (5.0, VIOLATION_BEGIN), (6.0, VIOLATION_END)):
        drive.event(max(after, 0.0), kind, stamped=after + ahead)  # the first was latched
    bag = drive.write(tmp_path / "bag", bag_time_offset=bag_time_offset)
    report = convert(bag, tmp_path / "dataset", RobotInterface.from_dict(robot, "mine"))
    notes = [note for note in report.notes if "are stamped up to" in note]
    assert len(notes) == bool(told)
    if told:
        words = rf"/episode_event: 3 event\(s\) are stamped up to (.*) s {told} they were received; if their sender's"
        assert abs(float(re.match(words, notes[0])[1]) - abs(ahead)) < 0.11  # with two clocks, to a period


def test_instruction_given_on_the_command_line(run):
    _, [trajectory] = run(Drive(), instruction="bring the cup", source="simulated")
    assert trajectory.instruction == "bring the cup" and trajectory.source == "simulated"


def test_bad_steps_stay_in_place_invalid_and_counted_by_reason(run):
    drive = episode()
    drive.entries = [
        (
            received,
            topic,
            odometry(received - 0.002, x=math.nan) if topic == "/odom" and 1.44 < received % 1000 < 1.56 else m,
        )
        for received, topic, m in drive.entries
    ]
    drive.without("cmd_vel", 3.4, 3.8)
    report, [trajectory] = run(drive)
    assert np.flatnonzero(~trajectory.valid).tolist() == [15, 35, 36, 37]
    assert report.faults["odometry.x: non-finite"] == 1
    assert report.faults["no command"] == 3 and "cmd_vel" in report.examples["no command"]
    assert (
        "4 steps are not valid, since an input or the command was missing or bad: 4 within trajectories, where they "
        "stay, 0 before, between or after them, left out. What it was:\n       3 steps: no command; the first: nothing"
    ) in report.table()
    assert (trajectory.sensor[15] == 0).all() and (trajectory.images["overhead"][15] == 0).all()
    assert np.isnan(trajectory.state[15]).all()


def with_latency(drive: Drive, seconds: float) -> Drive:
    """The same drive with a camera whose frames arrive ``seconds`` late."""
    drive.entries = [
        (received + seconds * (topic == "/camera/image_raw"), topic, m) for received, topic, m in drive.entries
    ]
    return drive


@pytest.mark.parametrize("latency", [0.0, 0.06, 0.2])
def test_a_late_camera_is_as_late_in_the_dataset_as_it_is_live(run, navigation, latency):
    """Live as the planner does it: messages are added as they come, and each tick steps before later ones do."""
    drive = with_latency(episode(), latency)
    _, [trajectory] = run(drive)
    stream, coming = StepStream(navigation), deque(sorted(drive.entries, key=lambda entry: entry[0]))
    for index, pixels in enumerate(trajectory.images["overhead"]):
        tick = trajectory.provenance["start_ns"] / SECOND + index / 10
        while coming and coming[0][0] <= tick:
            received, topic, message = coming.popleft()
            if topic.lstrip("/") in navigation.observation_topics():
                stream.add(topic.lstrip("/"), message, round(received * SECOND))
        step = stream.step(round(tick * SECOND))
        np.testing.assert_array_equal(pixels, step.images["overhead"])
        np.testing.assert_array_equal(trajectory.sensor[index], step.sensor)
        assert tick - drive.start - pixels[0, 0, 0] / 20 >= latency
    assert len(trajectory) >= 42 and trajectory.valid.all()


def test_frames_that_come_too_late_to_drive_by_are_not_learned_from(run):
    report, dataset = run(with_latency(episode(), 0.8))
    assert len(dataset) == 0 and report.faults == {"overhead: stale": 37, "overhead: waiting": 8}
    assert "it came 0.802 s after its stamp: a slow sensor, or clocks that differ" in report.table()


def test_simulated_time_with_bags_in_wall_time(navigation, tmp_path):
    drive = episode(start=5.0)
    bag = drive.write(tmp_path / "bag", bag_time_offset=1.7e9)
    with pytest.raises(ConversionError, match=r"/bumper, which has no header.*use_sim_time"):
        convert(bag, tmp_path / "dataset", navigation)


@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("latency", [0.0, 0.23])
def test_stamped_topics_alone_convert_whatever_the_bag_clock(robot, tmp_path, speed, latency):
    """The bag in wall time, the stamps in the time of a simulation that is slower or faster: latency is seen still."""
    del robot["sensors"][2]
    drive = with_latency(episode(start=5.0), latency)
    drive.entries = [(received / speed, topic, m) for received, topic, m in drive.entries]
    report = convert(
        drive.write(tmp_path / "bag", bag_time_offset=1.7e9),
        tmp_path / "dataset",
        RobotInterface.from_dict(robot, "test"),
    )
    late = round(latency * 10)  # steps
    assert report.steps == report.valid_steps == 45 - late
    [trajectory] = Dataset.open(tmp_path / "dataset")
    np.testing.assert_array_equal(trajectory.images["overhead"][:, 0, 0, 0], np.arange(45 - late) * 2)


def test_a_namespaced_robot_is_found(run):
    report, dataset = run(episode(prefix="/robot1"))
    assert len(dataset) == 1 and "the robot's namespace in this bag is /robot1" in report.notes


def test_two_robots_in_a_bag_need_a_namespace(navigation, tmp_path):
    first, second = episode(prefix="/a"), episode(prefix="/b")
    first.entries += second.entries
    bag = first.write(tmp_path / "bag")
    with pytest.raises(ConversionError, match="give --namespace, one of /a, /b"):
        convert(bag, tmp_path / "dataset", navigation)
    assert convert(bag, tmp_path / "dataset", navigation, namespace="/b").trajectories == 1
    with pytest.raises(AlreadyHeldError, match="already holds its trajectories; --force"):
        convert(bag, tmp_path / "dataset", navigation, namespace="b/")
    assert convert(bag, tmp_path / "dataset", navigation, namespace="a").trajectories == 1
    made = [info.provenance["namespace"] for info in Dataset.open(tmp_path / "dataset").trajectories]
    assert sorted(made) == ["/a", "/b"]
    old = Dataset.open(tmp_path / "dataset")[0]
    del old.provenance["namespace"]  # as it was recorded before the namespace was kept
    DatasetWriter(tmp_path / "old", navigation).append([old])
    with pytest.raises(AlreadyHeldError, match="already holds its trajectories; --force"):
        convert(bag, tmp_path / "old", navigation, namespace="a")


def test_the_same_bag_twice_is_refused(navigation, tmp_path):
    bag = episode().write(tmp_path / "bag")
    convert(bag, tmp_path / "dataset", navigation)
    copy = shutil.copytree(bag, tmp_path / "renamed")
    with pytest.raises(AlreadyHeldError, match="already holds its trajectories; --force"):
        convert(copy, tmp_path / "dataset", navigation)
    convert(copy, tmp_path / "dataset", navigation, force=True)
    assert len(Dataset.open(tmp_path / "dataset")) == 2


def test_what_the_dataset_holds_of_the_same_recording_in_another_bag_is_told(navigation, tmp_path):
    """As where a bag is converted while it is recorded, and again when it is complete."""
    bag, other = episode().write(tmp_path / "bag"), episode().write(tmp_path / "other", StoragePlugin.SQLITE3)
    assert not any("twice" in note for note in convert(bag, tmp_path / "dataset", navigation).notes)
    [told] = [note for note in convert(other, tmp_path / "dataset", navigation).notes if "twice" in note]
    assert told.startswith("1 of the trajectories are in the dataset twice now")


def test_cut_off_mcap_is_salvaged(navigation, tmp_path):
    """Cut anywhere: what is before the cut converts to the same steps as the whole bag's."""
    from mcap_files import rechunk

    whole = rechunk(episode().write(tmp_path / "bag"), tmp_path / "whole.mcap")
    convert(whole, tmp_path / "dataset", navigation)
    [expected] = Dataset.open(tmp_path / "dataset")
    size = whole.stat().st_size
    for share in (0.35, 0.6, 0.9):
        cut = tmp_path / f"cut{share}.mcap"
        cut.write_bytes(whole.read_bytes()[: int(size * share)])
        report = convert(cut, tmp_path / f"dataset{share}", navigation)
        [found] = Dataset.open(tmp_path / f"dataset{share}")
        assert any("cut off after" in note for note in report.notes)
        assert share * 45 - 12 < len(found) <= 45 and (found.success is None or len(found) == 45)
        valid = found.valid
        np.testing.assert_array_equal(found.sensor[valid], expected.sensor[: len(found)][valid])


def test_damaged_chunk_is_left_out(navigation, tmp_path):
    from mcap_files import rechunk

    file = rechunk(episode().write(tmp_path / "bag"), tmp_path / "whole.mcap")
    with open(file, "r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(bytes(64))
    report = convert(file, tmp_path / "dataset", navigation)
    assert any("1 damaged chunks left out" in note for note in report.notes)
    assert 20 < report.valid_steps < 45


def test_damage_to_the_chunks_that_declare_the_topics_loses_them_alone(navigation, tmp_path):
    from mcap_files import rechunk

    file = rechunk(episode().write(tmp_path / "bag"), tmp_path / "whole.mcap")
    with open(file, "r+b") as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
        for chunk in sorted(chunks, key=lambda chunk: chunk.chunk_start_offset)[:2]:  # the first holds one message
            stream.seek(chunk.chunk_start_offset + chunk.chunk_length // 2)
            stream.write(bytes(16))
    assert Bag(file, salvage=True).lost == ["whole.mcap: 2 damaged chunks left out"]
    report = convert(file, tmp_path / "dataset", navigation, instruction="go")  # START was in it
    assert "whole.mcap: 2 damaged chunks left out" in report.notes and 40 <= report.valid_steps < 50

    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * 0.9)])  # and no summary says what it declared
    with pytest.raises(BagError, match=r"2 damaged chunks left out; \d{3} messages lost whose topic was declared in"):
        Bag(file)


def spoil(bag, topic: str, first: int, end: int) -> None:
    """Cut the data of the messages [first, end) on ``topic`` of an SQLite bag in half."""
    with closing(sqlite3.connect(next(bag.glob("*.db3")))) as storage, storage:
        rows = storage.execute(
            "SELECT id, data FROM messages WHERE topic_id = (SELECT id FROM topics WHERE name = ?) ORDER BY timestamp",
            (topic,),
        ).fetchall()
        halves = [(data[: len(data) // 2], row) for row, data in rows[first:end]]
        storage.executemany("UPDATE messages SET data = ? WHERE id = ?", halves)


def test_messages_that_cannot_be_read_are_left_out_and_counted(navigation, tmp_path):
    bag = episode().write(tmp_path / "bag", StoragePlugin.SQLITE3)
    spoil(bag, "/camera/image_raw", 41, 42)  # one alone: the frame before it is not too old
    spoil(bag, "/odom", 5, 6)  # among those by which the clocks are compared
    spoil(bag, "/odom", 60, 70)
    spoil(bag, "/cmd_vel", 40, 43)
    report = convert(bag, tmp_path / "dataset", navigation)
    [trajectory] = Dataset.open(tmp_path / "dataset")
    assert len(trajectory) == 45 and report.faults == {"odometry: stale": 2, "no command": 2}
    assert np.flatnonzero(~trajectory.valid).tolist() == [33, 34, 41, 42]
    assert trajectory.success is False and trajectory.violation.max() == 1
    for topic, count in (("/camera/image_raw", "1 of 100"), ("/odom", "11 of 100"), ("/cmd_vel", "3 of 50")):
        assert any(f"{count} messages were left out: {topic}: cannot be read as" in note for note in report.notes)


def test_an_episode_with_an_event_that_cannot_be_read_is_not_judged(navigation, tmp_path):
    bag = episode().write(tmp_path / "bag", StoragePlugin.SQLITE3)
    spoil(bag, "/episode_event", 1, 2)  # VIOLATION_BEGIN
    report = convert(bag, tmp_path / "dataset", navigation)
    [trajectory] = Dataset.open(tmp_path / "dataset")
    assert (trajectory.violation == -1).all() and trajectory.success is None
    assert any("not judged, since one of its events cannot be read" in note for note in report.notes)


def test_commands_of_which_none_can_be_read(navigation, tmp_path):
    bag = episode().write(tmp_path / "bag", StoragePlugin.SQLITE3)
    spoil(bag, "/cmd_vel", 0, 50)
    with pytest.raises(ConversionError, match="no message on /cmd_vel can be read: /cmd_vel: cannot be read as geom"):
        convert(bag, tmp_path / "dataset", navigation)


@pytest.mark.parametrize("size", [0, 5, 30])
def test_hopeless_files(navigation, tmp_path, size):
    bag = episode().write(tmp_path / "bag")
    os.truncate(bag / "bag.mcap", size)
    with pytest.raises(BagError, match="empty"):
        convert(bag, tmp_path / "dataset", navigation)


def test_a_bag_without_the_camera_topic(navigation, tmp_path):
    drive = episode()
    drive.entries = [(r, "/front/image" if topic == "/camera/image_raw" else topic, m) for r, topic, m in drive.entries]
    drive.without("scan")
    with pytest.raises(ConversionError) as refusal:
        convert(drive.write(tmp_path / "bag"), tmp_path / "dataset", navigation)
    text = str(refusal.value)
    assert "/camera/image_raw (sensor_msgs/msg/Image) is not in the bag; of the same type: /front/image" in text
    assert "/scan (sensor_msgs/msg/LaserScan) is not in the bag" in text
    assert "/odom" in text and "100 messages" in text


def test_a_topic_of_another_type(navigation, tmp_path):
    drive = episode()
    drive.entries = [(r, topic, boolean(True) if topic == "/odom" else m) for r, topic, m in drive.entries]
    with pytest.raises(ConversionError, match="/odom is std_msgs/msg/Bool, the robot interface says nav_msgs/msg/Odom"):
        convert(drive.write(tmp_path / "bag"), tmp_path / "dataset", navigation)


def test_wrong_image_size_is_counted(run):
    drive = episode()
    drive.entries = [
        (r, topic, image(r - 0.002, picture(0)[:32]) if topic == "/camera/image_raw" else m)
        for r, topic, m in drive.entries
    ]
    report, dataset = run(drive)
    assert len(dataset) == 0 and report.trajectories == 0
    assert report.faults == {"overhead: wrong size": 45} and "64x32" in report.table()


def test_not_a_number_in_a_command(run):
    drive = episode()
    drive.without("cmd_vel", 2.0, 2.1)
    drive.add(drive.start + 2.03, "cmd_vel", twist(drive.start + 2.03, math.inf, 0.0))
    report, [trajectory] = run(drive)
    assert np.flatnonzero(~trajectory.valid).tolist() == [20] and report.faults == {"action.forward: non-finite": 1}


def test_commands_beyond_their_limits_are_told_of(run):
    drive = episode()  # turns by 0.5 rad/s
    drive.without("cmd_vel", 1.0, 2.0)
    for tick in range(10, 20):
        seconds = drive.start + tick / 10 + drive.command_phase
        drive.add(seconds, "cmd_vel", twist(seconds, 0.700001, -2.6))
    report, _ = run(drive)
    assert report.beyond_limits == {"turn": 10}
    assert "note: action turn: 10 of 45 steps (22 %) are beyond its limits (-2.5 to 2.5)" in report.table()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "no such file or folder"),
        (lambda path: path.mkdir() or path, "holds neither .mcap nor .db3 files"),
        (lambda path: (path.with_suffix(".bag").write_bytes(b"#ROSBAG V2.0"), path.with_suffix(".bag"))[1], "ROS 1"),
        (lambda path: (path.with_suffix(".txt").write_text("hi"), path.with_suffix(".txt"))[1], "not a bag"),
        (lambda path: (path.with_suffix(".db3").write_text("hi"), path.with_suffix(".db3"))[1], "thing.db3"),
        (lambda path: (path.with_suffix(".mcap").write_text("hi"), path.with_suffix(".mcap"))[1], "empty"),
        (lambda path: Drive(duration=0.0).write(path), "empty"),
    ],
)
def test_not_a_bag(tmp_path, make, says):
    with pytest.raises(BagError) as refusal:
        Bag(make(tmp_path / "thing"))
    assert says in str(refusal.value) and "thing" in str(refusal.value)


def test_what_lies_apart_in_one_bag_does_not_mix(run):
    first = episode(start=100.0, duration=4.6)
    first.entries += episode(start=200.0, duration=4.6).entries
    _, dataset = run(first)
    assert [len(trajectory) for trajectory in dataset] == [45, 45]


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("kind", ["whole", "without metadata", "of two files", "cut off"])
def test_a_bag_whose_clock_was_set_back_is_refused(navigation, tmp_path, storage, kind):
    """A simulation was restarted: by time, its messages lie among those of before."""
    if kind == "cut off" and storage is StoragePlugin.SQLITE3:
        pytest.skip("only MCAP files can be read without their end")
    first, second = (Drive(start=start, duration=4.0) for start in (100.0, 102.0))
    for drive in (first, second):
        drive.entries.sort(key=lambda entry: entry[0])
    if kind == "of two files":
        bag = first.write(tmp_path / "bag", storage)
        shutil.copy(next(second.write(tmp_path / "bag_1", storage).glob("bag_1.*")), bag)
    else:
        first.entries += second.entries
        bag = first.write(tmp_path / "bag", storage, as_listed=True)
    if kind != "whole":
        (bag / "metadata.yaml").unlink()
    if kind == "cut off":
        os.truncate(bag / "bag.mcap", (bag / "bag.mcap").stat().st_size - 99)
    with pytest.raises(
        ConversionError, match=r"/bag: /.*: its times fall by [12]\.\d s within the recording \(a simula"
    ):
        convert(bag, tmp_path / "dataset", navigation, instruction="go")


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_bag_that_was_written_topic_by_topic_is_none_whose_clock_was_set_back(navigation, tmp_path, storage):
    drive = episode()
    drive.entries.sort(key=lambda entry: (entry[1], entry[0]))
    bag = drive.write(tmp_path / "bag", storage, as_listed=True)
    assert Bag(bag).setback() is None and convert(bag, tmp_path / "dataset", navigation).steps == 45


def test_a_restarted_simulation_in_a_bag_of_wall_time_is_refused(robot, tmp_path):
    del robot["sensors"][2]
    drive = episode(start=5.0)
    drive.entries += [(received + 10.0, topic, m) for received, topic, m in episode(start=5.0).entries]
    bag = drive.write(tmp_path / "bag", bag_time_offset=1.7e9)
    with pytest.raises(ConversionError, match=r"/cmd_vel: its stamps fall by 4\.9 s within the recording: a sim"):
        convert(bag, tmp_path / "dataset", RobotInterface.from_dict(robot, "test"))
