"""One piece of work to one process: several may work off the same benchmark at once, but not train the same run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def claim(folder: Path, wait: bool = False, lock: str = LOCK) -> Iterator[bool]:
    """Whether ``folder`` is ours until the block ends; with ``wait``, once it is.

    ``lock`` names the file in it that is locked: who holds one may claim the folder for something else by another.

    The kernel lets go when we end, however that comes: nothing stays claimed by a process that was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
