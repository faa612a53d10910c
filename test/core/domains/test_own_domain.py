"""docs/own_domain.md as it stands: somebody else's environment goes through the whole loop, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tc_mmwm_core.domains.base import DomainError

DOMAIN = "reacher_domain:make"
PAGE = (Path(__file__).parents[3] / "docs" / "own_domain.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page tells its reader to write down."""
    folder = tmp_path_factory.mktemp("own")
    files = re.findall(r"`(\w+\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    for name, content in files:
        (folder / name).write_text(content)
    return folder


def tc_mmwm(folder, *arguments, code=0):
    [export] = re.findall(r"^export \w+=.*$", PAGE, re.MULTILINE)
    run_in_it = ["bash", "-c", f'{export}; exec "$@"', "bash"]
    command = [*run_in_it, sys.executable, "-m", "tc_mmwm_core", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    return run.stdout


def test_its_check_says_what_the_page_says(folder):
    [command] = re.findall("^tc-mmwm (check .*)$", PAGE, re.MULTILINE)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    printed, of_a_mistake = [text for language, text in blocks if not language]
    assert tc_mmwm(folder, *command.split()) == printed
    mistaken = (folder / "reacher_domain.py").read_text().replace("qpos.copy()", "qpos")
    (folder / "mistaken_domain.py").write_text(mistaken)
    said = tc_mmwm(folder, *command.replace("reacher_domain", "mistaken_domain").split(), code=1)
    assert of_a_mistake in said


def test_its_expert_gets_there(folder):
    said = tc_mmwm(folder, "evaluate", "--domain", DOMAIN, "--driver", "expert", "--episodes", 4, "--quiet")
    assert re.search(r"task_success +100\.0", said), said


def test_its_ball_is_where_the_oracle_says(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    import reacher_domain

    environment = reacher_domain.ReacherEnv()
    for seed in range(3):
        observation, info = environment.reset(seed=seed)
        red, green, blue = np.moveaxis(observation["image.camera"].astype(int), -1, 0)
        row, column = np.argwhere((red > green + 40) & (red > blue + 40) & (blue < 100)).mean(0) + 0.5
        verdict = reacher_domain.make().judge(info["scene"], info["state"][None], info["instruction"])
        x, y = verdict.referents[0, :2]
        np.testing.assert_allclose([(1 + x) * 32, (1 - y) * 32], [column, row], atol=1.5)
        cheapest = np.unravel_index(verdict.field_cost.argmin(), (32, 32))
        assert cheapest == (int((1 - y) * 16), int((1 + x) * 16))
    environment.close()


def test_its_oracle_passes_no_rule_over(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    import reacher_domain

    with pytest.raises(DomainError, match="'reach the red ball, keep left': known are 'reach the red ball' and"):
        reacher_domain.make().judge({"ball": [0.1, 0.1]}, np.zeros((1, 6)), "reach the red ball, keep left")


def test_it_is_collected_from_trained_on_and_driven(folder):
    config = yaml.safe_load((folder / "reacher_train.yaml").read_text())
    config["data"] |= {"instructions": 2, "holdout": 0.5}
    config["model"] |= {"latent": 32, "width": 16, "hidden": 32, "slot_width": 16, "word_dimensions": 16}
    for stage in config["stages"]:
        stage |= {"epochs": 1, "trajectories": 4}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    robot = ("--domain", DOMAIN, "--robot", "reacher.yaml")
    said = tc_mmwm(folder, "collect", *robot, "--output", "data", "--episodes", 8, "--steps", 30, "--workers", 1)
    assert "it holds 8 trajectories" in said
    tc_mmwm(folder, "train", "--config", "small.yaml", "--data", "data", "--output", "run", "--quiet")
    tc_mmwm(folder, "export", "run", "--data", "data", "--output", "bundle", "--threshold", 0, "--quiet")
    amounts = ("--episodes", 1, "--probes", 1, "--open-loop", 4, "--candidates", 8, "--quiet")
    said = tc_mmwm(folder, "evaluate", "--domain", DOMAIN, "--bundle", "bundle", "--screen", "expert", *amounts)
    told = ("task_success", "other_policy_followed", "counterfactual", "open-loop error")
    assert all(word in said for word in told), said
