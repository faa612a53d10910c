"""The demo's command line, its choice of layouts, and the closed loop that it rests on, with the tiny model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tc_mmwm_core.domains.navigation.scene import draw_scene
from tc_mmwm_ros.loop import LoopError, find_layouts, rate

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_bundle.py, whatever pytest's import mode
import tiny_bundle

# Both are in the grammar of the oracle and in the vocabulary that the tiny model is given here. It drives straight on,
# at half speed where it is told "slow": what is tested is the loop, not the driving.
FIRST, SECOND = "drive to the green pad, go slow", "go to the yellow pad"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    words = dict.fromkeys([*tiny_bundle.WORDS, *FIRST.replace(",", " ,").split(), *SECOND.split()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_bundle, "WORDS", list(words))
        patch.setattr(tiny_bundle, "TOKENS", 32)
        return tiny_bundle.write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path


def demo(*arguments, **options):
    return [sys.executable, "-m", "tc_mmwm_ros.demo", *map(str, arguments)], {"text": True, **options}


def run(*arguments):
    command, options = demo(*arguments)
    return subprocess.run(command, capture_output=True, timeout=110, **options)


def children(log):
    """Processes whose log lies in ``log``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                target = os.readlink(process / "fd" / "1")
            except OSError:
                continue
            if target.startswith(str(log)):
                found.append(int(process.name))
    return found


def test_help_shows_examples():
    ended = run("--help")
    assert ended.returncode == 0
    assert "--second-instruction" in ended.stdout and "examples:" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--instruction", "make me a coffee"], "no goal found"),
        (["--bundle", "/nowhere"], "--bundle /nowhere: there is no bundle.json in it"),
        (["--episodes", "0"], "--episodes 0: at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(bundle, arguments, complaint):
    ended = run("--bundle", bundle, *arguments)
    assert ended.returncode == 2
    assert complaint in ended.stderr and "Traceback" not in ended.stderr


def test_layouts_have_what_is_named_and_the_rule_costs_a_detour():
    texts = ["drive to the green pad, never enter the blue zone", "go to the yellow pad, stay out of the red zone"]
    for seed in find_layouts(3, 0, texts):
        scene = draw_scene(seed)
        assert scene.pad("green") and scene.pad("yellow") and scene.zone("blue") and scene.zone("red")


def test_layouts_that_cannot_be_are_given_up_in_words(monkeypatch):
    monkeypatch.setattr("tc_mmwm_ros.loop.SEEDS_TO_TRY", 5)
    with pytest.raises(LoopError, match="of 5 layouts from seed 0 on have what is named"):
        find_layouts(5, 0, ["drive to the green pad, never enter the blue zone"])


def test_the_rate_is_that_between_decisions_and_a_gap_lowers_it():
    assert rate([7.0, 7.1, 7.2, 7.3]) == pytest.approx(10)
    assert rate([7.0, 7.1, 7.3]) == pytest.approx(2 / 0.3)
    assert rate([7.0]) == rate([]) == 0


def test_drives_records_and_leaves_everything_in_its_folder(bundle, tmp_path):
    output = tmp_path / "out"
    told = ["--instruction", FIRST, "--second-instruction", SECOND]
    ended = run("--bundle", bundle, "--episodes", 1, "--max-steps", 40, "--no-finetune", "--output", output, *told)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert FIRST in ended.stdout and SECOND in ended.stdout and str(output) in ended.stdout
    episodes = json.loads((output / "episodes.json").read_text())
    first, second = episodes["first"][0], episodes["second"][0]
    assert first["seed"] == second["seed"] and first["scene"] == second["scene"]
    for record, text in ((first, FIRST), (second, SECOND)):
        assert record["instruction"] == text and 0 < record["steps"] <= 40
        assert (
            record["decisions"] > 0
            and 0 < record["decisions_per_second"] < 10.5
            and record["candidates"] == 256
            and len(record["path"]) > 20
        )
    assert first["rejected"] > second["rejected"]  # "slow" forbids what is allowed without it
    assert (output / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "bag" / "metadata.yaml").exists() and list((output / "bag").glob("*.mcap"))
    assert not children(output)


def test_a_planner_that_refuses_its_bundle_is_told_with_its_log(bundle, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bundle.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "screen.onnx").write_bytes(b"not a graph")
    ended = run("--bundle", broken, "--no-finetune", "--output", tmp_path / "out", "--instruction", FIRST)
    assert ended.returncode == 1
    assert "planner refuses to configure" in ended.stderr and "screen.onnx" in ended.stderr
    assert not children(tmp_path / "out")


def test_ctrl_c_stops_everything_that_was_started(bundle, tmp_path):
    command, options = demo("--bundle", bundle, "--output", tmp_path / "out", "--instruction", FIRST)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        for line in process.stdout:
            if "layout  reached" in line:  # the table begins: all nodes are up
                break
        assert len(children(tmp_path / "out")) == 3
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaint
    assert not children(tmp_path / "out")
