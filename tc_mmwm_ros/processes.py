"""Child processes that cannot outlive us, each with a log of its own.

Where ``launch`` is installed, use it. This is for the demo and the tests, which also run where it is not to be had.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ament_index_python.packages import get_package_prefix

TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def executable(name: str) -> str:
    """Path of a node of this package, as ``ros2 run tc_mmwm_ros <name>`` finds it."""
    return str(Path(get_package_prefix("tc_mmwm_ros")) / "lib" / "tc_mmwm_ros" / name)


class ProcessDied(RuntimeError):
    """A child process ended although nobody asked it to."""


class Processes:
    """Started children by name. Leaving the ``with`` block stops them all; so does our own death, however it comes.

    Children get no Ctrl-C from the terminal: we hear it, and stop them in good order.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """Logs go to ``logs``/<name>.log; ``environment`` is added to ours."""
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen:
        """Start ``command`` with its output in the log of ``name``."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._running[name] = process
        return process

    def log(self, name: str) -> Path:
        """Path of the log."""
        return self.logs / f"{name}.log"

    def tail(self, name: str) -> str:
        """The last lines of the log."""
        lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def check(self) -> None:
        """Raise ProcessDied, with the tail of its log, where a child has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ProcessDied(
                    f"{name} {_ending(process.returncode)}; the end of {self.log(name)}:\n{self.tail(name)}"
                )

    def stop(self, name: str, number: int = signal.SIGINT, patience: float = 10.0) -> int:
        """Signal the child, kill it and all that it started after ``patience`` seconds; its exit code."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def die_with_parent() -> None:
    """For ``preexec_fn``: the child is told to end when we die, even by SIGKILL (Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
