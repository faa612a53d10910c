"""Checkpoints that survive a kill in the middle of a write, a full disk and another model's shapes.

A checkpoint holds the ``state_dict`` of each part of a run (model, optimizer, scheduler, EMA, sampler, ...), where the
run stood, the random state of each process, the resolved config and the robot interface of the data, so that a resumed
run is bit for bit the unbroken one on a CPU, and a bundle can be made of it. ``last.pt`` is the newest, ``best.pt`` the
best so far.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol
from zipfile import BadZipFile

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tc_mmwm_core.utils.files import write_atomically
from tc_mmwm_core.utils.reproducibility import random_state, restore_random_state

FORMAT = 2
LAST = "last.pt"
BEST = "best.pt"
SHOWN = 8


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, cannot be read, or is not of this model."""


class Stateful(Protocol):
    """What has a state to keep: modules, optimizers, schedulers, samplers, early stopping."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Position:
    """Where a run stands: what is done, not what comes next."""

    step: int = 0
    """optimizer steps, over all stages"""
    stage: int = 0
    """index of the stage in the curriculum"""
    stage_step: int = 0
    """optimizer steps within the stage"""


def save_checkpoint(
    folder: str | Path,
    parts: Mapping[str, Stateful],
    position: Position,
    config: Mapping[str, Any],
    *,
    best: bool = False,
    left: int | None = None,
    interface: Mapping[str, Any] | None = None,
) -> None:
    """Write ``folder/last.pt``, and ``folder/best.pt`` too where ``best``; each is the old or the new one, never less.

    With several processes all must call it (their random states are gathered); the first one writes.

    Args:
        parts: what has a state, by name. Their states hold tensors and plain types only.
        config: the resolved configuration, of plain types.
        left: optimizer steps that the stage still takes, 0 where it has ended.
        interface: ``to_dict`` of the robot interface of what is trained on: with ``config``, enough to build the model
            again, and to know what its inputs and outputs mean.

    Raises:
        CheckpointError: the file cannot be written (disk full, no permission); the one before it is untouched.
    """
    state = random_state()
    random_states = [state]
    if dist.is_initialized():
        random_states = [None] * dist.get_world_size()
        dist.all_gather_object(random_states, state)
        if dist.get_rank() != 0:
            return
    content = {
        "format": FORMAT,
        "position": asdict(position),
        "left": left,
        "config": dict(config),
        "interface": None if interface is None else dict(interface),
        "random": random_states,
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    for name in [BEST, LAST] if best else [LAST]:  # killed in between, the run does the same steps again
        write_checkpoint(Path(folder) / name, content)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write what :func:`read_checkpoint` gives, whole or not at all. Raises as :func:`save_checkpoint`."""
    # Through memory: torch's own writer turns a full disk into an error of its zip format.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getbuffer()
    try:
        write_atomically(path, data)
    except OSError as error:
        kept = "the checkpoint before it is untouched" if path.exists() else "there is none before it"
        raise CheckpointError(
            f"{path}: cannot be written ({len(data) / 1e6:.1f} MB): {error.strerror or error}; {kept}"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint: ``format``, ``position``, ``config``, ``interface``, ``random``, ``parts``.

    And ``left``, but in one of an earlier version. See :func:`save_checkpoint`.

    Raises:
        CheckpointError: missing, cut off, of another format, or holding more than tensors and plain types (never run).
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, RuntimeError, UnpicklingError, EOFError, BadZipFile, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format", "none") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: checkpoint format {found}, format {FORMAT} is needed")
    return content


def load_checkpoint(path: str | Path, parts: Mapping[str, Stateful], *, restore_random: bool = True) -> Position:
    """Load the states of ``parts`` from ``path`` and return where the run stood.

    ``parts`` may be fewer than were saved (a model to export, say). Nothing is changed unless every part named is there
    and every module's shapes agree. The random state is put back if this process had one: with another number of
    processes a resumed run is as good, but no longer the same.

    Raises:
        CheckpointError: see :func:`read_checkpoint`; a part is missing; a module's shapes differ (both are shown).
    """
    content = read_checkpoint(path)
    states = content["parts"]
    missing = [name for name in parts if name not in states]
    if missing:
        raise CheckpointError(f"{path}: holds no {', '.join(missing)}; it holds {', '.join(states)}")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            differences = shape_differences(states[name], part.state_dict())
            if differences:
                more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
                shown = "\n  ".join(differences[:SHOWN])
                raise CheckpointError(f"{path}: '{name}' is of another model:\n  {shown}{more}")
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: '{name}' does not fit: {error}") from None
    rank = dist.get_rank() if dist.is_initialized() else 0
    if restore_random and rank < len(content["random"]):
        restore_random_state(content["random"][rank])
    return Position(**content["position"])


def shape_differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each tensor of two ``state_dict``s that is in one only or has two shapes."""

    def shape(state: Mapping[str, Any], name: str) -> str:
        if name not in state:
            return "nothing"
        return str(list(state[name].shape)) if isinstance(state[name], Tensor) else type(state[name]).__name__

    return [
        f"{name}: {shape(saved, name)} in the checkpoint, {shape(wanted, name)} in the model"
        for name in [*wanted, *(name for name in saved if name not in wanted)]
        if shape(saved, name) != shape(wanted, name)
    ]
