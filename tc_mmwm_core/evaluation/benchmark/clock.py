"""How long the parts of a benchmark took, and what those that are left will take at that rate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

TIMES = "times.jsonl"


@dataclass(frozen=True)
class Part:
    """``amount`` episodes or optimizer steps, of work of one kind: what takes as long is called the same."""

    domain: str
    kind: str  # e.g. "train"
    amount: int


class Clock:
    """Times of parts, in a file that several processes may append to."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / TIMES

    @contextmanager
    def time(self, part: Part, of: str) -> Iterator[None]:
        """Note how long the block took; ``of`` names what it worked at. A block that fails is not noted."""
        began = time.monotonic()
        yield
        if part.amount:
            line = asdict(part) | {"of": of, "seconds": round(time.monotonic() - began, 3)}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def seconds(self, part: Part, of: str | None = None) -> float | None:
        """What ``part`` takes, by what was timed of its kind (of ``of`` alone, if named); None: nothing was.

        In its own domain, or where none of its kind was timed there, in any other.
        """
        rows = [row for row in self._rows() if row["kind"] == part.kind and of in (None, row["of"])]
        rows = [row for row in rows if row["domain"] == part.domain] or rows
        if not rows:
            return None
        return part.amount * sum(row["seconds"] for row in rows) / sum(row["amount"] for row in rows)

    def _rows(self) -> list[dict]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
