"""The figure of an evaluation: success, compliance by rule, contributions, error over k, ROC, errors of screening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# matplotlib: the standard for figures; the object interface, so that no window system is asked for.
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tc_mmwm_core.evaluation.pictures import save


def draw_evaluation(curves: Mapping[str, Any], modalities: Sequence[str], title: str, file: Path) -> None:
    """Write the curves of :mod:`tc_mmwm_core.evaluation.measures` as one PNG; a curve that is not there is left out."""
    panels = [
        (_success_within, curves.get("success_within_steps")),
        (_success_by_distance, curves.get("success_by_distance")),
        (_compliance, curves.get("compliance_by_rule")),
        (lambda axes, rows: _contributions(axes, rows, modalities), _present(curves.get("contributions_by_phase"))),
        (_open_loop, curves.get("open_loop")),
        (lambda axes, roc: _roc(axes, roc, curves["calibrated_point"]), curves.get("roc")),
        (_errors_by_margin, curves.get("errors_by_margin")),
        (_errors_by_rule, curves.get("errors_by_rule")),
    ]
    shown = [(draw, content) for draw, content in panels if content]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (draw, content) in zip(grid, shown, strict=False):
        draw(axes, content)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    save(figure, file)


def _success_within(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    steps, percent = zip(*points, strict=True)
    axes.step([0, *steps], [0, *percent], where="post")
    axes.set(xlabel="control steps allowed", ylabel="task success, %", ylim=(0, 101), title="Success over horizon")


def _success_by_distance(axes: Axes, groups: Sequence[Mapping[str, float]]) -> None:
    middle = [(group["nearest"] + group["farthest"]) / 2 for group in groups]
    _with_intervals(axes, middle, groups)
    axes.set(xlabel="cost to go at the start", ylabel="task success, %", ylim=(0, 101), title="Success by distance")


def _compliance(axes: Axes, rules: Mapping[str, Mapping[str, float]]) -> None:
    names = list(rules)
    low, high = ([abs(row[end] - row["mean"]) for row in rules.values()] for end in ("low", "high"))
    axes.barh(names, [row["mean"] for row in rules.values()], xerr=(low, high), color="0.75", capsize=3)
    axes.set(xlim=(0, 101), xlabel="episodes that kept it, %", title="Compliance by rule")
    axes.tick_params(axis="y", labelsize=7)


def _contributions(axes: Axes, phases: Sequence[Sequence[float] | None], modalities: Sequence[str]) -> None:
    seen = [(i, row) for i, row in enumerate(phases) if row is not None]
    width = 100 / len(phases)
    for index, name in enumerate(modalities):
        axes.plot([(i + 0.5) * width for i, _ in seen], [row[index] for _, row in seen], "o-", label=name)
    axes.set(xlim=(0, 100), ylim=(0, 1), xlabel="way to the goal done, %", ylabel="weight in z", title="Contributions")
    axes.legend()


def _roc(axes: Axes, roc: Mapping[str, Sequence[float]], point: Mapping[str, float]) -> None:
    axes.plot(roc["false_alarm_rate"], roc["hit_rate"], drawstyle="steps-post")
    axes.plot([point["false_alarm_rate"]], [point["hit_rate"]], "o", label=f"τ = {point['threshold']:.3f}")
    axes.set(xlim=(-1, 101), ylim=(0, 101), title="Violations predicted, replayed candidates")
    axes.set(xlabel="complying sequences rejected, %", ylabel="violating sequences rejected, %")
    axes.legend(loc="lower right")


def _errors_by_margin(axes: Axes, ranges: Sequence[Mapping[str, float]]) -> None:
    names = [f"{row['from']:g} to {row['to']:g}".replace("-inf to", "under").replace(" to inf", "+") for row in ranges]
    bars = axes.bar(names, [row["wrong"] for row in ranges], color=["C1" if row["to"] <= 0 else "C0" for row in ranges])
    axes.bar_label(bars, [f"{row['n']:.0f}" for row in ranges], fontsize=6)
    axes.set(xlabel="largest margin on the way (> 0: violates)", ylabel="judged wrong, %", title="Screening by margin")
    axes.tick_params(axis="x", rotation=60, labelsize=7)


def _errors_by_rule(axes: Axes, rules: Mapping[str, Mapping[str, int]]) -> None:
    kinds = ((0.2, "missed", "violating", "violating accepted"), (-0.2, "rejected", "complying", "complying rejected"))
    for offset, part, whole, label in kinds:
        shares = [100 * row[part] / row[whole] if row[whole] else 0 for row in rules.values()]
        places = [offset - index for index in range(len(rules))]
        axes.barh(places, shares, 0.4, label=label)
    axes.set_yticks([-index for index in range(len(rules))], list(rules), fontsize=7)
    axes.set(xlabel="candidates, %", title="Screening errors by rule")
    axes.legend(fontsize=7)


def _open_loop(axes: Axes, errors: Mapping[str, Any]) -> None:
    for name, values in errors["latent"].items():
        axes.plot(range(1, len(values) + 1), values, label=name)
    axes.set(xlabel="k, latent steps ahead", ylabel="squared error / variance", ylim=(0, None))
    axes.set_title("Open-loop prediction")
    axes.legend()


def _with_intervals(axes: Axes, x: Sequence[float], rows: Sequence[Mapping[str, float]]) -> None:
    mean = [row["mean"] for row in rows]
    below, above = ([abs(row[end] - row["mean"]) for row in rows] for end in ("low", "high"))
    axes.errorbar(x, mean, yerr=(below, above), fmt="o-", capsize=3)


def _present(phases: Sequence[object | None] | None) -> Sequence[object | None] | None:
    return phases if phases and any(row is not None for row in phases) else None
