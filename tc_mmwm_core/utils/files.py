"""Files and folders that are there whole or not at all, whatever ends the process that writes them; and what tells
them apart.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` beside ``path`` to the disk itself, then rename: readers see the old file or the new one.

    The folder is made where it is missing. Several processes may write the same path: the last one's file stays.

    Raises:
        OSError: it cannot be written (disk full, no permission); a file that was there is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    to_disk(path.parent)


def put_in_place(fresh: Path, folder: Path) -> None:
    """Give the folder ``fresh``, of files alone, the name ``folder``, once it is on the disk itself.

    What had that name has the name ``fresh`` after. Both change in one step, so that at any moment one of them is
    there, where kernel and file system can exchange names (Linux: ext4, xfs, btrfs, overlayfs, tmpfs, ...). Elsewhere
    there is none for an instant, and a kill in it leaves the old one as ``.<name>.<process>.replaced``.

    Raises:
        OSError: ``folder`` is as before.
    """
    for file in fresh.iterdir():
        to_disk(file)
    to_disk(fresh)
    if not os.path.lexists(folder):
        fresh.rename(folder)
    elif not _exchange(fresh, folder):
        replaced = folder.with_name(f".{folder.name}.{os.getpid()}.replaced")
        folder.rename(replaced)
        try:
            fresh.rename(folder)
        except BaseException:
            replaced.rename(folder)
            raise
        replaced.rename(fresh)
    to_disk(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False: it is not possible here, and nothing was done."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library without it
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def to_disk(path: Path) -> None:
    """What the file ``path`` holds, or the names in the folder ``path``, survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def shown(path: Path) -> Path:
    """``path`` as a message names it: relative to the working folder where it is below that, so that it can be read."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def sha256(files: Iterable[Path]) -> str:
    """Hex digest over the contents of ``files``, one after the other, of any size."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
