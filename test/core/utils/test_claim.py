"""Work is divided between processes, and nothing stays claimed by one that was killed."""

import subprocess
import sys

from tc_mmwm_core.utils.claim import claim

OTHER = """
import sys
from pathlib import Path
from tc_mmwm_core.utils.claim import claim
with claim(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def another(folder) -> tuple[subprocess.Popen, bool]:
    """Another process, and whether it got ``folder``; it keeps it until it ends."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline() == "True\n"


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "work"
    with claim(folder) as ours:
        assert ours
        other, theirs = another(folder)
        other.communicate()
        assert not theirs
    other, theirs = another(folder)
    assert theirs
    with claim(folder) as ours:
        assert not ours
    other.kill()
    with claim(folder, wait=True) as ours:
        assert ours
    other.communicate()
