"""What an evaluation comes to: a table to read, JSON to keep, a figure to look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tc_mmwm_core.evaluation import figures
from tc_mmwm_core.evaluation.closed_loop import Episode
from tc_mmwm_core.evaluation.long_horizon import curve
from tc_mmwm_core.evaluation.measures import FRACTIONS, Measure, cost, curves, measures
from tc_mmwm_core.evaluation.open_loop import HORIZONS, OpenLoop
from tc_mmwm_core.evaluation.suite import Contestant, Records, Suite
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.utils.results import write_results

# Of evaluation.json. 2: shares of candidates counted states without any, and the open-loop error at every k was that of
# the longest episodes alone. 1: probes without memory, states that broke the rule from the start counted, other
# intervals, and latency_p99_ms was the worst of the episodes' own.
SCHEMA = 3


@dataclass(frozen=True)
class Report:
    """One driver put through one suite."""

    driver: dict[str, Any]
    suite: dict[str, Any]
    measures: dict[str, Measure]
    cost: dict[str, float]
    curves: dict[str, Any]
    episodes: dict[str, list[dict[str, Any]]]

    def table(self) -> str:
        """A line for each measure, with its interval and what it rests on."""
        lines = [f"{'':34}   mean   95 % interval        of"]
        for name, value in self.measures.items():
            digits = 3 if name in FRACTIONS else 1
            mean = f"{value['mean']:.{digits}f}"
            interval = f"[{value['low']:.{digits}f}, {value['high']:.{digits}f}]" if "low" in value else ""
            lines.append(f"{name:34} {mean:>6}   {interval:16} {value['n_episodes']:6}")
        lines += [f"{name:34} {value:6.1f}" for name, value in self.cost.items()]
        if errors := self.curves.get("open_loop"):
            columns = "".join(f"{name:>9}" for name in (*errors["latent"], "windows"))
            lines.append(f"{'open-loop error, share of variance':34} {columns}")
            for k in (k for k in HORIZONS if k <= len(errors["latent"]["model"])):
                cells = "".join(f"{values[k - 1]:9.3f}" for values in errors["latent"].values())
                lines.append(f"  {f'k = {k}':32} {cells}{errors['windows'][k - 1]:>9}")
        return "\n".join(lines)


def report(contestant: Contestant, suite: Suite, records: Records, prediction: OpenLoop | None = None) -> Report:
    """Measure ``records``; ``prediction``: what there is to say of the error over k."""
    who: dict[str, Any] = {"domain": contestant.domain, "kind": contestant.kind}
    if contestant.learned:
        bundle = Bundle.load(contestant.bundle)
        who |= {"bundle": bundle.identity, "modalities": bundle.manifest.modalities, "threshold": records.threshold}
        who["planner"] = contestant.planner.model_dump(mode="json")
    if contestant.screens is not None:
        who["screens"] = contestant.screens
    return Report(
        driver=who,
        suite=suite.model_dump(mode="json"),
        measures=measures(records),
        cost=cost(records),
        curves=curves(records) | ({} if prediction is None else {"open_loop": curve(prediction)}),
        episodes={name: [_without_latencies(e) for e in episodes] for name, episodes in records.episodes.items()},
    )


def _without_latencies(episode: Episode) -> dict[str, Any]:
    """Thousands of numbers that ``cost`` sums up; the journal keeps them."""
    content = asdict(episode)
    del content["latencies"]
    return content


def write_report(found: Report, json: Path | None, figure: Path | None) -> None:
    """Write measures, curves and episodes as JSON, and the curves as PNG; each where a file is named for it."""
    if json is not None:
        write_results(json, {"schema": SCHEMA} | asdict(found))
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        title = f"{found.driver['domain']}: {found.driver.get('bundle', found.driver['kind'])}"
        figures.draw_evaluation(found.curves, found.driver.get("modalities", ()), title, figure)
