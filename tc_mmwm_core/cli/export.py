"""tc-mmwm export."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import finite, share

HELP = "export a run to a model bundle that the planner loads, with a calibrated threshold; or calibrate a bundle anew"
EXAMPLES = """\
  tc-mmwm export runs/navigation --data data/navigation --output bundles/navigation
  tc-mmwm export runs/navigation --data data/navigation data/never_trained_on --output bundles/navigation
  tc-mmwm export runs/new --data data/new data/old --output bundles/new --alpha 0.1 --delta 0.1
  tc-mmwm export bundles/navigation --data data/recorded --output bundles/mine     the same model, another threshold
  tc-mmwm export runs/navigation --threshold 0.0 --output bundles/uncalibrated
"""
BOUND = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm export``."""
    parser.add_argument("run", type=Path, help="run folder of tc-mmwm train, or a bundle to calibrate anew")
    parser.add_argument("--output", type=Path, required=True, help="bundle folder; one that is there is replaced")
    parser.add_argument(
        "--data", type=Path, nargs="+", help="datasets: every trajectory that was not trained on calibrates"
    )
    parser.add_argument("--name", help="name of the bundle (default: the output folder's)")
    parser.add_argument(
        "--alpha",
        type=share,
        help="of a trajectory's violating sequences, on average over trajectories, accept at most this share ... "
        f"(default: {BOUND})",
    )
    parser.add_argument("--delta", type=share, help=f"... with confidence 1 - delta (default: {BOUND})")
    parser.add_argument("--threshold", type=finite, help="set the threshold by hand instead of calibrating it")
    parser.add_argument(
        "--robot",
        type=Path,
        help="robot interface YAML for the bundle, or a shipped one's name, where only topics, say, differ from the "
        "run's (default: the run's)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Calibrate and export."""
    from tc_mmwm_core.config import ConfigError
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.resources import robot_given
    from tc_mmwm_core.runtime.bundle import MANIFEST
    from tc_mmwm_core.training.calibration import CalibrationError
    from tc_mmwm_core.training.export import export_run, recalibrate
    from tc_mmwm_core.utils.files import shown

    if args.data is None and args.threshold is None:
        raise CalibrationError(
            "give --data to calibrate the threshold on what of it was not trained on, or --threshold to set it by hand"
        )
    if args.threshold is not None and (args.alpha is not None or args.delta is not None):
        raise ConfigError("--threshold sets by hand what --alpha and --delta would calibrate; give one or the other")
    datasets = [Dataset.open(path).tell_skipped() for path in args.data or []]
    arguments = (args.run, datasets, args.output, args.name)
    bound = {"alpha": args.alpha or BOUND, "delta": args.delta or BOUND}
    bound |= {"threshold": args.threshold, "progress": not args.quiet}
    if (args.run / MANIFEST).exists():
        if args.robot is not None:
            raise ConfigError(f"--robot {args.robot}: {args.run} is a bundle, which keeps its interface; leave it out")
        bundle, rests_on = recalibrate(*arguments, **bound)
    else:
        robot = None if args.robot is None else RobotInterface.load(robot_given(args.robot))
        bundle, rests_on = export_run(*arguments, robot=robot, **bound)
    print(rests_on)
    sizes = ", ".join(f"{name} {(bundle.path / name).stat().st_size / 1e6:.1f} MB" for name in bundle.manifest.files)
    print(f"{shown(bundle.path)}: {bundle.identity}, threshold {bundle.manifest.threshold:.4f}; {sizes}")
    return 0
