"""What an instruction says to the robot itself, not to the model: stop.

The model would make a goal of it like of any other words. So the planner stops where it is told to, and the converter
makes no training data of what was done under it.
"""

from __future__ import annotations

import re

# What tells a robot to stop, if it is all that is said; without punctuation, in lower case, each word once.
STOPPING = frozenset(
    {"stop", "stop now", "halt", "wait", "freeze", "pause", "cancel", "stay", "stand still", "do not move", "dont move"}
)


def tells_to_stop(text: str) -> bool:
    """Whether all of ``text`` is one of :data:`STOPPING`, whatever its case and punctuation, or that repeated."""
    return " ".join(dict.fromkeys(re.sub(r"[^\w\s]", "", text.lower()).split())) in STOPPING
