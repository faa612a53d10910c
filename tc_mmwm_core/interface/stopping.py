"""What an instruction says to the robot itself, not to the model: stop.

The model would make a goal of it like of any other words. So the planner stops where it is told to, and the converter
makes no training data of what was done under it.
"""

from __future__ import annotations

import re

# What tells a robot to stop, if it is all that is said beside FILLERS; without punctuation, in lower case.
STOPPING = frozenset(
    {"stop", "halt", "wait", "freeze", "pause", "cancel", "abort", "quit", "hold", "hold on", "hold position"}
    | {"stay", "stay put", "stay where you are"}
    | {f"{how} still" for how in ("stand", "stay", "keep", "hold", "be")}
    | {f"{never} move" for never in ("do not", "dont", "never")}
    | {"e stop", "estop"}
)
# What may be said with it and changes nothing: "please stop the robot now".
FILLERS = frozenset(
    {"please", "now", "immediately", "right", "at", "once", "the", "your", "this", "robot", "here", "there", "moving"}
    | {"driving", "going", "motion", "movement", "everything", "all", "it", "ok", "okay", "hey", "emergency"}
)


def tells_to_stop(text: str) -> bool:
    """Whether all of ``text`` is one of :data:`STOPPING`, whatever its case and punctuation, or that repeated."""
    words = re.sub(r"[^\w\s]", "", text.lower().replace("-", " ")).split()
    return " ".join(dict.fromkeys(word for word in words if word not in FILLERS)) in STOPPING
