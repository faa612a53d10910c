"""tc-mmwm export."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "export a run to a model bundle that the planner loads, with a calibrated threshold"
EXAMPLES = """\
  tc-mmwm export runs/navigation --data data/navigation --output bundles/navigation
  tc-mmwm export runs/new --data data/new data/old --output bundles/new --alpha 0.1 --delta 0.1
  tc-mmwm export runs/navigation --threshold 0.0 --output bundles/uncalibrated
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm export``."""
    parser.add_argument("run", type=Path, help="run folder of tc-mmwm train")
    parser.add_argument("--output", type=Path, required=True, help="bundle folder; one that is there is replaced")
    parser.add_argument("--data", type=Path, nargs="+", help="the datasets trained on: their held-out share calibrates")
    parser.add_argument("--name", help="name of the bundle (default: the output folder's)")
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="accept at most this share of violating sequences ..."
    )
    parser.add_argument(
        "--delta", type=float, default=0.05, help="... with confidence 1 - delta (default: %(default)s)"
    )
    parser.add_argument("--threshold", type=float, help="set the threshold by hand instead of calibrating it")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Calibrate and export."""
    from tc_mmwm_core.config import parse
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.resources import robot_file
    from tc_mmwm_core.runtime.bundle import Calibration
    from tc_mmwm_core.training.checkpoint import LAST, read_checkpoint
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.training.export import export_bundle
    from tc_mmwm_core.training.trainer import build_model
    from tc_mmwm_core.training.weights import read_weights

    if args.data is None and args.threshold is None:
        raise OSError("give --data to calibrate the threshold on its held-out share, or --threshold to set it")
    config = parse(read_checkpoint(args.run / LAST)["config"], TrainConfig, str(args.run / LAST))
    _, weights = read_weights(args.run)
    datasets = [Dataset.open(path) for path in args.data or []]
    interface = datasets[0].interface if datasets else RobotInterface.load(robot_file(f"{config.data.domain}.yaml"))
    model = build_model(config, interface)
    model.load_state_dict(weights)
    threshold, calibration = args.threshold, None
    if threshold is None:
        threshold, calibration = _calibrate(args, config, model, datasets, Calibration)
    bundle = export_bundle(
        model, interface, config, args.output, args.name or args.output.resolve().name, threshold, calibration
    )
    sizes = ", ".join(f"{name} {(bundle.path / name).stat().st_size / 1e6:.1f} MB" for name in bundle.manifest.files)
    print(f"{bundle.path}: {bundle.identity}, threshold {threshold:.4f}; {sizes}")
    return 0


def _calibrate(args, config, model, datasets, calibration_type):
    """The threshold and what it rests on."""
    from tc_mmwm_core.domains.base import load_domain
    from tc_mmwm_core.evaluation.calibration import calibrate
    from tc_mmwm_core.evaluation.held_out import sequence_scores
    from tc_mmwm_core.training.data import LabelledData, split

    domain = load_domain(config.data.domain) if config.data.domain else None
    held = [split(dataset, config.data.holdout, config.seed)[1] for dataset in datasets]
    scores = sequence_scores(model, LabelledData(held, config, domain, not args.quiet), progress=not args.quiet)
    violating = scores.violating
    found = calibrate(scores.score[violating], scores.trajectory[violating], args.alpha, args.delta)
    false_alarms = 100 * float((scores.score[~violating] > found.tau).mean())
    print(
        f"threshold {found.tau:.4f}: at most {args.alpha:.0%} of violating sequences are accepted, with confidence "
        f"{1 - args.delta:.0%}; {found.n} held-out trajectories, {found.sequences} violating sequences, "
        f"{found.empirical_miss:.2%} of them accepted, {false_alarms:.1f}% of complying ones rejected"
    )
    digest = ",".join(dataset.digest for dataset in datasets)
    return found.tau, calibration_type(
        alpha=found.alpha, delta=found.delta, n_trajectories=found.n, dataset=digest, method=found.method
    )
