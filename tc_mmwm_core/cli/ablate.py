"""tc-mmwm ablate."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import device

HELP = "train with one thing switched off at a time, and print what held-out data say of each"
EXAMPLES = """\
  tc-mmwm ablate --config config/train/navigation.yaml --data data/navigation --output runs/ablate
  tc-mmwm ablate --config config/train/navigation.yaml --data data/navigation --output runs/ablate --seeds 0 1 2 \\
    --switch sigreg=off --switch language=off --switch objective.counterfactuals=8 --json docs/results/ablate.json
  tc-mmwm ablate ... --steps 50                         (a quick look: at most 50 optimizer steps per stage)
"""
MEASURES = (
    "loss",
    "violation_auroc",
    "progress_correlation",
    "progress_correlation_shuffled",
    "referring_error",
    "prediction_ratio",
    "effective_rank_fused",
    "sigreg_fused",
    "probe_r2_fused",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm ablate``."""
    parser.add_argument("--config", type=Path, required=True, help="YAML of the full training")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="dataset folders")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder with one run folder per ablation and seed; finished runs are skipped",
    )
    parser.add_argument("--ablations", type=Path, help="YAML of switches (default: the shipped ablate/default.yaml)")
    parser.add_argument(
        "--switch",
        action="append",
        metavar="NAME=off",
        help="a switch by name, or dotted.key=value of the configuration; may be repeated (default: all switches)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds (default: 0)")
    parser.add_argument("--steps", type=int, help="limit each stage to this many optimizer steps, for a quick look")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--json", type=Path, help="write the measures here")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Train what is not yet trained, and print the table."""
    import dataclasses

    import torch

    from tc_mmwm_core.config import load
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.training.ablation import Switches, ablations, run_ablations, table
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.training.curriculum import shortened
    from tc_mmwm_core.training.data import split
    from tc_mmwm_core.utils.results import write_results

    if args.threads:
        torch.set_num_threads(args.threads)
    base = load(args.config, TrainConfig)
    datasets = [Dataset.open(path).tell_skipped() for path in args.data]
    if args.steps:
        trained_on = sum(len(split(dataset, base.data.holdout, datasets)[0]) for dataset in datasets)
        stages = tuple(shortened(stage, args.steps, trained_on) for stage in base.stages)
        base = base.model_copy(update={"stages": stages})
    file = args.ablations or resource("config", "ablate", "default.yaml")
    configs = ablations(base, load(file, Switches), args.switch, str(file))
    rows = run_ablations(configs, args.seeds, datasets, args.output, args.device, progress=not args.quiet)
    print("loss and prediction_ratio are comparable only between runs with the same terms and weights\n")
    print(table(rows, MEASURES))
    if args.json:
        content = {
            "data": [dataset.digest for dataset in datasets],
            "config": base.model_dump(mode="json"),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_results(args.json, content)
    return 0
