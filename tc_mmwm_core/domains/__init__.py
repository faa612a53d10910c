"""Simulated worlds with language."""

import os

# MuJoCo reads this once, when it is first imported: EGL draws without a screen and is right everywhere.
os.environ.setdefault("MUJOCO_GL", "egl")
