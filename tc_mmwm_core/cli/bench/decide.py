"""tc-mmwm bench decide."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "milliseconds per decision, and where they go"
EXAMPLES = """\
  tc-mmwm bench decide --bundle bundles/navigation
  tc-mmwm bench decide --bundle k5 k10 --candidates 64 256 1024 --threads 1 2 --json decide.json
  tc-mmwm bench decide --bundle bundles/navigation --refinement mppi --provider cuda
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm bench decide``."""
    parser.add_argument(
        "--bundle", type=Path, nargs="+", required=True, help="model bundles; each has its own horizon K"
    )
    parser.add_argument(
        "--candidates",
        type=int,
        nargs="+",
        default=[64, 256, 1024],
        help="numbers N of candidates to try (default: 64 256 1024)",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads to try (default: 1)")
    parser.add_argument("--provider", default="cpu", help="cpu, cuda or tensorrt (default: %(default)s)")
    parser.add_argument(
        "--refinement",
        choices=["none", "mppi", "cem"],
        default="none",
        help="how candidates are refined (default: %(default)s)",
    )
    parser.add_argument("--iterations", type=int, default=1, help="rounds of refinement (default: %(default)s)")
    parser.add_argument("--decisions", type=int, default=200, help="decisions to time per row (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")


def run(args: argparse.Namespace) -> int:
    """Measure every combination and print one row each."""
    import os

    from tc_mmwm_core.evaluation.speed.decision_speed import PHASES, measure
    from tc_mmwm_core.runtime.bundle import Bundle

    bundles = [Bundle.load(path) for path in args.bundle]
    columns = ["bundle", "threads", "N", "K", "p50", "p99", *PHASES, "floor", "x floor", "MB"]
    print("ms per decision; floor: time of the same FLOPs as plain float32 matrix products; MB: peak memory")
    print(("{:<28}" + "{:>9}" * (len(columns) - 1)).format(*columns))
    rows = []
    for bundle in bundles:
        for threads in args.threads:
            for candidates in args.candidates:
                refinement = {"method": args.refinement, "iterations": args.iterations}
                speed = measure(bundle, candidates, args.provider, threads, refinement, args.decisions)
                rows.append(speed)
                numbers = [speed["p50"], speed["p99"], *(speed["phases"][phase] for phase in PHASES)]
                cells = [f"{number:>9.2f}" for number in [*numbers, speed["floor"], speed["ratio"], speed["memory"]]]
                head = f"{bundle.identity[-28:]:<28}{threads:>9}{candidates:>9}{bundle.manifest.horizon:>9}"
                print(head + "".join(cells), flush=True)
    if args.json:
        # Imports the training framework: only now, or it would count as memory of the decisions.
        from tc_mmwm_core.utils.results import write_results

        names = ("candidates", "threads", "provider", "refinement", "iterations", "decisions")
        config = {name: getattr(args, name) for name in names}
        bundles = [bundle.identity for bundle in bundles]
        write_results(args.json, {"bundles": bundles, "config": config, "cores": os.cpu_count(), "rows": rows})
    return 0
