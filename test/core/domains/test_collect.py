"""Collected episodes are taken up again only for what they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_domain
import toy_world
from toy_world import BAD_SEED
from trajectories import make_trajectory

from tc_mmwm_core.cli import build_parser, main
from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
from tc_mmwm_core.domains import collect as collecting
from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.collect import OnPolicy, collect, run_episode
from tc_mmwm_core.domains.controllers import planner_controller
from tc_mmwm_core.domains.perturbations import OCCLUDER
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.resources import resource, robot_file
from tc_mmwm_core.runtime.bundle import Bundle, BundleError
from tc_mmwm_core.runtime.planner import Planner, PlannerConfig
from tc_mmwm_core.runtime.screener import Screener

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


def test_by_default_training_has_layouts_of_its_own_and_so_has_what_a_bundle_drives(tmp_path):
    """docs/architecture.md: the simulated robot has those from 0 on, the demo from 500,000, evaluate from 900,000."""
    command = ["collect", "--episodes", "2", "--steps", "3", "--workers", "1", "--output"]
    assert main([*command, str(tmp_path / "first")]) == 0
    assert seeds(tmp_path / "first") == [100_000, 100_001]
    assert main([*command, str(tmp_path / "second"), "--bundle", str(BUNDLE)]) == 0
    assert seeds(tmp_path / "second") == [200_000, 200_001]
    assert main([*command, str(tmp_path / "third"), "--seed", "0"]) == 0
    assert seeds(tmp_path / "third") == [0, 1]


def test_a_bundle_brings_its_robot_and_a_domain_of_somebody_else_needs_one(tmp_path, capsys):
    bundle = shutil.copytree(BUNDLE, tmp_path / "mine")
    command = ["collect", "--domain", "toy_world:foreign", "--episodes", "1", "--steps", "3", "--workers", "1"]
    assert main([*command, "--output", str(tmp_path / "none")]) == 2
    assert "--robot is missing" in (told := capsys.readouterr().err) and "toy.yaml" in told
    assert main([*command, "--output", str(tmp_path / "d"), "--bundle", str(bundle)]) == 0
    assert "planner: its own defaults" in capsys.readouterr().out
    assert Dataset.open(tmp_path / "d").interface.name == "navigation"
    assert main([*command, "--output", str(tmp_path / "e"), "--bundle", str(tmp_path)]) == 2
    assert f"{tmp_path}" in (told := capsys.readouterr().err) and "bundle.json" in told


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--seed", "-1"), ("--episodes", "0")])
def test_numbers_that_make_no_sense_are_refused_at_once(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["collect", "--output", str(tmp_path / "d"), option, value])
    assert f"{option}: {value} is not a whole number" in capsys.readouterr().err


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


def seeds(path: Path) -> list[int]:
    return sorted(info.provenance["seed"] for info in Dataset.open(path).trajectories)


BUNDLE = resource("bundles", "navigation")
DISTURBED = OnPolicy(BUNDLE, PlannerConfig(), ("occlusion", "action_noise"))


@pytest.fixture(scope="module")
def on_policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("on_policy") / "data"
    assert collect("navigation", ROBOT, path, 6, 10, 5, workers=1, progress=False, on_policy=DISTURBED) == 6
    return path


def test_a_bundle_drives_and_what_it_was_disturbed_by_is_told_but_not_seen(on_policy):
    """The occluder's grey is nowhere in what is recorded, and noisy actions are recorded as they were done."""
    dataset = Dataset.open(on_policy)
    by_seed = {info.provenance["seed"]: dataset[index] for index, info in enumerate(dataset.trajectories)}
    assert {(p := t.provenance)["driver"] for t in by_seed.values()} == {"planner"}
    assert p["bundle"] == Bundle.load(BUNDLE).identity and p["perturbations"] == ["occlusion", "action_noise"]
    kinds = {seed: trajectory.provenance["perturbation"] for seed, trajectory in by_seed.items()}
    assert set(kinds.values()) == {None, "occlusion", "action_noise"}

    planner = Planner(Screener(Bundle.load(BUNDLE)), RobotInterface.load(ROBOT))
    for seed, trajectory in by_seed.items():
        assert not any((image == OCCLUDER).all(-1).mean() > 0.1 for image in trajectory.images.values())
        control, differs = planner_controller(planner), None
        for step in range(len(trajectory) - 1):
            seen = {f"image.{name}": image[step] for name, image in trajectory.images.items()}
            seen["sensor"] = trajectory.sensor[step]
            told = {"instruction": trajectory.instruction}
            differs = differs or not np.array_equal(control(seen, told)[0], trajectory.action[step])
        # Undisturbed, it does again what it did; else it saw less, or something was added to what it did.
        assert differs == (kinds[seed] is not None)


def test_episodes_of_one_driver_are_not_taken_for_those_of_another(folder, on_policy):
    settings = {"workers": 1, "progress": False}
    with pytest.raises(DatasetError, match=r"collected with driver \w+, asked for is planner; with bundle none, asked"):
        collect("navigation", ROBOT, folder, 2, 12, 5, **settings, on_policy=OnPolicy(BUNDLE, PlannerConfig()))
    with pytest.raises(DatasetError, match=r"collected with bundle navigation@\w+, asked for is none; with pert"):
        collect("navigation", ROBOT, on_policy, 6, 10, 5, **settings)
    with pytest.raises(DatasetError, match=r"with perturbations \['occlusion', 'action_noise'\], asked for is \[\]"):
        collect("navigation", ROBOT, on_policy, 6, 10, 5, **settings, on_policy=OnPolicy(BUNDLE, PlannerConfig()))
    careful = replace(DISTURBED, planner=PlannerConfig(caution=0.7))
    with pytest.raises(DatasetError, match=r"episode \d+ was collected with planner\.caution 0\.2, asked for is 0\.7"):
        collect("navigation", ROBOT, on_policy, 6, 10, 5, **settings, on_policy=careful)
    assert collect("navigation", ROBOT, on_policy, 6, 10, 5, **settings, on_policy=DISTURBED) == 0


def test_one_of_the_drivers_may_be_asked_for(tmp_path, capsys):
    command = ["collect", "--episodes", "2", "--steps", "3", "--workers", "1", "--output", str(tmp_path / "d")]
    assert main([*command, "--driver", "chauffeur"]) == 2
    assert "driver 'chauffeur': known are expert" in capsys.readouterr().err and not (tmp_path / "d").exists()
    assert main([*command, "--driver", "heedless"]) == 0  # of which none is drawn
    made = [info.provenance for info in Dataset.open(tmp_path / "d").trajectories]
    assert [(each["driver"], each["drivers"]) for each in made] == [("heedless", "heedless")] * 2
    assert "collect: 100%" in capsys.readouterr().err
    assert main([*command, "--driver", "heedless", "--episodes", "3", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main(command) == 2
    assert "was collected with drivers heedless, asked for is drawn" in capsys.readouterr().err
    assert main([*command, "--driver", "heedless", "--bundle", str(BUNDLE)]) == 2
    assert "--driver is of the domain's scripted drivers" in capsys.readouterr().err


def test_episodes_that_do_not_say_how_the_planner_was_set_are_taken_as_they_are(navigation, tmp_path):
    """As those collected before it was kept."""
    who = {"driver": "planner", "bundle": Bundle.load(BUNDLE).identity, "perturbations": []}
    recorded(navigation, tmp_path / "d", domain="navigation", seed=7, steps=12, **who)
    careful = OnPolicy(BUNDLE, PlannerConfig(caution=0.7))
    settings = {"workers": 1, "progress": False, "on_policy": careful}
    assert collect("navigation", ROBOT, tmp_path / "d", 1, 12, 7, **settings) == 0


def test_what_an_environment_fills_anew_at_every_step_is_kept_as_it_was():
    kept, expected = (
        run_episode(world, world.environment(), 1, 5) for world in (toy_world.reusing(), toy_world.make())
    )
    for name, array in expected.arrays().items():
        if name != "violation":
            np.testing.assert_array_equal(kept.arrays()[name], array, err_msg=name)
    assert kept.violation.tolist() == [0, 0, 1, 0, 0, 0] and kept.scene == {"step": 0}


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        (0, "sensor", np.float32([0, np.nan]), "'sensor' is nan at place.y, a finite number is needed"),
        (
            0,
            "image.camera",
            np.zeros((8, 16, 3), np.uint8),
            r"'image.camera' is uint8 \[8, 16, 3\], the interface needs",
        ),
        (1, "violation", 0.5, r"info\['violation'\] is 0.5 \(float\), a bool is needed"),
        (1, "success", None, r"info\['success'\] is None \(NoneType\), a bool is needed"),
        (1, "scene", {"square": [9.0, 9.0]}, r"info\['scene'\] has changed at 'square'; what moves belongs into"),
        (1, "instruction", "turn back", r"info\['instruction'\] is now 'turn back', at the reset it was 'drive to the"),
    ],
)
def test_what_does_not_fit_is_refused_with_domain_seed_step_and_field(monkeypatch, part, key, value, says):
    observe = tiny_domain.DotEnv.observe

    def bent(self):
        returned = observe(self)
        returned[part].update({key: value} if self.steps == 2 else {})
        return returned

    monkeypatch.setattr(tiny_domain.DotEnv, "observe", bent)
    domain, interface = tiny_domain.make(), RobotInterface.from_dict(tiny_domain.ROBOT, "test")
    with pytest.raises(DomainError, match=f"^domain 'dot', episode 7, step 2: {says}"):
        run_episode(domain, domain.environment(), 7, 12, interface=interface)


def test_a_success_despite_a_violation_is_refused(monkeypatch):
    observe = tiny_domain.DotEnv.observe
    monkeypatch.setattr(tiny_domain, "LIMIT", 0.1)
    monkeypatch.setattr(tiny_domain.DotEnv, "observe", lambda self: _as_reached(*observe(self)))
    domain, interface = tiny_domain.make(), RobotInterface.from_dict(tiny_domain.ROBOT, "test")
    with pytest.raises(
        DomainError, match=r"step \d+: info\['success'\] is True, though .* broken at step 1: success is"
    ):
        for seed in range(20):
            run_episode(domain, domain.environment(), seed, 12, interface=interface)


def _as_reached(observation, info):
    return observation, info | {"success": info["reached"]}


def test_an_action_space_that_is_not_the_robots_is_refused(tmp_path):
    with pytest.raises(
        DomainError, match=r"'toy': the action space has the limits \[-1, 1\], \[-1, 1\], a Box of \[2\] is"
    ):
        collect("toy_world:narrow", ROBOT, tmp_path / "d", 1, 5, seed=0, workers=1, progress=False)


def test_a_bundle_of_another_robot_does_not_drive(tmp_path):
    other = OnPolicy(resource("bundles", "manipulation"), PlannerConfig())
    with pytest.raises(BundleError, match="trained for another robot interface"):
        collect("navigation", ROBOT, tmp_path / "d", 1, 5, 5, workers=1, progress=False, on_policy=other)
    assert not (tmp_path / "d").exists()


def test_the_command_disturbs_a_bundle_alone(tmp_path, capsys):
    command = ["collect", "--output", str(tmp_path / "d"), "--episodes", "2", "--steps", "5", "--workers", "1"]
    assert main([*command, "--disturb", "occlusion"]) == 2
    assert "give --bundle" in capsys.readouterr().err and not (tmp_path / "d").exists()
    assert main([*command, "--bundle", str(BUNDLE), "--disturb", "occlusion"]) == 0
    assert "2 episodes collected" in capsys.readouterr().out


def test_any_number_of_workers_collects_the_same_in_parts_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "SHARDS", 6)
    for workers in (1, 2):
        collect("toy_world:make", ROBOT, tmp_path / str(workers), 16, 5, seed=0, workers=workers, progress=False)
    one, two = (Dataset.open(tmp_path / str(workers)) for workers in (1, 2))
    assert len(one) == 16 and one.digest == two.digest
    assert [len(list(folder.glob("shards/*"))) for folder in one.paths + two.paths] == [6, 6]


def test_progress_is_told_by_the_episode(tmp_path, monkeypatch):
    told = []

    class Bar(collecting.tqdm):
        def update(self, n=1):
            told.append(n)
            return super().update(n)

    monkeypatch.setattr(collecting, "tqdm", Bar)
    monkeypatch.setattr(collecting, "SHARDS", 1)
    collect("toy_world:slow", ROBOT, tmp_path / "d", 8, 20, seed=0, workers=1)
    assert sum(told) == 8 and len([n for n in told if n]) >= 4 and len(list(tmp_path.glob("d/shards/*"))) == 1


@pytest.mark.parametrize(
    ("world", "says"),
    [
        ("failing", "the gripper is stuck"),
        (
            "misfitting",
            rf"domain 'toy', episode {BAD_SEED}, step 0: 'sensor' is float32 \[32\], .* needs float32 \[31\]",
        ),
    ],
)
def test_an_error_is_told_at_once_and_keeps_what_was_collected(tmp_path, monkeypatch, world, says):
    """The queue of 1000 shards would take a minute."""
    monkeypatch.setattr(collecting, "EPISODES_A_SHARD", 2)
    start = time.monotonic()
    with pytest.raises((RuntimeError, DomainError), match=says):
        collect(f"toy_world:{world}", ROBOT, tmp_path / "d", 2000, 5, seed=0, workers=2, progress=False)
    assert time.monotonic() - start < 30
    kept = seeds(tmp_path / "d")
    assert BAD_SEED - 1 in kept and BAD_SEED not in kept and len(kept) < 200  # how far the other worker came is open
    collect("toy_world:make", ROBOT, tmp_path / "d", 6, 5, seed=0, workers=1, progress=False)
    assert {*range(6)} <= set(seeds(tmp_path / "d"))


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_collection_that_is_interrupted_or_killed_continues(tmp_path, how, code):
    """Ctrl-C reaches the whole group of processes, a kill the first alone: then the others end by themselves."""
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from tc_mmwm_core.cli import main\n"
        "from tc_mmwm_core.domains import collect\n"
        "if __name__ == '__main__':\n"
        "    collect.EPISODES_A_SHARD = 5\n"
        "    sys.exit(main(['collect', '--domain', 'toy_world:slow', *sys.argv[2:]]))\n"
    )
    (tmp_path / "script.py").write_text(script)
    folder = tmp_path / "d"
    settings = ["--robot", str(ROBOT), "--output", str(folder), "--workers", "2", "--steps", "5", "--seed", "0"]
    command = [sys.executable, str(tmp_path / "script.py"), str(Path(__file__).parents[1]), *settings]
    process = subprocess.Popen([*command, "--episodes", "1000"], start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(folder.glob("shards/[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    _, errors = process.communicate(timeout=20)  # the pipe closes when the last of the processes has ended
    assert process.returncode == code and b"Traceback" not in errors
    kept = seeds(folder)
    assert 5 <= len(kept) < 500 and len(kept) == len(set(kept))
    assert subprocess.run([*command, "--episodes", "30"], capture_output=True).returncode == 0
    assert not list(folder.glob("shards/.writing-*"))
    assert set(seeds(folder)) >= set(range(30)) and len(seeds(folder)) == len(set(seeds(folder)))
