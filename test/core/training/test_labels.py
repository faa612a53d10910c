"""Labels are the oracle's, and what nobody knows is masked."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.navigation import instructions, oracle
from tc_mmwm_core.domains.navigation.oracle import NOSE
from tc_mmwm_core.domains.navigation.scene import VIEW, Scene
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.vocabulary import TextTokens
from tc_mmwm_core.training.labels import label

COUNT = 3


@pytest.fixture(scope="module")
def labels(dataset, domain):
    return label(dataset, domain, COUNT, TextTokens(48), seed=0, progress=False)


def test_the_first_instruction_is_the_recorded_one_and_its_violations_are_those_of_the_live_oracle(dataset, labels):
    for index, trajectory in enumerate(dataset):
        assert labels.texts[index][0] == trajectory.instruction
        np.testing.assert_array_equal(labels.violation[index][0], trajectory.violation)
        assert labels.expert[index].tolist() == [bool(trajectory.success), False, False]


def test_every_instruction_is_judged_by_the_oracle_on_the_recorded_motion(dataset, labels):
    broken = 0
    for index, trajectory in enumerate(dataset):
        scene = Scene.from_dict(trajectory.scene)
        for which, text in enumerate(labels.texts[index]):
            meaning = instructions.parse(text)
            margin = oracle.margin(trajectory.state, scene, meaning)
            np.testing.assert_allclose(labels.margin[index][which], margin, atol=1e-6)
            np.testing.assert_array_equal(labels.violation[index][which], margin > 0)
            cost = oracle.cost_to_go(trajectory.state, oracle.cost_field(scene, meaning))
            np.testing.assert_allclose(labels.cost[index][which], cost, rtol=1e-5, atol=1e-5)
            broken += int((margin > 0).any())
    assert 0 < broken < len(dataset) * COUNT  # the same motions, allowed and forbidden


def test_the_goal_is_pointed_at_where_it_is_in_the_image(dataset, labels):
    for index, trajectory in enumerate(dataset):
        scene = Scene.from_dict(trajectory.scene)
        for which, text in enumerate(labels.texts[index]):
            pad = scene.pad(instructions.parse(text).goal)
            row = labels.referents[index, which, 0]
            np.testing.assert_allclose(row[:2], oracle.in_image(np.array([pad.x, pad.y])), atol=1e-6)
            assert row[3] == 1


def test_the_field_says_what_the_oracle_says_of_standing_there(dataset, labels):
    trajectory, text = dataset[0], labels.texts[0][1]
    scene, meaning = Scene.from_dict(trajectory.scene), instructions.parse(text)
    cells = labels.field.shape[-1]
    row, column = 3, cells - 2
    place = np.array([(column + 0.5) * 2 / cells - 1, 1 - (row + 0.5) * 2 / cells])
    state = np.zeros((1, 5))
    state[0, :2] = place / oracle.in_image(np.ones(2))
    margin = oracle.margin(state, scene, meaning)[0]
    assert labels.field[0, 1, 1, row, column] == pytest.approx(margin, abs=2e-3)  # float16
    np.testing.assert_allclose(labels.place[0], oracle.in_image(trajectory.state[:, :2]), atol=1e-6)


def test_a_real_recording_has_its_own_instruction_and_nothing_that_nobody_knows(real, domain):
    labels = label(real, domain, COUNT, TextTokens(48), seed=0, progress=False)
    for index, trajectory in enumerate(real):
        assert labels.texts[index] == [trajectory.instruction] * COUNT
        assert np.isnan(labels.margin[index]).all() and np.isnan(labels.cost[index]).all()
        assert np.isnan(labels.place[index]).all() and np.isnan(labels.field[index]).all()
        np.testing.assert_array_equal(labels.violation[index], [trajectory.violation] * COUNT)
        assert labels.expert[index].tolist() == [bool(trajectory.success)] * COUNT
    assert not labels.referents.any()


def test_a_recording_whose_instruction_cannot_be_judged_keeps_its_labels_and_is_named(
    dataset, domain, labels, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("tc_mmwm_core.training.labels.SHARE", 1)  # in processes of their own, too
    first, second, third = (dataset[index] for index in range(3))
    present = {pad["colour"] for pad in second.scene["pads"]}
    absent = next(colour for colour in COLOURS if colour not in present)
    texts = [f"{first.instruction}, stay on the carpet", f"go to the {absent} pad", third.instruction]
    recorded = [
        dataclasses.replace(one, instruction=text) for one, text in zip((first, second, third), texts, strict=True)
    ]
    DatasetWriter(tmp_path, dataset.interface).append(recorded)
    for workers in (1, 2):
        found = label(Dataset.open(tmp_path), domain, COUNT, TextTokens(48), seed=0, progress=False, workers=workers)
        said = capsys.readouterr().out
        assert f"{tmp_path}: 2 of 3 recorded instructions are not judged" in said
        assert "'stay on the carpet' not understood" in said and f"no {absent} pad in this scene" in said
        for index in range(2):
            assert np.isnan(found.margin[index][0]).all() and np.isnan(found.advice[index][0]).all()
            np.testing.assert_array_equal(found.violation[index][0], recorded[index].violation)
            assert np.isfinite(found.margin[index][1:]).all() and np.isfinite(found.place[index]).all()
        np.testing.assert_array_equal(found.margin[2], labels.margin[2])


def test_an_instruction_that_the_domain_draws_and_cannot_judge_is_a_bug(dataset, domain, monkeypatch):
    monkeypatch.setattr(type(domain), "draw_instruction", lambda *_: "dance")
    with pytest.raises(DomainError, match="no goal"):
        label(dataset, domain, COUNT, TextTokens(48), seed=0, progress=False)


def test_the_first_bodies_are_located_and_more_than_the_oracle_knows_are_refused(dataset, domain):
    one, two = (label(dataset, domain, 1, TextTokens(48), seed=0, progress=False, bodies=n) for n in (1, 2))
    for first, both in zip(one.place, two.place, strict=True):
        np.testing.assert_array_equal(first, both[:, :2])
        np.testing.assert_allclose(np.hypot(*(both[:, 2:] - first).T), NOSE / VIEW, rtol=1e-5)
    with pytest.raises(DomainError, match=r"model\.bodies is 3; the oracle of domain 'navigation' locates 2"):
        label(dataset, domain, COUNT, TextTokens(48), seed=0, progress=False, bodies=3)


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        ("judge", lambda judgement: dataclasses.replace(judgement, margin=judgement.margin > 0), "judge.*margin bool"),
        ("judge", lambda judgement: dataclasses.replace(judgement, cost=judgement.cost * np.nan), "judge.*cost nan at"),
        ("judge", lambda judgement: None, r"judge.* returned None \(NoneType\), a Judgement is needed"),
        (
            "advise",
            lambda advice: advice[0],
            r"advise\(\) of '.*' on \d+ states returned float\d+ \[2\], float32 \[\d+, 2",
        ),
        (
            "self_filter",
            lambda _: np.ones((64, 64), np.uint8),
            r"self_filter\(\) of \d+ images returned uint8 \[64, 64\]",
        ),
    ],
)
def test_what_the_protocol_has_not_is_refused_and_not_learned(dataset, domain, monkeypatch, member, value, says):
    asked = getattr(type(domain), member)
    monkeypatch.setattr(type(domain), member, lambda *given: value(asked(*given)))
    with pytest.raises(DomainError, match=f"domain 'navigation': {says}"):
        label(dataset, domain, 1, TextTokens(48), seed=0, progress=False)


def test_fields_of_two_sizes_are_refused(dataset, domain, monkeypatch):
    asked, sides = type(domain).judge, iter(range(20, 40))

    def judge(*given):
        field = np.zeros([next(sides)] * 2, np.float32)
        return dataclasses.replace(asked(*given), field_cost=field, field_margin=field)

    monkeypatch.setattr(type(domain), "judge", judge)
    with pytest.raises(DomainError, match=r"judge\(\) returned fields of both 21 and 20 places a side"):
        label(dataset, domain, 2, TextTokens(48), seed=0, progress=False)


def test_recorded_violations_that_are_not_the_oracles_are_counted(dataset, domain, tmp_path, capsys):
    label(dataset, domain, 1, TextTokens(48), seed=0, progress=False)
    assert "warning" not in capsys.readouterr().out
    other = [dataclasses.replace(one, violation=1 - one.violation) for one in (dataset[index] for index in range(2))]
    other[0].violation[:] = -1  # nobody judged: nothing to compare
    other[1].valid = np.arange(len(other[1])) > 3
    DatasetWriter(tmp_path, dataset.interface).append(other)
    label(Dataset.open(tmp_path), domain, 1, TextTokens(48), seed=0, progress=False)
    steps = len(other[1]) - 4
    said = capsys.readouterr().out
    assert f"{tmp_path}: warning: in {steps} of {steps} judged steps (100.0%) the recorded violation is another" in said


def test_without_a_domain_nothing_is_judged(dataset):
    labels = label(dataset, None, 1, TextTokens(48), seed=0, progress=False)
    assert all(np.isnan(margin).all() for margin in labels.margin)


def test_a_robot_without_cameras_is_refused(robot, tmp_path):
    robot["images"] = []
    interface = RobotInterface.from_dict(robot, "test")
    DatasetWriter(tmp_path, interface).append([make_trajectory(interface, 0)])
    with pytest.raises(ConfigError, match="'navigation': 'images' is empty; the model needs a camera"):
        label(Dataset.open(tmp_path), None, 1, TextTokens(48), seed=0, progress=False)


def test_the_seed_draws_the_instructions(dataset, domain, labels):
    again = label(dataset, domain, COUNT, TextTokens(48), seed=0, progress=False)
    assert again.texts == labels.texts
    np.testing.assert_array_equal(again.tokens, labels.tokens)
    assert label(dataset, domain, COUNT, TextTokens(48), seed=1, progress=False).texts != labels.texts


def test_several_processes_judge_the_same(dataset, domain, labels, monkeypatch):
    monkeypatch.setattr("tc_mmwm_core.training.labels.SHARE", 1)
    shared = label(dataset, domain, COUNT, TextTokens(48), seed=0, progress=False, workers=2)
    assert shared.texts == labels.texts
    for field in dataclasses.fields(labels):
        for one, other in zip(getattr(shared, field.name), getattr(labels, field.name), strict=True):
            np.testing.assert_array_equal(one, other)


SLOW = """
import sys, time
from pathlib import Path
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.models.vocabulary import TextTokens
from tc_mmwm_core.training import labels

class Slow(type(load_domain("navigation"))):
    def judge(self, *_):
        Path(sys.argv[2]).touch()
        time.sleep(600)

if __name__ == "__main__":
    labels.SHARE = 1
    labels.label(Dataset.open(sys.argv[1]), Slow(), 1, TextTokens(48), seed=0, workers=2)
"""


def test_processes_that_judge_end_with_the_one_that_started_them(collected, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    begun = tmp_path / "begun"
    command = [sys.executable, str(tmp_path / "slow.py"), str(collected), str(begun)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=30)  # the pipe closes when the last of the processes has ended
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert begun.exists()


def test_a_simulators_robot_is_looked_for_in_what_it_drew_and_in_no_real_recording(dataset, real, domain, monkeypatch):
    monkeypatch.setattr(type(domain), "self_filter", lambda _, image: np.ones(image.shape[:3], bool))
    drawn, recorded = (label(each, domain, 1, TextTokens(48), seed=0, progress=False) for each in (dataset, real))
    assert all((visible == 0).all() for visible in drawn.visible)
    assert all(np.isnan(visible).all() for visible in recorded.visible)
