"""How well and how fast the closed loop drives in fresh layouts, with every node a process of its own over DDS.

ros2 run tc_mmwm_ros bench_loop --help
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from tc_mmwm_core.domains.navigation import instructions
from tc_mmwm_core.resources import ResourceError, resource
from tc_mmwm_core.runtime.bundle import Bundle, BundleError
from tc_mmwm_ros.loop import EpisodeRecord, Loop, find_layouts, in_own_domain

FIRST_LAYOUT = 700_000  # beyond all training data and the demo
EXAMPLES = """\
examples:
  ros2 run tc_mmwm_ros bench_loop
  ros2 run tc_mmwm_ros bench_loop --episodes 10 --instruction "go to the red pad, keep out of the orange area"
  ros2 run tc_mmwm_ros bench_loop --json docs/results/closed_loop.json
"""


@dataclass(frozen=True)
class Summary:
    """Figures over all episodes; latencies rest on each episode's own percentiles (over its last 200 decisions)."""

    episodes: int
    reached: float  # share
    kept_every_rule: float  # share
    success: float  # share: both
    decisions_per_second_least: float
    decisions_per_second_median: float
    p50_ms_median: float
    p99_ms_worst: float
    deadline_misses: int
    candidates: int
    rejected: float  # share of candidates

    @staticmethod
    def of(records: Sequence[EpisodeRecord]) -> Summary:
        """Summarise at least one episode."""
        rates = [record.decisions_per_second for record in records]
        return Summary(
            episodes=len(records),
            reached=float(np.mean([record.reached for record in records])),
            kept_every_rule=float(np.mean([not record.violations for record in records])),
            success=float(np.mean([record.success for record in records])),
            decisions_per_second_least=min(rates),
            decisions_per_second_median=float(np.median(rates)),
            p50_ms_median=float(np.median([record.p50_ms for record in records])),
            p99_ms_worst=max(record.p99_ms for record in records),
            deadline_misses=sum(record.deadline_misses for record in records),
            candidates=min(record.candidates for record in records),
            rejected=float(np.mean([record.rejected for record in records])),
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="ros2 run tc_mmwm_ros bench_loop",
        description="Drive fresh layouts in closed loop, with robot, planner and recorder as processes over DDS.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--episodes", type=int, default=50, help="number of layouts to drive in (default: %(default)s)")
    parser.add_argument(
        "--instruction", default="", help="the same in every layout (default: another is drawn for each)"
    )
    parser.add_argument("--bundle", type=Path, help="model bundle (default: the shipped one)")
    parser.add_argument(
        "--seed", type=int, default=FIRST_LAYOUT, help="seed of the first layout to consider (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write figures and episodes to this file")
    args = parser.parse_args(arguments)
    if args.episodes < 1:
        parser.error(f"--episodes {args.episodes}: at least 1")
    try:
        if args.instruction:
            instructions.parse(args.instruction)
        args.bundle = args.bundle or resource("bundles", "navigation")
        args.identity = Bundle.load(args.bundle).identity
    except (ValueError, BundleError, ResourceError) as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit codes of :func:`in_own_domain`."""
    args = parse_arguments(arguments)
    return in_own_domain("bench_loop", lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    """One episode per layout; prints each as it ends, then the figures."""
    if args.instruction:
        seeds = find_layouts(args.episodes, args.seed, [args.instruction], across=False)
    else:
        seeds = list(range(args.seed, args.seed + args.episodes))
    print(f"bundle {args.identity}")
    with (
        tempfile.TemporaryDirectory(prefix="bench_loop-") as scratch,
        Loop(args.bundle, Path(scratch) / "log", bag=Path(scratch) / "bag") as loop,
    ):
        records = loop.drive(seeds, args.instruction)
    summary = Summary.of(records)
    print()
    for field in fields(summary):
        print(f"{field.name:28} {getattr(summary, field.name):8.3f}".rstrip("0").rstrip("."))
    if args.json:
        write(args, summary, records)


def write(args: argparse.Namespace, summary: Summary, records: Sequence[EpisodeRecord]) -> None:
    """Figures and episodes with versions and machine as JSON, without the paths driven; replaces the file at once."""
    from tc_mmwm_core.evaluation.intervals import share
    from tc_mmwm_core.utils.results import write_results  # loads torch, which must not run beside the robot

    episodes = [record.to_dict() for record in records]
    for episode in episodes:
        del episode["path"], episode["scene"]
    content = {
        "command": f"ros2 run tc_mmwm_ros bench_loop {shlex.join(sys.argv[1:])}".rstrip(),
        "bundle": args.identity,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "instruction": args.instruction or "drawn for each layout",
        "success": share([record.success for record in records]),
        "summary": {field.name: getattr(summary, field.name) for field in fields(summary)},
        "episodes": episodes,
    }
    write_results(args.json, content)


if __name__ == "__main__":
    sys.exit(main())
