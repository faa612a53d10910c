"""What `tc-mmwm prove` asks of a set of trained runs: each answer a mean and its spread over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.evaluation.intervals import paired
from tc_mmwm_core.evaluation.open_loop import HORIZONS, OpenLoop, open_loop
from tc_mmwm_core.evaluation.proofs.constraint import calibrated, discrimination
from tc_mmwm_core.evaluation.proofs.interventions import foretold
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.ablation import Row, run_folder
from tc_mmwm_core.training.calibration import CalibrationError
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.held_out import sequence_scores
from tc_mmwm_core.training.weights import load_run

COMPARED = ("model", "copy", "linear")


@dataclass(frozen=True)
class Bound:
    """The bound asked for: at most ``alpha`` missed, with confidence 1 − ``delta``."""

    alpha: float = 0.05
    delta: float = 0.05


@dataclass(frozen=True)
class Trained:
    """A model by the name of its variant."""

    name: str
    config: TrainConfig
    model: WorldModel


def trained(rows: Sequence[Row], output: Path, interface: RobotInterface) -> Iterator[Trained]:
    """The models of runs under ``output``, one after the other."""
    for row in rows:
        yield Trained(row.ablation, *load_run(run_folder(output, row.ablation, row.seed), interface))


def constraint_rows(
    models: Iterable[Trained], data: LabelledData, domain: Domain, asked: Bound, progress: bool = True
) -> list[Row]:
    """AUROC of violating sequences, in all and by rule, and verdicts at a threshold calibrated on half of ``data``."""
    found = []
    for each in models:
        scores = sequence_scores(each.model, data.under(each.config), progress=progress)
        measures = {f"auroc_{name}": value for name, value in discrimination(scores, domain).items()}
        try:
            measures |= calibrated(scores, asked.alpha, asked.delta, share=0.5, seed=each.config.seed)
        except CalibrationError as error:  # a model may be too poor for any threshold
            print(f"{each.name}, seed {each.config.seed}: {error}")
        found.append(Row(each.name, each.config.seed, measures))
    return found


def intervention_rows(
    models: Iterable[Trained], alternatives: LabelledData, fitted: LabelledData, long: LabelledData, steps: int
) -> tuple[list[Row], dict[str, list[OpenLoop]]]:
    """Measures of :func:`foretold`, and of :func:`open_loop` at some k; and the whole curves by variant."""
    found: list[Row] = []
    curves: dict[str, list[OpenLoop]] = {}
    for each in models:
        measures = foretold(each.model, alternatives.under(each.config))
        errors = open_loop(each.model, fitted.under(each.config), long.under(each.config), steps)
        for k in (k for k in HORIZONS if k <= steps):
            measures |= {f"latent_{name}_{k}": float(errors.latent[name][k - 1]) for name in COMPARED}
        curves.setdefault(each.name, []).append(errors)
        found.append(Row(each.name, each.config.seed, measures))
    return found, curves


def open_loop_results(curves: Mapping[str, Sequence[OpenLoop]]) -> dict[str, Any]:
    """Means over the seeds of latent and state errors at k = 1..K, by variant and predictor."""

    def mean(values: Iterable[np.ndarray]) -> list:
        return np.round(np.mean(list(values), 0), 5).tolist()

    first = next(iter(curves.values()))[0]
    return {
        "windows": first.windows.tolist(),
        "state": first.columns,
        "variants": {
            variant: {
                "latent": {name: mean(one.latent[name] for one in each) for name in first.latent if name != "encoder"},
                "state_rmse": {name: mean(one.state[name] for one in each) for name in first.state},
            }
            for variant, each in curves.items()
        },
    }


def over_training(records: Iterable[Mapping[str, Any]], measures: Sequence[str]) -> list[dict[str, Any]]:
    """``step`` and ``measures`` of each validation among the records of a run's metrics.jsonl."""
    validated = [record for record in records if f"valid/{measures[0]}" in record]
    return [{"step": record["step"]} | {name: record.get(f"valid/{name}") for name in measures} for record in validated]


def gains(rows: Sequence[Row], measure: str, higher_is_better: bool, full: str) -> dict[str, dict[str, Any]]:
    """What each variant's missing part gains the ``full`` one in ``measure``, positive where it is better with it.

    Over the seeds that both were trained under, seed by seed: the mean difference and Student's 95 % interval of it. It
    "pays" where the interval lies above 0, "costs" where below, and makes "no clear difference" else; from one seed
    alone nothing is clear.
    """
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        values.setdefault(row.ablation, {})[row.seed] = row.measures.get(measure, np.nan)
    found = {}
    for name in (name for name in values if name != full):
        better, worse = (values[full], values[name]) if higher_is_better else (values[name], values[full])
        gain = paired(better, worse)
        said = "pays" if gain["low"] > 0 else "costs" if gain["high"] < 0 else "no clear difference"
        found[name] = {"gain": gain.pop("mean"), **gain, "verdict": said}
    return found
