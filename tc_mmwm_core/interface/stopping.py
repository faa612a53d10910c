"""What an instruction says to the robot itself, not to the model: stop.

The model would make a goal of it like of any other words. So the planner stops where it is told to, and the converter
makes no training data of what was done under it. A stop too many is a nuisance, a stop that is missed a danger: what
may be said with a word for stopping is wide. But where anything else is said ("stop at the red pad"), it is an
instruction.
"""

from __future__ import annotations

import re

MOVE = ("move", "go", "drive", "continue", "proceed", "advance")
# What tells a robot to stop, if all else that is said is FILLERS; without those and punctuation, in lower case.
STOPPING = frozenset(
    {"stop", "to stop", "halt", "wait", "freeze", "pause", "cancel", "abort", "quit", "terminate", "suspend", "cease"}
    | {"desist", "enough", "whoa", "brake", "brakes", "hold", "hold on", "hold up", "hold position", "hang on"}
    | {"stay", "stay put", "remain", "stand by", "standby", "stand down", "do nothing", "never mind", "emergency"}
    | {f"{how} still" for how in ("stand", "stay", "keep", "hold", "be", "remain")}
    | {f"{never} {move}" for never in ("do not", "dont", "never") for move in MOVE}
    | {"come to stop", "come to halt", "cut power", "cut off power"}
    | {"e stop", "estop", "kill", "shut down", "shutdown", "power off", "power down", "switch off", "turn off"}
)
# What may be said with it and changes nothing: "please stop the robot now".
FILLERS = frozenset(
    {"please", "now", "immediately", "right", "at", "once", "quickly", "just", "for", "moment", "second", "minute"}
    | {"here", "there", "where", "ok", "okay", "hey", "oh", "no", "and", "then", "or", "hard", "hit", "apply"}
    | {"a", "the", "your", "this", "that", "it", "thats", "all", "any", "everything", "what", "doing", "are", "youre"}
    | {"both", "me", "thanks", "asap", "instant", "already", "away", "anymore", "further", "full", "dead", "make"}
    | {"danger", "help"}
    | {"i", "you", "said", "want", "need", "must", "should", "can", "could", "would", "will"}
    | {"robot", "robots", "arm", "arms", "gripper", "base", "car", "vehicle", "machine", "current", "task", "mission"}
    | {"command", "order", "instruction", "action", "actions", "program", "execution", "operation", "operations"}
    | {"motor", "motors", "engine", "engines", "wheel", "wheels", "moving", "driving", "going", "turning", "running"}
    | {"working", "forward", "forwards", "backward", "backwards", "motion", "motions", "movement", "movements"}
)
_STOPPING = re.compile(rf"\b(?:{'|'.join(sorted(STOPPING, key=len, reverse=True))})\b")


def tells_to_stop(text: str) -> bool:
    """Whether ``text`` has something of :data:`STOPPING`, and beside it at most :data:`FILLERS`.

    Case, punctuation and how often it is said do not matter.
    """
    words = re.sub(r"[\W_]+", " ", re.sub("['`\u2019]", "", text.lower())).split()
    said = " ".join(word for word in words if word not in FILLERS)
    rest, stops = _STOPPING.subn("", said)
    return stops > 0 and not rest.strip()
