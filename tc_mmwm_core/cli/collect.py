"""tc-mmwm collect."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tc_mmwm_core.domains.perturbations import KINDS
from tc_mmwm_core.utils.arguments import not_negative, planner_settings, positive

FIRST_ROUND, LATER_ROUND = 100_000, 200_000  # where seeds begin, with scripted drivers and with a bundle

HELP = "drive a simulated domain with scripted drivers, or with a bundle, and record a dataset"
EXAMPLES = """\
  tc-mmwm collect --domain navigation --episodes 200 --output data/navigation
  tc-mmwm collect --domain my_robot.world:make --robot my_robot.yaml --episodes 1000 --output data/mine --workers 8
  tc-mmwm collect --domain manipulation --driver fumbler --steps 100 --seed 210000 --output data/fumbled
  tc-mmwm collect --domain manipulation --bundle bundles/manipulation --disturb occlusion action_noise --steps 160 \\
    --episodes 400 --output data/on_policy   (what the model gets itself into, to be trained on as well)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm collect``."""
    parser.add_argument(
        "--domain", default="navigation", help="a domain's name, or module:factory (default: %(default)s)"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        help="model bundle that drives, through the planner (default: the domain's scripted drivers)",
    )
    parser.add_argument(
        "--driver",
        help="which of the domain's scripted drivers drives every episode (default: one is drawn for each episode, "
        "in the shares that the domain states)",
    )
    parser.add_argument(
        "--disturb",
        nargs="+",
        choices=KINDS,
        default=[],
        metavar="KIND",
        help="with --bundle: what disturbs the driver, one of these or nothing in each episode; recorded is what there "
        f"was to be seen and what was done in the end: {', '.join(KINDS)} (default: nothing)",
    )
    planner_settings(parser)
    parser.add_argument(
        "--robot",
        type=Path,
        help="robot interface YAML or the name of a shipped one (default: the bundle's, else the domain's)",
    )
    parser.add_argument("--output", type=Path, required=True, help="dataset folder; an existing one is added to")
    parser.add_argument(
        "--episodes",
        type=positive,
        default=200,
        help="episodes in the dataset at the end, of seeds from --seed on; those already there are not driven again "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=positive, default=60, help="longest episode, control steps (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=not_negative,
        help="seed of the first episode; each further one adds 1. A scene follows from its seed, and each round needs "
        f"scenes of its own (default: {FIRST_ROUND}, with --bundle {LATER_ROUND}: no scene that the simulated robot, "
        "the demo or an evaluation begins with)",
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Collect, and say at what rate."""
    from tc_mmwm_core.data.dataset import Dataset, DatasetError
    from tc_mmwm_core.domains.base import load_domain, robot_of
    from tc_mmwm_core.domains.collect import OnPolicy, collect
    from tc_mmwm_core.runtime.planner import planner_file, planner_for

    on_policy = None
    if args.bundle and args.driver:
        raise DatasetError("--driver is of the domain's scripted drivers, and --bundle drives in their place: give one")
    if args.bundle:
        on_policy = OnPolicy(args.bundle, planner_for(args.bundle, args.planner), tuple(args.disturb))
        print(f"planner: {planner_file(args.bundle, args.planner) or 'its own defaults'}", flush=True)
    elif args.planner or args.disturb:
        raise DatasetError("--planner and --disturb are of the bundle that drives: give --bundle")
    own = args.bundle and not args.robot
    robot = args.bundle / "robot.yaml" if own else robot_of(load_domain(args.domain), args.robot)
    seed = args.seed if args.seed is not None else LATER_ROUND if args.bundle else FIRST_ROUND
    amounts = args.episodes, args.steps, seed, args.workers
    start = time.monotonic()
    who = {"on_policy": on_policy, "driver": args.driver}
    collected = collect(args.domain, robot, args.output, *amounts, **who, progress=not args.quiet)
    elapsed = time.monotonic() - start
    dataset = Dataset.open(args.output).tell_skipped()
    successes = sum(bool(info.success) for info in dataset.trajectories)
    print(
        f"{args.output}: {collected} episodes collected in {elapsed:.0f} s ({collected / max(elapsed, 1e-9):.1f}/s); "
        f"it holds {len(dataset)} trajectories, {dataset.steps} steps, {successes} successful"
    )
    return 0
