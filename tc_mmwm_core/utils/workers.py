"""Processes that share work, and end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

# What is to be shared with worker processes must be made in this context too. A fork would take over EGL contexts,
# which do not survive it, and locks of threads that it has not.
SPAWN = multiprocessing.get_context("spawn")


def start_worker() -> None:
    """End this process with the one that started it, whatever ends that; the initializer of a pool of processes.

    Ctrl-C is left to that process: it reaches every process of the terminal, and one alone decides what is kept.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
