"""Was a decision in time? A single one that is a little late is tolerated; all late ones are counted."""

from __future__ import annotations

TOLERATED_RUNNING = 1
TOLERATED_PERIODS = 2  # a decision later than this is of another world, also where it is the first


class Deadline:
    """Counts late decisions.

    Args:
        period: seconds that a decision may take, waiting for its turn included.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self.misses = 0  # since the start
        self._running = 0

    def missed(self, elapsed: float) -> bool:
        """Note a decision that was ready ``elapsed`` s after it was due. True: it must not be executed any more."""
        late = elapsed > self.period
        self.misses += late
        self._running = self._running + 1 if late else 0
        return self._running > TOLERATED_RUNNING or elapsed > TOLERATED_PERIODS * self.period
