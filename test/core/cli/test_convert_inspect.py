"""tc-mmwm convert and inspect, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from robot_bags import Drive, episode
from tiny_bundle import write_tiny_bundle
from trajectories import make_trajectory

from tc_mmwm_core.cli import main
from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.interface.robot import RobotInterface

SHIPPED_BAG = Path(__file__).parents[2] / "data" / "navigation_bag"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "dataset"
    assert main(["convert", str(SHIPPED_BAG), "--robot", "navigation.yaml", "--output", str(path), "--quiet"]) == 0
    return path


def test_labels_of_the_shipped_bag_are_what_the_oracle_says(dataset):
    """The live oracle judged each control step; judged again on the converted state, the labels are the same."""
    judge = load_domain("navigation").judge
    steps = differing = violating = 0
    for trajectory in Dataset.open(dataset):
        verdict = judge(trajectory.scene, np.asarray(trajectory.state), trajectory.instruction).margin > 0
        differing += int((verdict != trajectory.violation).sum())
        violating += int(verdict.sum())
        steps += len(trajectory)
    assert steps > 100 and violating > 20
    assert differing <= 0.03 * steps  # at most where a violation begins or ends between two ticks


def test_report_and_refusal(dataset, tmp_path, capsys):
    arguments = ["convert", str(SHIPPED_BAG), "--robot", "navigation.yaml", "--quiet", "--output"]
    assert main([*arguments, str(dataset)]) == 2
    assert "already holds its trajectories; --force" in capsys.readouterr().err
    report = tmp_path / "report.json"
    assert main([*arguments, str(tmp_path / "other"), "--report", str(report)]) == 0
    assert json.loads(report.read_text())[0]["trajectories"] == len(Dataset.open(dataset))
    assert "outcome" in capsys.readouterr().out


def test_of_several_bags_the_good_ones_are_converted_and_the_rest_is_named(tmp_path, capsys):
    bags = {name: episode(start=start).write(tmp_path / name) for name, start in (("a", 1e3), ("b", 2e3), ("c", 3e3))}
    os.truncate(bags["b"] / "b.mcap", 5)
    still = Drive(start=4e3)
    still.without("odom")
    bags["d"] = still.write(tmp_path / "d")
    output, report = tmp_path / "dataset", tmp_path / "report.json"
    command = ["convert", *map(str, bags.values()), "--robot", "navigation.yaml", "--quiet", "--output", str(output)]
    assert main([*command, "--report", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "4 inputs: 2 converted, 2 cannot be converted" in out
    assert f"{bags['b']}: the bag is empty" in err and "/odom (nav_msgs/msg/Odometry) is not in the bag" in err
    assert {info.provenance["bag"] for info in Dataset.open(output).trajectories} == {"a", "c"}
    found = {Path(entry["bag"]).name: entry for entry in json.loads(report.read_text())}
    assert [found[name]["trajectories"] for name in "abcd"] == [1, 0, 1, 0]
    assert found["a"]["error"] is None and "the bag is empty" in found["b"]["error"]

    shutil.rmtree(bags["b"])  # the recording is found whole elsewhere, and the same command given again
    episode(start=2e3).write(tmp_path / "b")
    assert main([*command[:4], *command[5:]]) == 0  # without d
    out, err = capsys.readouterr()
    assert "3 inputs: 2 already there, 1 converted" in out and f"left out: {bags['a']}: " in out and err == ""
    assert len(Dataset.open(output)) == 3


def test_a_dataset_that_nothing_came_into_takes_the_mended_interface(robot, tmp_path, capsys):
    bag, output, mine = episode().write(tmp_path / "bag"), tmp_path / "dataset", tmp_path / "mine.yaml"
    good = robot["sensors"][0]["fields"][0]["limits"]
    robot["sensors"][0]["fields"][0] |= {"limits": [90.0, 100.0], "unit": "cm"}
    mine.write_text(json.dumps(robot))
    command = ["convert", str(bag), "--robot", str(mine), "--quiet", "--output", str(output)]
    assert main(command) == 1
    assert "odometry.x: out of limits" in capsys.readouterr().out and len(Dataset.open(output)) == 0
    robot["sensors"][0]["fields"][0] |= {"limits": good, "unit": "m"}
    mine.write_text(json.dumps(robot))
    assert main(command) == 0
    assert len(Dataset.open(output)) == 1 and Dataset.open(output).interface == RobotInterface.load(mine)


def test_robot_is_asked_for(tmp_path, capsys):
    assert main(["convert", str(SHIPPED_BAG), "--output", str(tmp_path / "dataset")]) == 2
    assert "--robot is missing" in capsys.readouterr().err


def test_options_that_would_be_passed_over_are_refused(dataset, tmp_path, capsys):
    to = ["convert", str(dataset), "--to", "lerobot", "--output", str(tmp_path / "lerobot")]
    assert main([*to, "--instruction", "go", "--success", "yes"]) == 2
    assert "--instruction, --success cannot be used with --to lerobot" in capsys.readouterr().err
    assert main([*to, "--from", "lerobot"]) == 2
    assert "leave out --from lerobot" in capsys.readouterr().err and not (tmp_path / "lerobot").exists()
    assert main(["convert", str(tmp_path), "--from", "lerobot", "--namespace", "a", "--output", str(tmp_path)]) == 2
    assert "--namespace cannot be used with --from lerobot" in capsys.readouterr().err
    assert main([*to, "--longest", "9"]) == 2
    assert "--longest cannot be used with --to lerobot" in capsys.readouterr().err


def test_without_events_the_longest_trajectory_is_as_asked(tmp_path, capsys):
    drive = Drive()
    drive.instruct(0.0, "go")
    bag, output = drive.write(tmp_path / "bag"), tmp_path / "dataset"
    command = ["convert", str(bag), "--robot", "navigation.yaml", "--quiet", "--output", str(output), "--longest"]
    assert main([*command, "1.5"]) == 0
    assert [info.length for info in Dataset.open(output).trajectories] == [13, 13, 12, 12]
    assert main([*command, "0.1"]) == 2 and "a trajectory needs 2 steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "-1"])
    assert "argument --longest: -1 is not a number of seconds, 0 or above" in capsys.readouterr().err


def test_labels_are_as_late_as_told(tmp_path):
    bag, output = episode().write(tmp_path / "bag"), tmp_path / "dataset"
    command = ["convert", str(bag), "--robot", "navigation.yaml", "--quiet", "--output", str(output)]
    assert main([*command, "--reaction", "1.5"]) == 0
    [trajectory] = Dataset.open(output)
    assert np.bincount(trajectory.violation + 1).tolist() == [15, 20, 10]


def test_what_became_of_a_lerobot_dataset_is_reported(dataset, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    lerobot, again, report = tmp_path / "lerobot", tmp_path / "again", tmp_path / "report.json"
    assert main(["convert", str(dataset), "--to", "lerobot", "--output", str(lerobot)]) == 0
    command = ["convert", str(lerobot), "--from", "lerobot", "--robot", "navigation.yaml", "--output", str(again)]
    assert main([*command, "--source", "real", "--report", str(report)]) == 0
    [told] = json.loads(report.read_text())
    assert told["trajectories"] == len(Dataset.open(dataset)) and told["steps"] == Dataset.open(dataset).steps
    assert {info.source for info in Dataset.open(again).trajectories} == {"real"}
    assert f"{lerobot} (" in (out := capsys.readouterr().out) and "messages" not in out


def test_inspect_a_dataset(dataset, tmp_path, capsys):
    figure = tmp_path / "frames.png"
    assert main(["inspect", str(dataset), "--verify", "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    assert "dataset of the robot 'navigation' at 10 Hz" in out and "move slowly" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(dataset), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "dataset" and facts["steps"] == sum(row["steps"] for row in facts["trajectories"])


def test_inspect_says_how_long_trajectories_are_and_what_was_commanded(navigation, tmp_path, capsys):
    trajectories = [make_trajectory(navigation, seed, length) for seed, length in enumerate((4, 20, 6))]
    for trajectory in trajectories:
        trajectory.action[:] = [0.25, -1.0]
    trajectories[1].action[:3, 0], trajectories[1].valid[0] = 0.875, False
    DatasetWriter(tmp_path / "d", navigation).append(trajectories)
    assert main(["inspect", str(tmp_path / "d")]) == 0
    out = capsys.readouterr().out
    assert "  action      forward [m/s] 0.25 to 0.875, turn [rad/s] -1 to -1\n" in out
    assert "  lengths     4 to 20 steps, median 6\n" in out
    assert "  action forward: 2 of 29 steps (7 %) are beyond its limits (-0.3 to 0.7)\n" in out
    assert main(["inspect", str(tmp_path / "d"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["lengths"] == {"min": 4, "median": 6, "max": 20}
    assert facts["commanded"]["forward"] == {"span": [0.25, 0.875], "beyond_limits": 2}


def test_inspect_says_who_drove_and_where(navigation, dataset, tmp_path, capsys):
    def driven(seed, **made):
        return replace(make_trajectory(navigation, seed), provenance={"seed": seed, **made})

    by_planner = {"driver": "planner", "bundle": "mine@12ab"}
    blinded = [driven(seed, **by_planner, perturbation="occlusion") for seed in (7, 8)]
    episodes = [driven(5, driver="expert"), driven(6, **by_planner, perturbation=None), *blinded, driven(20)]
    DatasetWriter(tmp_path / "d", navigation).append(episodes)
    assert main(["inspect", str(tmp_path / "d")]) == 0
    told = "  driven by   planner mine@12ab 3 (occlusion 2), expert 1; layout seeds 5-8, 20\n"
    assert told in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "d"), "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert origin["drivers"]["planner mine@12ab"] == {"undisturbed": 1, "occlusion": 2}
    assert origin["layout_seeds"] == [[5, 8], [20, 20]] and origin["recordings"] == {}
    assert main(["inspect", str(dataset)]) == 0
    assert f"  recordings  navigation_bag {len(Dataset.open(dataset))}; layout seeds" in capsys.readouterr().out


def test_a_robot_without_cameras_has_no_figure(robot, tmp_path, capsys):
    robot["images"] = []
    interface = RobotInterface.from_dict(robot, "test")
    DatasetWriter(tmp_path / "d", interface).append([make_trajectory(interface, 0)])
    assert main(["inspect", str(tmp_path / "d")]) == 0
    assert main(["inspect", str(tmp_path / "d"), "--figure", str(tmp_path / "frames.png")]) == 2
    assert "'images' of the robot interface is empty; --figure needs a camera" in capsys.readouterr().err


def test_inspect_names_what_is_damaged(dataset, tmp_path, capsys):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    [file] = copy.glob("shards/*/image.overhead.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["inspect", str(copy), "--verify"]) == 1
    assert "checksum of image.overhead differs" in capsys.readouterr().out


def test_inspect_a_bag(capsys):
    assert main(["inspect", str(SHIPPED_BAG)]) == 0
    assert "/camera/image_raw" in capsys.readouterr().out


def test_inspect_a_bundle_says_what_its_threshold_promises(tmp_path, capsys):
    told = {"alpha": 0.02, "delta": 0.05, "n_trajectories": 90, "dataset": "ab12", "method": "betting"}
    write_tiny_bundle(tmp_path / "older", calibration=told)
    assert main(["inspect", str(tmp_path / "older")]) == 0
    promise = "of a trajectory's violating sequences, on average over trajectories, at most 2.0% are accepted, with "
    assert f"{promise}confidence 95% (betting, 90 trajectories)\n" in capsys.readouterr().out
    found = {"sequences": 700, "empirical_miss": 0.0123, "empirical_false_alarm": 0.05}
    goal = {"goal_threshold": -0.25, "goal_calibration": told | {"alpha": 0.005}}
    write_tiny_bundle(tmp_path / "bundle", calibration=told | found, **goal)
    assert main(["inspect", str(tmp_path / "bundle")]) == 0
    rests_on = "700 violating sequences, 1.23% of a trajectory's accepted there, 5.0% of complying ones rejected)"
    out = capsys.readouterr().out
    assert f"(betting, 90 trajectories, {rests_on}\n" in out
    assert "  goal        in view where the best place's progress is above -0.25: " in out
    assert "at most 0.5% begin where it is not seen, with confidence 95% (betting, 90 trajectories)\n" in out
    write_tiny_bundle(tmp_path / "by_hand")
    assert main(["inspect", str(tmp_path / "by_hand")]) == 0
    out = capsys.readouterr().out
    assert "set by hand, promises nothing" in out and "  goal        not told whether it is in view\n" in out
    assert "  planner     parameters: built-in defaults" in out


def test_inspect_something_else(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path):
        assert main(["inspect", str(path)]) == 2
        told = capsys.readouterr().err
        assert "not a bag" in told and "nor is it a dataset (dataset.json), bundle (bundle.json), run (last.pt)" in told
