"""Child processes cannot die unseen, and cannot outlive us."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tc_mmwm_ros.processes import ProcessDied, Processes

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dead_child_is_named_with_the_end_of_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("planner", [sys.executable, "-c", "import sys; sys.exit('no model here')"])
        with pytest.raises(ProcessDied, match=r"(?s)planner ended with exit code 1.*no model here"):
            wait_until(processes.check)


def test_a_killed_child_is_told_by_its_signal(tmp_path):
    with Processes(tmp_path) as processes:
        os.kill(processes.start("robot", SLEEP).pid, signal.SIGKILL)
        with pytest.raises(ProcessDied, match="robot was ended by SIGKILL"):
            wait_until(processes.check)


def test_leaving_the_block_stops_every_child(tmp_path):
    with Processes(tmp_path) as processes:
        pids = [processes.start(str(index), SLEEP).pid for index in range(3)]
        processes.check()
    assert not any(map(alive, pids))


def test_who_does_not_stop_when_asked_is_killed(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("stubborn", STUBBORN)
        wait_until(lambda: "up" in processes.tail("stubborn"))
        assert processes.stop("stubborn", patience=0.3) == -signal.SIGKILL


def test_children_end_when_we_are_killed(tmp_path):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from pathlib import Path; from tc_mmwm_ros.processes import Processes\n"
            f"child = Processes(Path({str(tmp_path)!r})).start('child', {SLEEP!r})\n"
            "print(child.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    wait_until(lambda: "up" in (tmp_path / "child.log").read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(child))
