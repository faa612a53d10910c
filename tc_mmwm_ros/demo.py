"""The whole loop, live: drive as told, be told something else, record, learn from the recording, drive again.

    ros2 run tc_mmwm_ros demo --help

Everything runs as it does on a robot: simulated robot, planner and recorder are separate processes that talk over DDS,
and learning uses the ``tc-mmwm`` commands that are printed. What is left lies in one folder, and is said at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from tc_mmwm_core.domains.navigation import instructions, oracle
from tc_mmwm_core.domains.navigation.scene import VIEW, Scene
from tc_mmwm_core.domains.navigation.simulator import Simulator
from tc_mmwm_core.evaluation import pictures
from tc_mmwm_core.resources import ResourceError, resource
from tc_mmwm_ros.loop import EpisodeRecord, Loop, find_layouts, in_own_domain
from tc_mmwm_ros.processes import die_with_parent

INSTRUCTION = "drive to the green pad, never enter the blue zone"
SECOND_INSTRUCTION = "go to the yellow pad, stay out of the red zone"
REPLAY_EPISODES, REPLAY_SEED = 150, 400_000  # layouts that the bundle was not trained on
BOUND = ("--alpha", 0.2, "--delta", 0.2)  # so few held-out trajectories give no tighter one; the bundle states it
NEW_BUNDLE_EPISODES = 2
EXAMPLES = """\
examples:
  ros2 run tc_mmwm_ros demo
  ros2 run tc_mmwm_ros demo --episodes 3 --no-finetune
  ros2 run tc_mmwm_ros demo --instruction "go to the red pad, drive slowly" --second-instruction "go to the red pad"
  ros2 run tc_mmwm_ros demo --bundle runs/mine/bundle --seed 1000
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line. Instructions that the oracle could not judge, and bundles that are not there, are refused here."""
    parser = argparse.ArgumentParser(
        prog="ros2 run tc_mmwm_ros demo",
        description="Drive as told, be told something else, learn from the recording, and drive again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--episodes", type=int, default=5, help="number of layouts to drive in (default: %(default)s)")
    parser.add_argument(
        "--instruction", default=INSTRUCTION, help='what the robot is told first (default: "%(default)s")'
    )
    parser.add_argument(
        "--second-instruction", default=SECOND_INSTRUCTION, help='what it is told then (default: "%(default)s")'
    )
    parser.add_argument("--bundle", type=Path, help="model bundle (default: the shipped one)")
    parser.add_argument(
        "--max-steps",
        type=int,
        default=200,
        help="longest episode, control steps of 0.1 s (default: %(default)s)",
    )
    parser.add_argument("--no-finetune", action="store_true", help="do not learn from the recording")
    parser.add_argument(
        "--output", type=Path, help="folder for logs, recording and pictures (default: demo_output/<date>-<time>)"
    )
    parser.add_argument(
        "--seed", type=int, default=500_000, help="seed of the first layout to consider (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    for option in ("episodes", "max_steps"):
        if getattr(args, option) < 1:
            parser.error(f"--{option.replace('_', '-')} {getattr(args, option)}: at least 1")
    for text in (args.instruction, args.second_instruction):
        try:
            instructions.parse(text)
        except ValueError as error:
            parser.error(str(error))
    try:
        args.bundle = args.bundle or resource("bundles", "navigation")
    except ResourceError as error:
        parser.error(f"{error}; give one with --bundle")
    if not (args.bundle / "bundle.json").exists():
        parser.error(f"--bundle {args.bundle}: there is no bundle.json in it")
    args.output = args.output or Path("demo_output") / datetime.now().strftime("%Y%m%d-%H%M%S")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; exit codes of :func:`in_own_domain`."""
    args = parse_arguments(arguments)
    return in_own_domain("demo", lambda: demonstrate(args))


def demonstrate(args: argparse.Namespace) -> None:
    """The demo itself."""
    began = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    output = args.output.resolve()
    told = [args.instruction, args.second_instruction]
    seeds = find_layouts(args.episodes, args.seed, told)
    records: dict[str, list[EpisodeRecord]] = {}

    say("starting the simulated robot, the planner and the recorder")
    with Loop(args.bundle, output / "log", output / "bag", args.max_steps) as loop:
        records["first"] = drive(loop, seeds, told[0])
        say("the same layouts, told something else: what was forbidden is allowed now, and the other way round")
        records["second"] = drive(loop, seeds, told[1])
        loop.stop_recorder()
    tell_what_language_changed(records)
    draw(records["first"], records["second"], told, output / "picture.png")

    if not args.no_finetune:
        learn(args.bundle, output)
        say("the new bundle drives")
        with Loop(output / "bundle", output / "log" / "new_bundle", max_steps=args.max_steps) as loop:
            records["new bundle"] = drive(loop, seeds[:NEW_BUNDLE_EPISODES], told[0])

    content = {phase: [record.to_dict() for record in episodes] for phase, episodes in records.items()}
    (output / "episodes.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    say(f"done in {time.monotonic() - began:.0f} s; everything is in {output}")
    for name in ("picture.png", "episodes.json", "bag", "dataset", "bundle", "log"):
        if (output / name).exists():
            print(f"    {name}")


def drive(loop: Loop, seeds: Sequence[int], instruction: str) -> list[EpisodeRecord]:
    """One episode per layout, printing the instruction before it and the outcome after."""
    print(f"\n  “{instruction}”")
    records = loop.drive(seeds, instruction)
    good = sum(record.success for record in records)
    print(f"\n{good} of {len(records)} reached the goal and kept every rule")
    return records


def tell_what_language_changed(records: dict[str, list[EpisodeRecord]]) -> None:
    """Count the layouts in which each drive went where only the other instruction forbids to go."""
    for one, other in (("first", "second"), ("second", "first")):
        forbidden = records[other][0].instruction
        broken = sum(breaks(record, forbidden) for record in records[one])
        told = records[one][0].instruction
        print(f"{broken} of {len(records[one])} drives under “{told}” would have broken “{forbidden}”")


def breaks(record: EpisodeRecord, instruction: str) -> bool:
    """Whether the motion of ``record`` would have broken ``instruction``."""
    scene = Scene.from_dict(record.scene)
    return bool((oracle.margin(np.array(record.path), scene, instructions.parse(instruction)) > 0).any())


def draw(first: Sequence[EpisodeRecord], second: Sequence[EpisodeRecord], told: Sequence[str], file: Path) -> None:
    """The picture of both drives in each layout (the first five)."""
    simulator = Simulator(render=False)
    layouts = []
    for pair in list(zip(first, second, strict=True))[:5]:
        simulator.reset(Scene.from_dict(pair[0].scene))
        simulator.place((50.0, 50.0, 0.0))  # the robot is where the paths are, not in the picture
        drives = [pictures.Drive(np.array(record.path)[:, :2], outcome(record), record.moment) for record in pair]
        layouts.append(pictures.Layout(f"layout {pair[0].seed}", simulator.photograph(), drives))
    simulator.close()
    pictures.draw_layouts(layouts, told, VIEW, file)


def outcome(record: EpisodeRecord) -> str:
    """How an episode went, in a few words."""
    where = f"reached in {record.steps} steps" if record.reached else f"not reached ({record.reason})"
    return f"{where}, {record.violations} violating" if record.violations else where


def learn(bundle: Path, output: Path) -> None:
    """From bag to bundle, with the commands that anybody would use."""
    dataset, replay, run = output / "dataset", output / "replay", output / "run"
    robot = resource("config", "robots", "navigation.yaml")
    say("the recording becomes a dataset")
    tc_mmwm("convert", output / "bag", "--robot", robot, "--output", dataset)
    say("some old data beside the new, so that what was learned before is not forgotten")
    amount = ("--episodes", REPLAY_EPISODES, "--seed", REPLAY_SEED)
    tc_mmwm("collect", "--domain", "navigation", *amount, "--output", replay)
    say("fine-tuning on both")
    config = resource("config", "train", "finetune.yaml")
    tc_mmwm("train", "--config", config, "--data", dataset, replay, "--init", bundle, "--output", run)
    tc_mmwm("export", run, "--data", dataset, replay, "--output", output / "bundle", *BOUND)


def tc_mmwm(*arguments: object) -> None:
    """Run a ``tc-mmwm`` command in the foreground. CalledProcessError: it failed, and said why."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ tc-mmwm {' '.join(words)}", flush=True)
    # Whoever tries the demo has other things running. Threads that wait for one another by spinning, as libgomp's do
    # for milliseconds, then take 15 s a step in place of 0.5 s.
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
    command = [sys.executable, "-m", "tc_mmwm_core", *words]
    process = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code:
        raise subprocess.CalledProcessError(code, f"tc-mmwm {words[0]}")


def say(what: str) -> None:
    """Announce a part of the demo."""
    print(f"\n\033[1m== {what}\033[0m" if sys.stdout.isatty() else f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
