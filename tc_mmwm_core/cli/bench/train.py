"""tc-mmwm bench train."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import device

HELP = "training samples per second, where the time goes, and the speed-up over a plain loop over time steps"
EXAMPLES = """\
  tc-mmwm bench train --data data/navigation
  tc-mmwm bench train --config config/train/default.yaml --data data/navigation --device cuda --compile --bf16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm bench train``."""
    parser.add_argument("--config", type=Path, help="training configuration (default: the shipped navigation.yaml)")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="dataset folders")
    parser.add_argument(
        "--trajectories", type=int, default=200, help="trajectories to use of each dataset (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps to time (default: %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=8, help="steps to time against a plain loop (default: %(default)s)"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="override the config's")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="override the config's")
    parser.add_argument("--json", type=Path, help="write the numbers here, e.g. docs/results/bench_train.json")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    import torch

    from tc_mmwm_core.config import load
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.evaluation.speed.training_speed import measure
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.utils.results import write_results

    if args.threads:
        torch.set_num_threads(args.threads)
    config = load(args.config or resource("config", "train", "navigation.yaml"), TrainConfig)
    switches = {name: getattr(args, name) for name in ("bf16", "compile") if getattr(args, name) is not None}
    config = config.model_copy(update=switches)
    datasets = [Dataset.open(path).tell_skipped() for path in args.data]
    datasets = [dataset.subset(range(min(args.trajectories, len(dataset)))) for dataset in datasets]
    speed = measure(config, datasets, device=args.device, steps=args.steps, pairs=args.pairs, progress=not args.quiet)
    eager = speed["eager"]
    print(f"stage {speed['stage']}, {args.device}, {speed['threads']} threads, {speed['parameters']:,} parameters")
    print(f"{speed['samples_per_s']:.0f} samples/s (observations), {speed['windows_per_s']:.1f} windows/s")
    print("ms per step: " + ", ".join(f"{phase} {ms:.1f}" for phase, ms in speed["phases"].items()))
    print(f"waiting for data: {speed['wait_share']:.1%}")
    print(
        f"{speed['flops'] / 1e9:.2f} GFLOP per step: {speed['matrix_share']:.1%} of the machine's matrix rate, "
        f"{speed['matrix_flops_per_s'] / 1e9:.0f} GFLOP/s; {speed['encoding_share']:.0%} of it encoding and grounding"
    )
    print(
        f"plain loop over time steps: {eager['ms']:.1f} ms, batched {eager['batched_ms']:.1f} ms, {eager['ratio']:.2f} "
        f"times as fast; their losses differ by at most {eager['loss_difference']:.1e}"
    )
    if args.json:
        content = speed | {"device": args.device, "seed": config.seed, "config": config.model_dump(mode="json")}
        write_results(args.json, content)
    return 0
