"""What every node does to its process as it starts."""

import os
import subprocess
import sys

CODE = "import os; from tc_mmwm_ros import signals; signals.init(); print(os.environ.get('FASTDDS_BUILTIN_TRANSPORTS'))"


def test_the_choice_of_transports_is_left_to_the_user(tmp_path):
    """A node that chose LARGE_DATA by itself could not be heard from machines that did not."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTDDS_BUILTIN_TRANSPORTS"}
    started = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert started.stdout == "None\n", started.stderr
