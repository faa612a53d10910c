"""tc-mmwm bench resume."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "prove that a training run killed at random moments ends with the weights of an uninterrupted one, bit for bit"
EXAMPLES = """\
  tc-mmwm bench resume --data data/navigation --json docs/results/resume.json
  tc-mmwm bench resume --data data/navigation --kills 3 --steps 12
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm bench resume``."""
    parser.add_argument("--config", type=Path, help="training configuration (default: the shipped navigation.yaml)")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="dataset folders")
    parser.add_argument(
        "--kills", type=int, default=10, help="how often to kill it, at random moments (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each stage (default: %(default)s)")
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=0.5,
        help="longest time between checkpoints, s (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="keep both runs here (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the findings here")


def run(args: argparse.Namespace) -> int:
    """Train, kill, compare; exit code 1 where a single bit differs."""
    import tempfile

    from tc_mmwm_core.config import load
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.evaluation.speed.resume import prove
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.training.curriculum import shortened
    from tc_mmwm_core.training.data import split
    from tc_mmwm_core.utils.results import write_results

    config = load(args.config or resource("config", "train", "navigation.yaml"), TrainConfig)
    trained_on = sum(len(split(Dataset.open(path).tell_skipped(), config.data.holdout)[0]) for path in args.data)
    stages = tuple(shortened(stage, args.steps, trained_on) for stage in config.stages)
    config = config.model_copy(update={"stages": stages, "checkpoint_seconds": args.checkpoint_seconds})
    with tempfile.TemporaryDirectory() as temporary:
        found = prove(config, args.data, args.output or Path(temporary), args.kills, args.seed)
    for number, kill in enumerate(found["kills"], start=1):
        after = "after its end" if kill["had_ended"] else f"after step {kill['step']} of {found['steps']}"
        print(f"kill {number}: {after}, {kill['lived_s']:.1f} s old")
    differing = found["differing"]
    verdict = f"{len(differing)} DIFFER: {', '.join(differing[:5])}" if differing else "bitwise equal"
    print(f"{found['tensors']} tensors of model and average: {verdict}")
    print(f"sha256 unbroken {found['sha256']['unbroken']}\nsha256 killed   {found['sha256']['killed']}")
    if args.json:
        write_results(args.json, found | {"seed": args.seed, "config": config.model_dump(mode="json")})
    return 0 if found["bitwise_equal"] else 1
