"""Figures of what `tc-mmwm prove` finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# matplotlib's object interface: no window system, no global state.
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tc_mmwm_core.evaluation.open_loop import OpenLoop
from tc_mmwm_core.training.figures import GAUSSIAN_SIGREG

COLLAPSE = (
    ("effective_rank_fused", "effective rank of z", False),
    ("sigreg_fused", "SIGReg of z", True),
    ("probe_r2_fused", "R² of the true state from z", False),
    ("latent_variance_fused", "variance of z", True),
)


def collapse_figure(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Figure:
    """Held-out measures over training; one colour per variant, one line per seed.

    ``runs``: variant of each run, and its validations, see :func:`tc_mmwm_core.evaluation.proofs.proofs.over_training`.
    """
    names = list(dict.fromkeys(name for name, _ in runs))
    canvas = Figure(figsize=(11, 7), layout="constrained")
    for ax, (measure, label, logarithmic) in zip(canvas.subplots(2, 2).flat, COLLAPSE, strict=True):
        for name, validations in runs:
            points = [(each["step"], each[measure]) for each in validations if each[measure] is not None]
            if points:
                known = {line.get_label() for line in ax.get_lines()}
                ax.plot(*zip(*points, strict=True), ".-", color=f"C{names.index(name)}", lw=1, label=_once(name, known))
        if logarithmic and ax.get_lines():
            ax.set_yscale("log")
            ax.axhline(GAUSSIAN_SIGREG, color="grey", linestyle=":", linewidth=1, label="_Gaussian")
        _dress(ax, "optimizer step", label)
    return canvas


def open_loop_figure(found: Mapping[str, Sequence[OpenLoop]]) -> Figure:
    """Open-loop errors over k, means over the seeds: the latent's for all variants, the state's for the first."""
    first = next(iter(found.values()))
    canvas = Figure(figsize=(13, 7), layout="constrained")
    panels = iter(canvas.subplots(2, -(-(len(first[0].names) + 1) // 2)).flat)
    k = np.arange(1, len(first[0].latent["model"]) + 1)
    ax = next(panels)
    for name, each in found.items():
        ax.plot(k, np.mean([one.latent["model"] for one in each], 0), label=name)
    for name, style in (("copy", ":"), ("linear", "--")):
        ax.plot(k, np.mean([one.latent[name] for one in first], 0), style, color="grey", label=name)
    ax.set_yscale("log")
    _dress(ax, "k, latent steps", "squared error of z, in variances")
    for column, (name, unit) in enumerate(zip(first[0].names, first[0].units, strict=True)):
        ax = next(panels)
        for predictor, style in (("model", "-"), ("copy", ":"), ("linear", "--"), ("encoder", "-.")):
            values = np.mean([one.state[predictor][:, column] for one in first], 0)
            ax.plot(k, values, style, color="C0" if predictor == "model" else "grey", label=predictor)
        _dress(ax, "k, latent steps", f"error of {name}" + (f", {unit}" if unit else ""))
    for ax in panels:
        ax.set_visible(False)
    return canvas


def _once(name: str, known: set[str]) -> str:
    return f"_{name}" if name in known else name


def _dress(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    if ax.get_lines():
        ax.legend(fontsize="small")
