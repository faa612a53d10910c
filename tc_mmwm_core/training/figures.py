"""The figure of a training run: losses, latents, SIGReg and α over steps, with the stages marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# matplotlib's object interface: no window system, no global state.
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GAUSSIAN_SIGREG = 1.05  # see tc_mmwm_core/losses/sigreg.py

PANELS: tuple[tuple[str, str, bool], ...] = (
    ("weighted/", "weighted loss", True),
    ("valid/effective_rank", "effective rank of the latent", False),
    ("valid/probe_r2", "R² of the true state, read linearly", False),
    ("raw/sigreg", "SIGReg", True),
    ("alpha/", "alpha", False),
)
"""Prefix of the metrics, label of the axis, whether it is logarithmic."""


def training_figure(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw the records of a run's metrics.jsonl; ``savefig`` of what is returned writes it. An empty panel says so.

    Reads ``loss``, ``weighted/*``, ``raw/sigreg*``, ``valid/effective_rank*``, ``valid/probe_r2*`` and ``alpha/*``.

    Raises:
        ValueError: no records.
    """
    if not records:
        raise ValueError("there are no metrics to draw")
    canvas = Figure(figsize=(10, 14), layout="constrained")
    axes = canvas.subplots(len(PANELS), 1, sharex=True)
    for ax, (prefix, label, logarithmic) in zip(axes, PANELS, strict=True):
        names = sorted({name for record in records for name in record if name.startswith(prefix)})
        if prefix == "weighted/":
            names.insert(0, "loss")
        _draw(ax, records, names, prefix)
        ax.set_ylabel(label)
        if logarithmic and ax.get_lines():
            ax.set_yscale("log")
        if prefix == "raw/sigreg" and ax.get_lines():
            ax.axhline(GAUSSIAN_SIGREG, color="grey", linestyle=":", linewidth=1, label="Gaussian")
            ax.legend(fontsize="small", loc="upper right")
        _mark_stages(ax, records)
    axes[-1].set_xlabel("optimizer step")
    return canvas


def _draw(ax: Axes, records: Sequence[dict[str, Any]], names: Sequence[str], prefix: str) -> None:
    for name in names:
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        if points:
            total = name == "loss"
            label = "total" if total else name.removeprefix(prefix).strip("/_") or name.rsplit("/", 1)[-1]
            ax.plot(*zip(*points, strict=True), label=label, color="black" if total else None, linewidth=1.2)
    if ax.get_lines():
        ax.legend(fontsize="small", ncols=2, loc="upper right")
    else:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color="grey")
    ax.grid(alpha=0.3)


def _mark_stages(ax: Axes, records: Sequence[dict[str, Any]]) -> None:
    """A dashed line and the name where each stage begins."""
    stage = None
    for record in records:
        if record.get("stage") not in (None, stage):
            stage = record["stage"]
            ax.axvline(record["step"], color="grey", linestyle="--", linewidth=1)
            ax.text(record["step"], 1.0, f" {stage}", transform=ax.get_xaxis_transform(), va="bottom", fontsize="small")
