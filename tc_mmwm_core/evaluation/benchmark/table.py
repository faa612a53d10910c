"""The benchmark's table: means over seeds beside the published claims, what the full model is ahead of, the curves.

It holds what it was made from, so that it grows: on other machines, and where the folder of earlier jobs is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.evaluation.benchmark.plan import Job
from tc_mmwm_core.evaluation.benchmark.run import EVALUATION, Benchmark
from tc_mmwm_core.evaluation.intervals import difference, paired, student
from tc_mmwm_core.evaluation.measures import FRACTIONS
from tc_mmwm_core.evaluation.open_loop import HORIZONS
from tc_mmwm_core.evaluation.suite import HOME
from tc_mmwm_core.training.ablation import FULL

# measure: (what was published for this model, what is to be reached)
CLAIMS: dict[str, tuple[float | None, str]] = {
    "task_success": (92.4, "≥ 95"),
    "constraint_compliance": (94.1, "≥ 98"),
    "ood_retention": (88.7, "≥ 90"),
    "robustness_drop": (4.2, "≤ 4"),
    "language_truth": (None, "≥ 95"),
    "counterfactual_rank_correlation": (None, "≥ 0.9"),
}
RETAINED, DROPPED, COMPLIED = "retention.", "drop.", "compliance."  # measures by factor and by perturbation
RETAINED_GOAL = "≥ 75"
EPISODES_TO_80 = 50  # published
ONE_SEED = "one seed: no verdict"
UNDECIDED: dict[str, Any] = {"points_ahead": None, "low": None, "high": None, "n_seeds": 0, "n_episodes": 0}
NOT_COMPARED = UNDECIDED | {"verdict": "measured under other settings: not compared"}
LEAST_SEEDS = 3  # that an interval over training seeds is given of
COSTS = ("latency_p50_ms", "latency_p99_ms", "training_minutes")
VARIANT_COLUMNS = (
    "task_success",
    "constraint_compliance",
    "ood_retention",
    "robustness_drop",
    "language_truth",
    "counterfactual_rank_correlation",
)

Summary = dict[str, float | int | None]
Evaluation = Mapping[str, Any]  # what a table keeps of an evaluation.json: see condensed


def collate(benchmark: Benchmark, earlier: Mapping[str, Evaluation] | None = None) -> dict[str, Any]:
    """Everything that is evaluated so far, as ``docs/results/benchmark.json`` holds it.

    ``{domain: {measure: {mean, std, n_seeds, n_episodes}}}`` of the full model. Beside it, by domain: ``intervals`` of
    these means over the seeds; ``variants``, the same measures of every other; ``comparisons`` of their success with
    the full model's; ``sample_efficiency``; ``open_loop``; ``cost``. ``jobs``: how many are done, which of them under
    other settings than the plan's, which of those are ``left_out`` of all the above because the plan has others of that
    variant under its own settings, and which are of no job of this plan: kept, but in none of the above either.
    ``evaluations``: what all of this is made from, by job. Compared is only what has the plan's settings.

    Args:
        earlier: what :func:`read_evaluations` gave, for jobs that the folder has not done.
    """
    plan = benchmark.plan
    done = {str(job.folder): _evaluation(benchmark, job) for job in plan.jobs if benchmark.done(job)}
    evaluations = dict(earlier or {}) | done
    found = {job: evaluations[str(job.folder)] for job in plan.jobs if str(job.folder) in evaluations}
    other = [job for job, result in found.items() if result["settings"] != plan.settings(job)]
    own = {(job.domain, job.name) for job in found if job not in other}
    left_out = [job for job in other if (job.domain, job.name) in own]
    content: dict[str, Any] = {}
    for domain in plan.config.domains:
        by_name: dict[str, dict[int, Evaluation]] = {}
        for job, result in found.items():
            if job.domain == domain and job not in left_out:
                by_name.setdefault(job.name, {})[job.seed] = result
        sizes = {job.name: job.size for job in plan.jobs if job.domain == domain and job.size is not None}
        seeded = by_name.get(FULL, {})
        full = list(seeded.values())
        others = {name: rows for name, rows in by_name.items() if name != FULL and name not in sizes}
        parts: dict[str, Any] = {"variants": {name: summarise(list(rows.values())) for name, rows in others.items()}}
        if full:
            content[domain] = summarise(full)
            parts["intervals"] = intervals(full)
            parts["comparisons"] = {
                name: compare(seeded, rows, plan.config.variants[name].trained)
                if {(domain, FULL), (domain, name)} <= own
                else NOT_COMPARED
                for name, rows in others.items()
            }
            parts["open_loop"] = open_loop(full)
            parts["cost"] = _cost(full)
        curve = {sizes[name]: list(rows.values()) for name, rows in by_name.items() if name in sizes}
        if curve:
            whole = {plan.config.domains[domain].episodes: full} if full else {}
            parts["sample_efficiency"] = sample_efficiency(curve | whole)
        for name, part in parts.items():
            if part:
                content.setdefault(name, {})[domain] = part
    planned = {str(job.folder): result for job, result in found.items()}
    more = {name: result for name, result in evaluations.items() if name not in planned}
    jobs = {
        "done": len(found),
        "planned": len(plan.jobs),
        "other_settings": list(map(str, other)),
        "left_out": list(map(str, left_out)),
        "other_plans": list(more),
    }
    return content | {"jobs": jobs, "evaluations": planned | more}


def starred(content: Mapping[str, Any], domain: str, name: str) -> str:
    """``name`` of a variant, with a star where what is shown of it was measured under other settings."""
    shown = set(content["jobs"]["other_settings"]) - set(content["jobs"]["left_out"])
    return name + "*" * any(job.startswith(f"{domain}, {name}, ") for job in shown)


def condensed(result: Mapping[str, Any], training_minutes: float | None) -> dict[str, Any]:
    """What a table keeps of ``result``, the content of an evaluation.json.

    Its measures and costs, what became of each layout in distribution, the open-loop errors, and the settings (see
    :meth:`Plan.settings`), revision and bundle that they are of.
    """
    home = result["episodes"][HOME]
    won = [episode["seed"] for episode in home if episode["success"]]
    lost = [episode["seed"] for episode in home if not episode["success"]]
    curves = result["curves"]
    return {
        "settings": result["driver"].get("settings"),
        "revision": result["environment"]["git"],
        "bundle": result["driver"].get("bundle"),
        "measures": result["measures"],
        "layouts": {"succeeded": won, "failed": lost},
        "open_loop": _at_horizons(curves["open_loop"]) if "open_loop" in curves else None,
        "cost": result["cost"] | {"training_minutes": training_minutes},
    }


def read_evaluations(file: Path) -> dict[str, Evaluation]:
    """What the table in ``file`` was made from, by the folder of each job; nothing if there is no such file.

    Raises:
        ConfigError: ``file`` is something else, or of a version that did not keep them.
    """
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if "evaluations" not in content:
        raise ConfigError(f"{file}: no table to go on with: it has no 'evaluations'; choose another file or remove it")
    return content["evaluations"]


def summarise(results: Sequence[Evaluation]) -> dict[str, Summary]:
    """Mean and standard deviation over the seeds of every measure; ``n_episodes`` of all seeds together."""
    return {name: _over_seeds([r["measures"][name] for r in rows]) for name, rows in _having(results).items()}


def intervals(results: Sequence[Evaluation]) -> dict[str, tuple[float, float]]:
    """95 % interval of the mean over the training seeds, of every measure that three seeds have.

    Student's of two is some nine standard deviations wide, and says nothing.
    """
    found = {name: _known([r["measures"][name] for r in rows]) for name, rows in _having(results).items()}
    return {name: student(values) for name, values in found.items() if len(values) >= LEAST_SEEDS}


def compare(full: Mapping[int, Evaluation], other: Mapping[int, Evaluation], trained: bool = True) -> dict[str, Any]:
    """Points of task success that the full model is ahead of another, in the layouts that all of them drove.

    Both by training seed, compared seed by seed; a driver that is not ``trained`` stands beside every seed of the full
    model. The interval is the wider of Student's over the seeds and that over the layouts. From one seed there is none,
    and no verdict: what a training owes to its seed cannot be told from what it owes to its variant.
    """
    seeds = [seed for seed in full if seed in other or not trained]
    mine = {seed: _success_by_layout(full[seed]) for seed in seeds}
    theirs = {seed: _success_by_layout(other[seed] if trained else next(iter(other.values()))) for seed in seeds}
    layouts = sorted(set.intersection(*map(set, (*mine.values(), *theirs.values())))) if seeds else []
    found = UNDECIDED | {"n_seeds": len(seeds), "n_episodes": len(layouts)}
    if not layouts:
        return found | {"verdict": f"no {'layout' if seeds else 'seed'} in common"}
    a, b = (np.array([[rows[seed][layout] for layout in layouts] for seed in seeds], float) for rows in (mine, theirs))
    rates = (dict(zip(seeds, (100 * each.mean(1)).tolist(), strict=True)) for each in (a, b))
    over_seeds, over_layouts = paired(*rates), difference((a - b).mean(0))
    found["points_ahead"] = over_seeds["mean"]
    if len(seeds) < 2:
        return found | {"verdict": ONE_SEED}
    low, high = min(over_seeds["low"], over_layouts["low"]), max(over_seeds["high"], over_layouts["high"])
    verdict = "full model better" if low > 0 else "full model worse" if high < 0 else "no clear difference"
    return found | {"low": low, "high": high, "verdict": verdict}


def sample_efficiency(curve: Mapping[int, Sequence[Evaluation]]) -> dict[str, Any]:
    """Success by the number of episodes trained on, and the least of these numbers that gives 80 %."""
    rows = {size: _over_seeds([r["measures"]["task_success"] for r in curve[size]]) for size in sorted(curve)}
    enough = [size for size, row in rows.items() if row["mean"] is not None and row["mean"] >= 80]
    return {
        "curve": [{"episodes": size, "task_success": row} for size, row in rows.items()],
        "episodes_to_80_percent": min(enough, default=None),
    }


def open_loop(results: Sequence[Evaluation]) -> dict[str, Any]:
    """Error of prediction over the variance of the latents, mean over the seeds, at some k and by predictor.

    ``windows``: how many each k was measured on, under the seed that has the fewest.
    """
    curves = [result["open_loop"] for result in results if result["open_loop"]]
    if not curves:
        return {}
    steps = min((curve["k"] for curve in curves), key=len)
    errors = [curve["latent"] for curve in curves]
    means = {name: [float(np.mean([e[name][i] for e in errors])) for i in range(len(steps))] for name in errors[0]}
    found = {"k": steps, "latent": means}
    if all("windows" in curve for curve in curves):  # a table of an earlier version does not tell
        found["windows"] = [min(curve["windows"][i] for curve in curves) for i in range(len(steps))]
    return found


def render(content: Mapping[str, Any], domains: Iterable[str]) -> str:
    """The table to read."""
    domains = [domain for domain in domains if domain in content]
    lines = [f"{'':34}{'published':>10}{'to reach':>10}" + "".join(f"{domain:>24}" for domain in domains)]

    def line(name: str, published: str, goal: str, cells: Iterable[str]) -> None:
        lines.append(f"{name:34}{published:>10}{goal:>10}" + "".join(f"{cell:>24}" for cell in cells))

    for name, (published, goal) in CLAIMS.items():
        claim = "none" if published is None else f"{published:g}"
        line(name, claim, goal, [_cell(name, content[domain].get(name)) for domain in domains])
    curves = content.get("sample_efficiency", {})
    line("episodes to 80 %", str(EPISODES_TO_80), "", [_episodes_to_80(curves.get(domain)) for domain in domains])
    parts = dict.fromkeys(n for d in domains for n in content[d] if n.startswith((RETAINED, DROPPED, COMPLIED)))
    for name in parts:
        goal = RETAINED_GOAL if name.startswith(RETAINED) else ""
        line(f"  {name}", "", goal, [_cell(name, content[domain].get(name)) for domain in domains])
    for domain in domains:
        lines += ["", *_variants(content, domain)]
    for domain, errors in content.get("open_loop", {}).items():
        lines += ["", f"{domain}: open-loop error, share of variance, at k = {', '.join(map(str, errors['k']))}"]
        lines += [f"  {name:10}" + "".join(f"{v:9.3f}" for v in row) for name, row in errors["latent"].items()]
        if "windows" in errors:
            lines.append(f"  {'windows':10}" + "".join(f"{n:9}" for n in errors["windows"]))
    for domain in curves:
        points = [f"{p['episodes']}: {_cell('task_success', p['task_success'])}" for p in curves[domain]["curve"]]
        lines += ["", f"{domain}: success by episodes trained on: {', '.join(points)}"]
    for domain, cost in content.get("cost", {}).items():
        told = ", ".join(f"{name.replace('_', ' ')} {_cell('', row)}" for name, row in cost.items())
        lines += ["", f"{domain}: {told}"]
    left_out = content["jobs"]["left_out"]
    if other := [job for job in content["jobs"]["other_settings"] if job not in left_out]:
        lines += ["", f"* measured under other settings than this plan's: {'; '.join(other)}"]
    if left_out:
        lines += ["", f"measured under other settings than this plan's, and left out: {'; '.join(left_out)}"]
    if other := content["jobs"]["other_plans"]:
        lines += ["", f"kept, but of no job of this plan: {', '.join(other)}"]
    return "\n".join(lines)


def _variants(content: Mapping[str, Any], domain: str) -> list[str]:
    head = f"{domain:20}" + "".join(f"{name.split('_')[-1]:>16}" for name in VARIANT_COLUMNS)
    lines = [f"{head}   full model ahead by"]
    ahead = content.get("comparisons", {}).get(domain, {})
    for name, row in {FULL: content[domain], **content.get("variants", {}).get(domain, {})}.items():
        line = f"{starred(content, domain, name):20}" + "".join(
            f"{_cell(column, row.get(column)):>16}" for column in VARIANT_COLUMNS
        )
        if name in ahead and ahead[name]["n_episodes"]:
            one = ahead[name]
            interval = "" if one["low"] is None else f" [{one['low']:+.1f}, {one['high']:+.1f}]"
            line += f"   {one['points_ahead']:+.1f}{interval}, {one['verdict']}"
        lines.append(line)
    return lines


def _cell(name: str, row: Summary | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    digits = 3 if name in FRACTIONS else 1
    spread = f" ± {row['std']:.{digits}f}" if row["std"] is not None else ""
    return f"{row['mean']:.{digits}f}{spread}"


def _episodes_to_80(curve: Mapping[str, Any] | None) -> str:
    if curve is None:
        return "-"
    enough = curve["episodes_to_80_percent"]
    return str(enough) if enough is not None else f"> {curve['curve'][-1]['episodes']}"


def _evaluation(benchmark: Benchmark, job: Job) -> Evaluation:
    result = json.loads((benchmark.folder / job.folder / EVALUATION).read_text(encoding="utf-8"))
    trained = benchmark.plan.config.variants[job.variant].trained
    seconds = benchmark.training_seconds(job) if trained else None
    return condensed(result, None if seconds is None else seconds / 60)


def _at_horizons(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Of errors 1, 2, ... steps ahead by predictor, those at :data:`HORIZONS` that they reach, and their windows."""
    steps = [k for k in HORIZONS if k <= len(errors["windows"])]
    latent = {name: [values[k - 1] for k in steps] for name, values in errors["latent"].items()}
    return {"k": steps, "latent": latent, "windows": [errors["windows"][k - 1] for k in steps]}


def _cost(full: Sequence[Evaluation]) -> dict[str, Summary]:
    """Of the full model: ms per decision while driving, and minutes of one training; what is not known is left out."""
    columns = {name: [r["cost"][name] for r in full if r["cost"].get(name) is not None] for name in COSTS}
    return {name: _summary(values) for name, values in columns.items() if values}


def _having(results: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """The results that have each measure."""
    names = dict.fromkeys(name for result in results for name in result["measures"])
    return {name: [result for result in results if name in result["measures"]] for name in names}


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> Summary:
    return _summary(_known(rows)) | {"n_episodes": sum(row["n_episodes"] for row in rows)}


def _known(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["mean"] for row in rows if row["mean"] is not None]


def _summary(values: Sequence[float]) -> Summary:
    return {
        "mean": float(np.mean(values)) if values else None,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "n_seeds": len(values),
    }


def _success_by_layout(result: Evaluation) -> dict[int, bool]:
    """Whether each layout in distribution ended in success."""
    ended = result["layouts"]
    return dict.fromkeys(ended["succeeded"], True) | dict.fromkeys(ended["failed"], False)
