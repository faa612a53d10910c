import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tc_mmwm_core.utils.reproducibility import (
    environment,
    git_revision,
    random_state,
    restore_random_state,
    seed_everything,
)


def draws():
    return [random.random(), *np.random.normal(size=3), *torch.randn(3).tolist()]


def test_one_seed_gives_one_sequence_and_others_differ():
    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seen = []
    for seed in range(9):
        seed_everything(seed)
        seen.append(tuple(draws()))
    assert len(set(seen)) == 9


def test_the_state_survives_a_weights_only_file_and_draws_go_on(tmp_path):
    seed_everything(1)
    draws()
    np.random.normal()  # leaves half of a Gaussian pair behind
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draws()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


def test_the_environment_is_json_and_names_versions():
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A work tree of the project's shape, with one commit."""
    git(tmp_path, "init")
    (tmp_path / "tc_mmwm_core").mkdir()
    (tmp_path / "tc_mmwm_core" / "__init__.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first", "--no-verify")
    return tmp_path


def test_the_revision_says_whether_files_changed(repository):
    package = repository / "tc_mmwm_core"
    clean = git_revision(package)
    assert len(clean["commit"]) == 40
    assert not clean["changed"]
    (package / "__init__.py").write_text("x = 1\n")
    assert git_revision(package) == {"commit": clean["commit"], "changed": True}


def test_outside_of_git_without_git_and_inside_another_project_there_is_no_revision(tmp_path, monkeypatch, repository):
    other = repository / "other"
    other.mkdir()
    git(other, "init")
    assert git_revision(other) is None
    assert git_revision(Path("/")) is None
    monkeypatch.setenv("PATH", str(other))
    assert git_revision(repository / "tc_mmwm_core") is None
    assert environment()["git"] is None
