"""Why there is no observation to act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FaultKind(Enum):
    """What is wrong with an input."""

    WAITING = "waiting"  # nothing was heard on the topic yet
    STALE = "stale"  # the newest message is older than its max_age
    OUT_OF_ORDER = "out of order"  # a message older than the one before it was refused
    FUTURE = "future"  # a message was stamped after it was received: the clocks differ
    NON_FINITE = "non-finite"  # NaN or infinite
    OUT_OF_LIMITS = "out of limits"  # finite, but outside the field's limits
    WRONG_SIZE = "wrong size"  # image size or aspect, data length, array length
    WRONG_ENCODING = "wrong encoding"  # image encoding or compression format
    WRONG_TYPE = "wrong type"  # the message has no such field


@dataclass(frozen=True, slots=True)
class Fault:
    """One input that cannot be used, and why, in words that name the topic, what was found and what is allowed."""

    kind: FaultKind
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.kind.value}: {self.reason}"
