"""A trajectory: what a robot saw and did at a fixed rate under one instruction (contract 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tc_mmwm_core.interface.robot import RobotInterface


@dataclass(slots=True)
class Trajectory:
    """L control steps. The action of step t is what was commanded between tick t and tick t + 1.

    Steps that are not valid (an input was missing or faulty) hold zeros, and no window crosses them.
    """

    images: dict[str, np.ndarray]  # name: uint8 [L, H, W, C]
    sensor: np.ndarray  # float32 [L, Ds], in the units of the robot interface
    action: np.ndarray  # float32 [L, A], in the units of the robot interface
    valid: np.ndarray  # bool [L]
    violation: np.ndarray  # int8 [L]: the instruction is being broken (1), is not (0), nobody knows (-1)
    instruction: str
    success: bool | None  # goal reached without violation; None: unknown
    source: Literal["simulated", "real"]
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON: where it came from: bag and its hash, seed, ...
    scene: dict[str, Any] | None = None  # JSON: what a simulator's oracle needs to judge other instructions
    state: np.ndarray | None = None  # float32 [L, P], the simulator's state, for the same oracle

    def __len__(self) -> int:
        return len(self.action)

    @property
    def unbroken(self) -> slice:
        """The longest run of valid steps, the first of several as long; empty where no step is valid."""
        first, end = valid_runs(self.valid)
        if not len(first):
            return slice(0, 0)
        longest = int(np.argmax(end - first))
        return slice(int(first[longest]), int(end[longest]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by the name that the dataset stores it under."""
        arrays = {f"image.{name}": image for name, image in self.images.items()}
        arrays |= {"sensor": self.sensor, "action": self.action, "valid": self.valid, "violation": self.violation}
        return arrays if self.state is None else arrays | {"state": self.state}

    def problems(self, interface: RobotInterface) -> list[str]:
        """What of it does not fit ``interface`` or could not be learned from; empty where all is well."""
        length = len(self.action)
        shapes = {f"image.{spec.name}": (spec.height, spec.width, spec.channels) for spec in interface.images}
        shapes |= {"sensor": (interface.sensor_size,), "action": (interface.action_size,), "valid": (), "violation": ()}
        kinds = dict.fromkeys(shapes, np.uint8) | {"sensor": np.float32, "action": np.float32}
        kinds |= {"valid": np.bool_, "violation": np.int8}
        arrays = self.arrays()
        found = [f"'{name}' is missing" for name in shapes if name not in arrays]
        found += [f"'{name}' is not in the interface" for name in arrays if name not in shapes and name != "state"]
        for name in shapes.keys() & arrays.keys():
            array, shape = arrays[name], (length, *shapes[name])
            if array.shape != shape or array.dtype != kinds[name]:
                expected = f"{np.dtype(kinds[name])} {list(shape)}"
                found.append(f"'{name}' is {array.dtype} {list(array.shape)}, the interface needs {expected}")
        if self.state is not None and (self.state.ndim != 2 or len(self.state) != length):
            found.append(f"'state' is {list(self.state.shape)}, [{length}, P] is needed")
        if length == 0:
            found.append("has no steps")
        found += self._not_json()
        return found or self._bad_values()

    def _not_json(self) -> list[str]:
        found = []
        for name in ("provenance", "scene"):
            for key, value in (getattr(self, name) or {}).items():
                try:
                    to_jsonable_python(value)
                except PydanticSerializationError as error:
                    mend = "give Python's own numbers and lists, e.g. float(x), x.tolist()"
                    found.append(f"'{name}' holds under '{key}' what JSON cannot: {error}; {mend}")
        return found

    def _bad_values(self) -> list[str]:
        found = []
        for name in ("sensor", "action"):
            bad = ~np.isfinite(self.arrays()[name]).all(1) & self.valid
            if bad.any():
                found.append(f"'{name}' is not finite at step {int(np.argmax(bad))}, which is marked valid")
        if not np.isin(self.violation, (-1, 0, 1)).all():
            found.append(f"'violation' holds {sorted(set(self.violation.tolist()) - {-1, 0, 1})}, allowed are -1, 0, 1")
        if self.source not in ("simulated", "real"):
            found.append(f"source is '{self.source}', allowed are simulated and real")
        return found


def valid_runs(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First steps and ends (one past the last step) of the unbroken runs of ``valid`` [L]: int64 [runs] each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]
