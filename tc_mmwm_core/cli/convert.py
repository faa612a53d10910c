"""tc-mmwm convert."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tc_mmwm_core.utils.arguments import seconds

HELP = "turn ROS 2 bags into a dataset as the planner would have seen them; read and write LeRobotDataset v3.0"
EXAMPLES = """\
  tc-mmwm convert rosbag2_2025_06_01-12_00_00 --robot navigation --output data/mine
  tc-mmwm convert monday/*.mcap --robot my_robot.yaml --output data/mine --instruction "bring the cup to the table"
  tc-mmwm convert data/mine --to lerobot --output lerobot/mine
  tc-mmwm convert lerobot/pusht --from lerobot --robot pusht.yaml --output data/pusht
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm convert``."""
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="input",
        help="bag: rosbag2 folder, .mcap file (cut-off ones too) or .db3 file; or, with --from or --to, a dataset",
    )
    parser.add_argument("--from", dest="origin", choices=["bag", "lerobot"], default="bag", help="what the inputs are")
    parser.add_argument("--to", choices=["dataset", "lerobot"], default="dataset", help="lerobot: input is a dataset")
    parser.add_argument("--robot", type=Path, help="robot interface YAML, or the name of a shipped one")
    parser.add_argument("--output", type=Path, required=True, help="dataset folder; an existing one is added to")
    parser.add_argument("--namespace", help="the robot's in the bag (default: the only one that has its topics)")
    parser.add_argument("--instruction", help="what the robot was told, for bags and episodes that do not hold it")
    parser.add_argument("--source", choices=["simulated", "real"], help="default: simulated where a scene was recorded")
    parser.add_argument(
        "--success",
        choices=["yes", "no"],
        help="whether the goal was reached in episodes whose recording does not tell, e.g. yes for demonstrations that "
        "are all good; one with a violation is no success",
    )
    parser.add_argument(
        "--reaction",
        type=seconds,
        metavar="SECONDS",
        help="how late a violation may be labelled: steps within this time before each VIOLATION_BEGIN count as "
        "unjudged, not as complying (default: 0, for a script; a person at a keyboard needs 1 to 3)",
    )
    parser.add_argument(
        "--longest",
        type=seconds,
        metavar="SECONDS",
        help="where no events say where episodes begin and end, cut what is longer into pieces of equal length "
        "(default: 60); training takes one window of each trajectory in an epoch",
    )
    parser.add_argument("--force", action="store_true", help="append even if the dataset already holds this recording")
    parser.add_argument("--report", type=Path, help="also write the reports to this JSON file")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Convert each input, and say what became of it. 1: no trajectory came of one of them.

    Of several, those that cannot be converted are named and those that the dataset holds are left out: the rest is
    converted, and the same command can be given again. One alone is refused (exit code 2).
    """
    from tc_mmwm_core.data.bag import BagError
    from tc_mmwm_core.data.convert import convert
    from tc_mmwm_core.data.dataset import AlreadyHeldError, Dataset, DatasetError
    from tc_mmwm_core.data.lerobot import LeRobotError, export_lerobot, import_lerobot
    from tc_mmwm_core.data.report import ConversionError, ConversionReport
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.resources import robot_given

    _refuse_what_does_not_apply(args)
    if args.to == "lerobot":
        dataset = Dataset.open(*args.inputs).tell_skipped()
        print(f"{args.output}: {export_lerobot(dataset, args.output)} episodes")
        return 0
    if args.robot is None:
        raise ConversionError("--robot is missing: the robot interface says which topics or features are which fields")
    interface = RobotInterface.load(robot_given(args.robot))
    several = len(args.inputs) > 1
    became: Counter[str] = Counter()
    reports: list[ConversionReport] = []
    of_a_bag = {"namespace": args.namespace, "progress": not args.quiet}
    of_a_bag |= {name: getattr(args, name) for name in ("longest", "reaction") if getattr(args, name) is not None}
    known = {
        "instruction": args.instruction,
        "source": args.source,
        "success": {"yes": True, "no": False}.get(args.success),
        "force": args.force,
    }
    for path in args.inputs:
        try:
            if args.origin == "lerobot":
                report = import_lerobot(path, args.output, interface, **known)
            else:
                report = convert(path, args.output, interface, **of_a_bag, **known)
            reports.append(report)
            print(report.table(), end="\n\n" if several else "\n")
            became["converted" if report.trajectories else "without a trajectory"] += 1
        except AlreadyHeldError as error:
            if not several:
                raise
            print(f"left out: {error}")
            became["already there"] += 1
        except (BagError, ConversionError, DatasetError, LeRobotError) as error:
            if not several:
                raise
            print(f"tc-mmwm convert: {error}", file=sys.stderr)
            reports.append(ConversionReport(str(path), str(args.output), error=str(error)))
            became["cannot be converted"] += 1
        if args.report:
            args.report.write_text(json.dumps([report.to_dict() for report in reports], indent=2), encoding="utf-8")
    if several:
        print(f"{len(args.inputs)} inputs: {', '.join(f'{count} {what}' for what, count in became.items())}")
    return 1 if became["cannot be converted"] or became["without a trajectory"] else 0


def _refuse_what_does_not_apply(args: argparse.Namespace) -> None:
    """ConversionError: an option is given that would be passed over."""
    from tc_mmwm_core.data.report import ConversionError

    of_a_bag = ("namespace", "longest", "reaction")
    if args.to == "lerobot":
        which, others = "--to lerobot", (*of_a_bag, "robot", "instruction", "source", "success", "force", "report")
        if args.origin == "lerobot":
            raise ConversionError("--to lerobot reads a dataset: leave out --from lerobot")
    else:
        which, others = "--from lerobot", of_a_bag if args.origin == "lerobot" else ()
    if given := [f"--{name}" for name in others if getattr(args, name)]:
        raise ConversionError(f"{', '.join(given)} cannot be used with {which}")
