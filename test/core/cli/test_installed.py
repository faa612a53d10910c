"""The installed command, as a user's shell starts it."""

import shutil
import subprocess

from tc_mmwm_core.data.dataset import Dataset


def test_the_installed_command_collects_in_processes_of_its_own(tmp_path):
    command = shutil.which("tc-mmwm")
    assert command, "tc-mmwm is not on PATH: source install/setup.bash or activate the environment"
    arguments = ["collect", "--episodes", "2", "--steps", "3", "--workers", "2", "--output", str(tmp_path / "data")]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(Dataset.open(tmp_path / "data")) == 2
