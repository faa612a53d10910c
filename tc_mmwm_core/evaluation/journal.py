"""A record of what is done, one JSON line each, that a killed process leaves behind and the next goes on with.

One process writes it; any may read it meanwhile.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any


class JournalError(ValueError):
    """A journal is of something else, damaged, or being written by another process."""


class Journal:
    """Results by key; a context manager. Its first line says what it is of; without a path it is kept in memory only.

    Attributes:
        lines: what is done, by key.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        """Open ``path`` to go on with it.

        Raises:
            JournalError: it holds the work of another ``identity``, or a line that is no record; names what differs.
                Or another process is writing it.
        """
        self.lines: dict[str, Any] = {}
        self._file = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before reading: what is cut off below is nobody's
            self.lines, whole = _read(path, identity)
        except BlockingIOError:
            file.close()
            raise JournalError(f"{path}: another process is writing it; wait, or choose another folder") from None
        except BaseException:
            file.close()
            raise
        self._file = file
        self._file.truncate(whole)  # a line that a kill cut off is done again
        if not whole:
            self._append(identity)

    @staticmethod
    def read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
        """What is done so far, by key; of no file, nothing. The file is left as it is. Raises as opening it does."""
        return _read(path, identity)[0] if path.exists() else {}

    def write(self, key: str, result: Any) -> None:
        """Note that ``key`` is done; it is in the file when this returns."""
        self.lines[key] = result
        if self._file is not None:
            self._append({"key": key, "result": result})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, content: Any) -> None:
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()


def _read(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Results by key, and the length of the whole lines, in bytes."""
    identity = json.loads(json.dumps(identity))
    lines: dict[str, Any] = {}
    whole = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            content = json.loads(line)
            if number > 1:
                lines[content["key"]] = content["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{path}:{number}: not a record ({error}); remove the file to begin anew") from None
        if number == 1 and content != identity:
            differing = sorted(k for k in {*content, *identity} if content.get(k) != identity.get(k))
            found = "; ".join(f"{k} was {content.get(k)}, is {identity.get(k)}" for k in differing)
            raise JournalError(f"{path}: holds the results of something else: {found}; choose another folder")
        whole += len(line)
    return lines, whole
