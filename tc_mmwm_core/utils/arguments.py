"""Types of command line arguments: what argparse refuses before anything long begins. Arguments of several commands."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def device(name: str) -> str:
    """A device that PyTorch has here: cpu, cuda, cuda:1, ..."""
    if name == "cpu":
        return name
    import torch

    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # a build without CUDA asserts
        raise argparse.ArgumentTypeError(
            f"{name}: PyTorch {torch.__version__} has no such device here: {error}"
        ) from None
    return name


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number, 0 or above."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, 0 or above")
    return int(text)


def finite(text: str) -> float:
    """A number, and neither NaN nor without end."""
    number = _number(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return number


def share(text: str) -> float:
    """A number between 0 and 1, and neither of them."""
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")
    return number


def seconds(text: str) -> float:
    """A number of seconds, 0 or above."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or above")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def planner_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--planner``; see :func:`tc_mmwm_core.runtime.planner.planner_for`."""
    parser.add_argument(
        "--planner",
        type=Path,
        help="parameter file of the planner, or a YAML of its settings alone (default, as in the launch file: "
        "config/planner/<name of the bundle's folder>.yaml, if the package has one; else the planner's own defaults)",
    )
