"""Collected episodes are taken up again only for what they are."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from trajectories import make_trajectory

from tc_mmwm_core.cli import build_parser, main
from tc_mmwm_core.data.collect import collect
from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
from tc_mmwm_core.resources import robot_file

ROBOT = robot_file("navigation.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("collect") / "data"
    assert collect("navigation", ROBOT, path, 2, 12, seed=5, workers=1, progress=False) == 2
    return path


def test_episodes_say_what_they_were_collected_with_and_are_taken_up_again(folder):
    made = [info.provenance for info in Dataset.open(folder).trajectories]
    assert [(each["domain"], each["steps"]) for each in made] == [("navigation", 12)] * 2
    assert {each["seed"] for each in made} == {5, 6}
    assert collect("navigation", ROBOT, folder, 2, 12, seed=5, workers=1, progress=False) == 0


def test_by_default_training_has_layouts_of_its_own():
    """docs/architecture.md: the simulated robot has those from 0 on, the demo from 500,000, evaluate from 900,000."""
    assert build_parser().parse_args(["collect", "--output", "data"]).seed == 100_000


def test_a_dataset_of_other_settings_is_refused_with_both_and_the_folder(folder, capsys):
    with pytest.raises(
        DatasetError, match=rf"{folder}: episode 5 was collected with steps 12, asked for is 20; choose"
    ):
        collect("navigation", ROBOT, folder, 3, 20, seed=4, workers=1, progress=False)
    assert len(Dataset.open(folder)) == 2
    command = ["collect", "--episodes", "2", "--seed", "5", "--steps", "20", "--output", str(folder)]
    assert main([*command, "--workers", "1"]) == 2
    assert "episode 5 was collected with steps 12, asked for is 20" in capsys.readouterr().err


def recorded(interface, path, **provenance):
    episode = replace(make_trajectory(interface, 7), provenance=provenance)
    DatasetWriter(path, interface).append([episode])


def test_another_domain_is_refused(navigation, tmp_path):
    recorded(navigation, tmp_path / "d", domain="warehouse", seed=7, steps=12)
    with pytest.raises(DatasetError, match="collected with domain warehouse, asked for is navigation"):
        collect("navigation", ROBOT, tmp_path / "d", 1, 12, seed=7, workers=1, progress=False)


def test_episodes_that_do_not_say_how_long_they_may_be_are_taken_as_they_are(navigation, tmp_path):
    """As those collected before it was kept, and a robot's own recordings, which have no seed."""
    recorded(navigation, tmp_path / "d", domain="navigation", seed=7)
    recorded(navigation, tmp_path / "d", bag="monday")
    assert collect("navigation", ROBOT, tmp_path / "d", 1, 12, seed=7, workers=1, progress=False) == 0
    content = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert content["interface"] == navigation.to_dict()
