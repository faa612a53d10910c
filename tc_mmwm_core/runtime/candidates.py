"""Candidates from outside: what another policy proposes, checked before it is screened beside our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.interface.stream import SECOND


class CandidateError(ValueError):
    """Candidates do not fit the robot interface or the bundle."""


@dataclass(frozen=True, eq=False)
class ExternalCandidates:
    """Sequences that a policy proposes, in the units of the robot interface."""

    source: str
    stamp_ns: int  # the observation time that they were made for
    actions: np.ndarray  # float32 [N, K, A]; values may still be beyond the limits or not finite: screening says so


def read_candidates(
    source: str,
    stamp_ns: int,
    fields: Sequence[str],
    count: int,
    horizon: int,
    actions: Sequence[float],
    interface: RobotInterface,
    expected_horizon: int,
    max_count: int,
) -> ExternalCandidates:
    """The content of a ``CandidateActions`` message as [N, K, A].

    More than ``max_count`` are refused: a decision must stay within its period, whatever somebody sends.

    Raises:
        CandidateError: names the field, what was found and what is allowed.
    """
    if stamp_ns < 0:
        raise CandidateError(f"header.stamp: {stamp_ns / SECOND:.3f} s, allowed are 0 s and later")
    if list(fields) != interface.action_names:
        raise CandidateError(f"fields: {list(fields)}, the robot interface has {interface.action_names} in this order")
    if horizon != expected_horizon:
        raise CandidateError(f"horizon: {horizon} latent steps, the model bundle imagines {expected_horizon}")
    if not 1 <= count <= max_count:
        raise CandidateError(f"count: {count}, allowed are 1 to {max_count}")
    if len(actions) != count * horizon * len(fields):
        needed = f"count x horizon x fields = {count * horizon * len(fields)}"
        raise CandidateError(f"actions: {len(actions)} numbers, needed are {needed}")
    array = np.asarray(actions, np.float32).reshape(count, horizon, len(fields))
    return ExternalCandidates(source, stamp_ns, array)
