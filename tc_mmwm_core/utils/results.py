"""Results that are kept: JSON with what was measured, and on what, by which versions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tc_mmwm_core.utils.files import write_atomically
from tc_mmwm_core.utils.reproducibility import environment


def write_results(path: Path, measured: dict[str, Any]) -> None:
    """Write ``measured`` with versions, revision, command and machine to ``path``, whole or not at all.

    ``schema`` is 1 where ``measured`` does not say otherwise.
    Numbers that are not finite become null, which JSON has, and not NaN, which it has not.
    """
    content = {"schema": 1, **_finite(measured), "environment": environment()}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
