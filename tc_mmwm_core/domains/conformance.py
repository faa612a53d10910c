"""Whether what a domain returns is what :class:`Domain` promises: asked as it is collected, labelled and checked.

A domain is somebody's own code, and what training makes of a wrong array ends far from where it was made, or nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from pydantic_core import to_jsonable_python

from tc_mmwm_core.domains.base import Domain, DomainError, Judgement
from tc_mmwm_core.interface.robot import RobotInterface

DISAGREE = 0.01  # share of steps whose recorded violation may be another than that of the oracle's margin
FIELD_LIMIT = float(np.finfo(np.float16).max)  # of a field's values, which labels keep as float16
FINITE = ("margin", "cost", "place", "field_cost", "field_margin")


def observed_misfits(observation: Any, interface: RobotInterface) -> dict[str, str]:
    """What of an observation does not fit ``interface``, by its key; empty where all is well."""
    if not isinstance(observation, dict):
        return {"observation": f"the observation is {described(observation)}, a dict of arrays is needed"}
    shapes = {f"image.{spec.name}": (spec.height, spec.width, spec.channels) for spec in interface.images}
    shapes["sensor"] = (interface.sensor_size,)
    found = {}
    for name, shape in shapes.items():
        kind = np.dtype(np.float32 if name == "sensor" else np.uint8)
        if name not in observation:
            found[name] = f"'{name}' is missing; the observation has {', '.join(map(str, observation)) or 'nothing'}"
            continue
        array = observation[name]
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != kind:
            found[name] = f"'{name}' is {described(array)}, the interface needs {kind} {list(shape)}"
        elif name == "sensor" and not np.isfinite(array).all():
            index = int(np.argmin(np.isfinite(array)))
            found[name] = f"'sensor' is {array[index]} at {interface.sensor_names[index]}, a finite number is needed"
    for name in observation:
        if str(name).startswith("image.") and name not in shapes:
            found[name] = f"'{name}' is not an image of the interface, which has {', '.join(shapes)}"
    return found


def told_misfits(info: Any, begun: dict[str, Any] | None = None) -> dict[str, str]:
    """What of ``info`` is not as :meth:`Domain.environment` has it, by its key; empty where all is well.

    ``begun``: that of the same episode's reset, which no step may have changed; None: ``info`` is of the reset.
    """
    if not isinstance(info, dict):
        return {"info": f"info is {described(info)}, a dict is needed"}
    found = {}
    for name, (kinds, needed) in TOLD.items():
        if name not in info:
            found[name] = f"info['{name}'] is missing, {needed} is needed"
        elif not isinstance(info[name], kinds) or (kinds is Real and isinstance(info[name], bool)):
            found[name] = f"info['{name}'] is {described(info[name])}, {needed} is needed"
    if found:
        return found
    if not info["instruction"].strip():
        found["instruction"] = "info['instruction'] is empty, a sentence is needed"
    elif begun is not None and info["instruction"] != begun["instruction"]:
        found["instruction"] = (
            f"info['instruction'] is now {info['instruction']!r}, at the reset it was {begun['instruction']!r}: an "
            "episode has one instruction, end it and begin another"
        )
    try:
        scene = to_jsonable_python(info["scene"])
        json.dumps(scene, allow_nan=False)  # a dataset would keep null in place of NaN
    except ValueError as error:
        hint = "give Python's own numbers and lists, e.g. float(x), x.tolist()"
        found["scene"] = f"info['scene'] holds a value that JSON cannot hold: {error}; {hint}"
    else:
        before = scene if begun is None else to_jsonable_python(begun["scene"])
        if changed := [key for key in {**before, **scene} if before.get(key) != scene.get(key)]:
            found["scene"] = f"info['scene'] has changed at '{changed[0]}'; what moves belongs into info['state']"
    state = info["state"]
    if state.ndim != 1 or state.dtype.kind != "f":
        found["state"] = f"info['state'] is {described(state)}, float32 [P] is needed"
    elif begun is not None and len(state) != len(begun["state"]):
        found["state"] = f"info['state'] is {described(state)}, at the reset it was {described(begun['state'])}"
    elif not np.isfinite(state).all():
        column = int(np.argmin(np.isfinite(state)))
        found["state"] = f"info['state'] is {state[column]} at column {column}, a finite number is needed"
    if not math.isfinite(info["margin"]):
        found["margin"] = f"info['margin'] is {info['margin']}, a finite number is needed"
    elif bool(info["violation"]) != (info["margin"] > 0):
        found["violation"] = (
            f"info['violation'] is {info['violation']} and info['margin'] {info['margin']:g}: a margin above 0 is a "
            "violation, and no other"
        )
    return found


_FLAG = ((bool, np.bool_), "a bool")  # np.bool_: what a comparison of NumPy numbers gives
TOLD: dict[str, tuple[Any, str]] = {
    "instruction": (str, "a str"),
    "scene": (dict, "a dict"),
    "state": (np.ndarray, "float32 [P]"),
    "violation": _FLAG,
    "margin": (Real, "a number"),
    "rules": (list, "a list"),
    "reached": _FLAG,
    "success": _FLAG,
}


def success_misfits(told: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Whether an episode's success is one, by ``info`` of all its steps; what is broken at the reset does not count."""
    if not told[-1]["success"]:
        return {}
    if not told[-1]["reached"]:
        return {"success": "info['success'] is True and info['reached'] False: without the goal there is no success"}
    if broken := [step for step, info in enumerate(told) if step and info["violation"]]:
        found = f"info['success'] is True, though the instruction was broken at step {broken[0]}"
        return {"success": f"{found}: success is to reach the goal without any violation in the episode"}
    return {}


def action_misfits(action: Any, interface: RobotInterface) -> dict[str, str]:
    """Whether an action is one of ``interface``, finite; limits aside, within which an environment may clip."""
    if not isinstance(action, np.ndarray) or action.shape != (interface.action_size,) or action.dtype.kind != "f":
        return {"action": f"the action is {described(action)}, float32 [{interface.action_size}] is needed"}
    if not np.isfinite(action).all():
        name = interface.action_names[int(np.argmin(np.isfinite(action)))]
        return {"action": f"the action is not finite at {name}: {action.tolist()}"}
    return {}


def space_misfits(environment: gymnasium.Env, interface: RobotInterface) -> list[str]:
    """What of the environment's action space is not that of ``interface``: its shape, its limits."""
    space, limits = getattr(environment, "action_space", None), interface.action_limits
    needed = f"a Box of {[interface.action_size]} is needed, with the limits of the interface, {_spans(limits)}"
    if not isinstance(space, gymnasium.spaces.Box) or space.shape != (interface.action_size,):
        return [f"the action space is {space}, {needed}"]
    spans = np.stack([space.low, space.high], 1)
    if not np.allclose(spans, limits, rtol=1e-4, atol=1e-6):
        return [f"the action space has the limits {_spans(spans)}, {needed}"]
    return []


def saving_misfits(environment: gymnasium.Env) -> list[str]:
    """Which of ``save`` and ``restore`` the environment, unwrapped, has not."""
    inner = environment.unwrapped
    return [
        f"the environment has no {name}()" for name in ("save", "restore") if not callable(getattr(inner, name, None))
    ]


def check_judgement(judgement: Any, domain: Domain, states: np.ndarray, text: str, others: int | None = None) -> None:
    """Refuse what :meth:`Domain.judge` returned for ``states`` [S, P] where it is no :class:`Judgement` of them.

    ``others``: cameras beside the first; None: any number.

    Raises:
        DomainError: names the domain, the text, the array, what was found and what is needed.
    """
    called = f"domain '{domain.name}': judge() of {text!r} on {len(states)} states returned"
    if not isinstance(judgement, Judgement):
        raise DomainError(f"{called} {described(judgement)}, a Judgement is needed")
    count = len(states)
    shapes: dict[str, tuple[int | str, ...]] = {"margin": (count,), "cost": (count,), "referents": ("R", 4)}
    shapes |= {"place": (count, "2 B"), "field_cost": ("G", "G"), "field_margin": ("G", "G")}
    for name, shape in shapes.items():
        _check_array(f"{called} {name}", getattr(judgement, name), shape, "f", finite=name in FINITE)
    if judgement.place.shape[1] % 2 or not judgement.place.shape[1]:
        raise DomainError(f"{called} place {described(judgement.place)}, x and y of each of B points are needed")
    height, width = grid = judgement.field_cost.shape
    if grid != judgement.field_margin.shape or height != width or not height:
        grids = f"field_cost {described(judgement.field_cost)} and field_margin {described(judgement.field_margin)}"
        raise DomainError(f"{called} {grids}, both [G, G] are needed")
    for name in ("field_cost", "field_margin"):
        if (largest := np.abs(getattr(judgement, name)).max()) > FIELD_LIMIT:
            raise DomainError(f"{called} {name} of up to {largest:g}, at most {FIELD_LIMIT:g} is allowed: scale it")
    present = judgement.referents[:, 3]
    if not np.isin(present, (0, 1)).all():
        raise DomainError(f"{called} referents whose last column, present, is {present.tolist()}; allowed are 0 and 1")
    if not np.isfinite(judgement.referents).all():
        raise DomainError(f"{called} referents that are not finite; what is not there has present 0, and zeros")
    if judgement.elsewhere is not None:
        shape = (count, "C - 1" if others is None else others, judgement.place.shape[1] // 2, 2)
        _check_array(f"{called} elsewhere", judgement.elsewhere, shape, "f")


def check_advice(advice: Any, domain: Domain, states: np.ndarray, text: str, actions: int) -> None:
    """Refuse what :meth:`Domain.advise` returned for ``states`` [S, P], if that is neither None nor float [S, A].

    Raises:
        DomainError: as for a judgement.
    """
    if advice is not None:
        called = f"domain '{domain.name}': advise() of {text!r} on {len(states)} states returned"
        _check_array(called, advice, (len(states), actions), "f")


def check_self_filter(robot: Any, domain: Domain, images: np.ndarray) -> None:
    """Refuse what :meth:`Domain.self_filter` returned for ``images`` [S, H, W, C], if neither None nor bool [S, H, W].

    Raises:
        DomainError: as for a judgement.
    """
    if robot is not None:
        called = f"domain '{domain.name}': self_filter() of {len(images)} images returned"
        _check_array(called, robot, images.shape[:3], "b")


def disagreeing(violation: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Where a recorded violation (0, 1; -1: unknown) [S] is another than that of an oracle's margin [S]: bool [S]."""
    return (violation >= 0) & ((violation == 1) != (margin > 0))


def described(value: Any) -> str:
    """An array by dtype and shape, anything else by value and type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    shown = repr(value)
    return f"{shown if len(shown) <= 40 else shown[:37] + '...'} ({type(value).__name__})"


def _check_array(called: str, array: Any, shape: tuple[int | str, ...], kind: str, finite: bool = False) -> None:
    """``kind``: "f" or "b"; a size that is a str is free, and told by that name."""
    dtype = {"f": "float32", "b": "bool"}[kind]
    fits = isinstance(array, np.ndarray) and array.dtype.kind == kind and array.ndim == len(shape)
    if not fits or any(isinstance(size, int) and size != found for size, found in zip(shape, array.shape, strict=True)):
        raise DomainError(f"{called} {described(array)}, {dtype} [{', '.join(map(str, shape))}] is needed")
    if finite and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        where = ", ".join(str(int(index)) for index in np.argwhere(bad)[0])
        raise DomainError(f"{called} {array[bad][0]} at [{where}], finite numbers are needed")


def _spans(limits: np.ndarray) -> str:
    return ", ".join(f"[{low:g}, {high:g}]" for low, high in limits)
