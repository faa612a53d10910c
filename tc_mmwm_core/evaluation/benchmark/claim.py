"""One piece of work to one process: several processes may work off the same benchmark at once."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether ``folder`` is ours until the block ends; with ``wait``, once it is.

    The kernel lets go when we end, however that comes: nothing stays claimed by a process that was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
