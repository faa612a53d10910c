"""A picture of what the planner did: paths over the arena, and what it thought of its candidates at one decision.

Plain arrays in, a PNG out. Lengths in metres, x right and y up, origin in the middle of the overhead picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# matplotlib: the standard for figures; the object interface, so that no window system is asked for.
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tc_mmwm_core.utils.files import write_atomically

PATH_COLOURS = ("#ff2fd0", "#00e5ff", "#ffffff")
PATH_WIDTHS = (4.0, 2.2, 1.0)  # where paths lie on one another, all stay visible
ACCEPTED, REJECTED, CHOSEN = "#19c24a", "#e8352b", "#1450ff"


@dataclass(frozen=True)
class DecisionPicture:
    """One decision, to look at.

    Attributes:
        image: what the camera saw, uint8 [H, W, 3].
        paths: where each candidate would have led, by dead reckoning, [N, P, 2] m.
        accepted: verdicts, bool [N].
        chosen: index of the executed candidate, -1 where none.
    """

    image: np.ndarray
    paths: np.ndarray
    accepted: np.ndarray
    chosen: int


@dataclass(frozen=True)
class Drive:
    """One episode: the robot's positions [T, 2] in m, how it went in words, and one decision of it."""

    path: np.ndarray
    outcome: str
    decision: DecisionPicture | None


@dataclass(frozen=True)
class Layout:
    """One arena from above, uint8 [S, S, 3], and one drive for each instruction."""

    name: str
    photograph: np.ndarray
    drives: Sequence[Drive]


def draw_layouts(layouts: Sequence[Layout], instructions: Sequence[str], view: float, file: Path) -> None:
    """Write one column per layout: the paths of all drives, then one decision for each instruction.

    Args:
        layouts: at least one, each with a drive for each of ``instructions``.
        instructions: what was asked, at most three.
        view: half side of what pictures show, m.
        file: PNG to write, replaced at once.

    Raises:
        ValueError: there is no layout, or one lacks a drive.
    """
    if not layouts or any(len(layout.drives) != len(instructions) for layout in layouts):
        raise ValueError(f"{file}: needs layouts with {len(instructions)} drives each, one an instruction")
    rows, columns = 1 + len(instructions), len(layouts)
    figure = Figure(figsize=(2.9 * columns + 0.4, 3.15 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xlim=(-view, view), ylim=(-view, view), xticks=[], yticks=[], aspect="equal")
    extent = (-view, view, -view, view)
    for column, layout in enumerate(layouts):
        top = grid[0, column]
        top.imshow(layout.photograph, extent=extent)
        top.set_title(layout.name, fontsize=10)
        for width, colour, drive in zip(PATH_WIDTHS, PATH_COLOURS, layout.drives, strict=False):
            _draw_path(top, drive.path, colour, width)
        for axes, drive in zip(grid[1:, column], layout.drives, strict=True):
            axes.set_xlabel(drive.outcome, fontsize=8)
            if drive.decision is not None:
                axes.imshow(drive.decision.image, extent=extent, interpolation="nearest")
                _draw_candidates(axes, drive.decision)
    grid[0, 0].set_ylabel("paths driven", fontsize=9)
    for index, axes in enumerate(grid[1:, 0]):
        axes.set_ylabel(f"one decision of {_letter(index)}", fontsize=9)
    lines = [Line2D([], [], color=colour, lw=2.5) for colour in PATH_COLOURS[: len(instructions)]]
    labels = [f"{_letter(index)}: “{text}”" for index, text in enumerate(instructions)]
    lines += [Line2D([], [], color=colour, lw=2) for colour in (ACCEPTED, REJECTED, CHOSEN)]
    labels += ["candidate accepted", "candidate rejected", "candidate executed"]
    figure.legend(
        lines, labels, loc="outside lower center", ncols=2 if columns > 1 else 1, fontsize=9, facecolor="0.85"
    )
    save(figure, file)


def _draw_path(axes: Axes, path: np.ndarray, colour: str, width: float) -> None:
    axes.plot(*path.T, color="black", lw=width + 1.6, solid_capstyle="round")
    axes.plot(*path.T, color=colour, lw=width, solid_capstyle="round")
    axes.plot(*path[:1].T, "o", color=colour, mec="black", ms=6)
    axes.plot(*path[-1:].T, "*", color=colour, mec="black", ms=12)


def _draw_candidates(axes: Axes, decision: DecisionPicture) -> None:
    for wanted, colour in ((False, REJECTED), (True, ACCEPTED)):
        paths = decision.paths[decision.accepted == wanted]
        axes.add_collection(LineCollection(paths, colors=colour, linewidths=0.7, alpha=0.55))
    if decision.chosen >= 0:
        axes.plot(*decision.paths[decision.chosen].T, color="white", lw=3.4)
        axes.plot(*decision.paths[decision.chosen].T, color=CHOSEN, lw=2.0)


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def save(figure: Figure, file: Path) -> None:
    """Write a PNG, replaced at once."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(file, picture.getbuffer())
