"""Files that are there whole or not at all, whatever ends the process that writes them; and what tells them apart."""

from __future__ import annotations

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
    sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """What was made or renamed in ``folder`` survives a power cut under its new name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(files: Iterable[Path]) -> str:
    """Hex digest over the contents of ``files``, one after the other, of any size."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
