"""The figure of a benchmark: each variant's success and compliance, success by episodes trained on, error over k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# matplotlib: as for every other figure; the object interface, so that no window system is asked for.
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tc_mmwm_core.evaluation.pictures import save
from tc_mmwm_core.training.ablation import FULL


def draw(content: Mapping[str, Any], domains: Sequence[str], file: Path) -> None:
    """Write what :func:`tc_mmwm_core.evaluation.benchmark.table.collate` gives as PNG, one row per domain.

    What no domain has a result of yet gets no column.
    """
    shown = [domain for domain in domains if domain in content]
    if not shown:
        return
    rows = [
        (
            {FULL: content[domain], **content.get("variants", {}).get(domain, {})},
            content.get("sample_efficiency", {}).get(domain, {}).get("curve"),
            content.get("open_loop", {}).get(domain),
        )
        for domain in shown
    ]
    panels = (_variants, _sample_efficiency, _open_loop)
    columns = [column for column in range(len(panels)) if any(row[column] for row in rows)]
    figure = Figure(figsize=(5 * len(columns), 5 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for domain, row, line in zip(shown, rows, axes, strict=True):
        for column, place in zip(columns, line, strict=True):
            if row[column]:
                panels[column](place, row[column])
            else:
                place.set_axis_off()
        line[0].set_title(domain)
    save(figure, file)


def _variants(axes: Axes, rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    for offset, measure in ((0.2, "task_success"), (-0.2, "constraint_compliance")):
        cells = [row[measure] for row in rows.values()]
        places = [offset - index for index in range(len(cells))]
        mean = [cell["mean"] for cell in cells]
        std = [math.nan if cell["std"] is None else cell["std"] for cell in cells]  # of one seed: no whisker
        axes.barh(places, mean, 0.4, xerr=std, capsize=2, label=measure.replace("_", " "))
    axes.set_yticks([-index for index in range(len(rows))], list(rows))
    axes.set(xlim=(0, 101), xlabel="% of episodes, ± std over training seeds")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _sample_efficiency(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Sample efficiency")
    axes.plot([p["episodes"] for p in points], [p["task_success"]["mean"] for p in points], "o-")
    axes.axhline(80, color="0.6", linestyle=":")
    axes.set(xscale="log", ylim=(0, 101), xlabel="episodes trained on", ylabel="task success, %")


def _open_loop(axes: Axes, errors: Mapping[str, Any]) -> None:
    axes.set_title("Open-loop prediction")
    for name, values in errors["latent"].items():
        axes.plot(errors["k"], values, "o-", label=name)
    axes.set(xscale="log", xlabel="k, latent steps ahead", ylabel="squared error / variance", ylim=(0, None))
    axes.legend()
