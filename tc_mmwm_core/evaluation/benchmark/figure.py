"""The figure of a benchmark: what each variant does and understands, error over k, success by episodes trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# matplotlib: as for every other figure; the object interface, so that no window system is asked for.
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tc_mmwm_core.evaluation.benchmark.table import starred
from tc_mmwm_core.evaluation.pictures import save
from tc_mmwm_core.training.ablation import FULL

DRIVING = {"task_success": 1, "constraint_compliance": 1}  # what is multiplied to percent
UNDERSTANDING = {"language_truth": 1, "counterfactual_rank_correlation": 100}
SPREAD = "± std over training seeds; * other settings"


def draw(content: Mapping[str, Any], domains: Sequence[str], file: Path) -> None:
    """Write what :func:`tc_mmwm_core.evaluation.benchmark.table.collate` gives as PNG, a row a domain.

    What no domain has a result of yet gets no column, and sample efficiency no row.
    """
    shown = [domain for domain in domains if domain in content]
    if not shown:
        return
    variants = {domain: {FULL: content[domain], **content.get("variants", {}).get(domain, {})} for domain in shown}
    columns = ["driving"]
    if any(measure in row for rows in variants.values() for row in rows.values() for measure in UNDERSTANDING):
        columns.append("understanding")
    if any(content.get("open_loop", {}).get(domain) for domain in shown):
        columns.append("open loop")
    curves = {domain: each["curve"] for domain, each in content.get("sample_efficiency", {}).items() if domain in shown}
    rows = [[f"{column} {domain}" for column in columns] for domain in shown]
    mosaic = rows + [["samples"] * len(columns)] * bool(curves)
    heights = [max(3.5, 0.4 * len(variants[domain])) for domain in shown] + [3.0] * bool(curves)
    figure = Figure(figsize=(5 * len(columns), sum(heights)), layout="constrained")
    axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
    for domain in shown:
        named = {starred(content, domain, name): row for name, row in variants[domain].items()}
        _bars(axes[f"driving {domain}"], named, DRIVING, f"% of episodes, {SPREAD}")
        axes[f"driving {domain}"].set_title(domain)
        if "understanding" in columns:
            _bars(axes[f"understanding {domain}"], named, UNDERSTANDING, f"% (correlation x 100), {SPREAD}")
        if "open loop" in columns:
            _open_loop(axes[f"open loop {domain}"], content.get("open_loop", {}).get(domain))
    if curves:
        _sample_efficiency(axes["samples"], curves)
    save(figure, file)


def _bars(axes: Axes, rows: Mapping[str, Mapping[str, Any]], measures: Mapping[str, float], unit: str) -> None:
    """Two bars a variant; none where it has no such measure."""
    for offset, (measure, scale) in zip((0.2, -0.2), measures.items(), strict=True):
        cells = [row.get(measure) or {"mean": None, "std": None} for row in rows.values()]
        places = [offset - index for index in range(len(cells))]
        mean, std = ([_scaled(cell[key], scale) for cell in cells] for key in ("mean", "std"))
        axes.barh(places, mean, 0.4, xerr=std, capsize=2, label=measure.replace("_", " "))
    axes.set_yticks([-index for index in range(len(rows))], list(rows))
    axes.set(xlim=(0, 101), xlabel=unit)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, fontsize="small")


def _scaled(value: float | None, scale: float) -> float:
    return math.nan if value is None else value * scale  # of one seed there is no spread: no whisker


def _sample_efficiency(axes: Axes, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    axes.set_title("Sample efficiency")
    for domain, points in curves.items():
        axes.plot([p["episodes"] for p in points], [p["task_success"]["mean"] for p in points], "o-", label=domain)
    axes.axhline(80, color="0.6", linestyle=":")
    axes.set(xscale="log", ylim=(0, 101), xlabel="episodes trained on", ylabel="task success, %")
    axes.legend()


def _open_loop(axes: Axes, errors: Mapping[str, Any] | None) -> None:
    if not errors:
        axes.set_axis_off()
        return
    axes.set_title("Open-loop prediction")
    for name, values in errors["latent"].items():
        axes.plot(errors["k"], values, "o-", label=name)
    axes.set(xscale="log", xlabel="k, latent steps ahead", ylabel="squared error / variance", ylim=(0, None))
    axes.legend()
