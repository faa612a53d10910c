"""tc-mmwm evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import finite, planner_settings, positive

HELP = "drive fresh layouts with a bundle and measure success, compliance, language and counterfactual truth"
EXAMPLES = """\
  tc-mmwm evaluate --bundle bundles/navigation --episodes 50
  tc-mmwm evaluate --bundle bundles/navigation --output runs/navigation/evaluation --workers 4 \\
    --factor-episodes 50 --perturbed-episodes 50 (OOD retention and robustness; after a kill, the same command resumes)
  tc-mmwm evaluate --factors wording composition --factor-episodes 100 --json beyond.json --figure beyond.png
  tc-mmwm evaluate --driver expert --episodes 20        (a scripted driver instead, for comparison)
  tc-mmwm evaluate --driver heedless --episodes 20      (knows the way to every goal, and heeds no rule)
  tc-mmwm evaluate --screen heedless --episodes 20      (the same, with the planner between it and the motors)
  tc-mmwm evaluate --screen my_policy:make              (a policy of your own, e.g. of LeRobot's: docs/own_policy.md)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm evaluate``."""
    parser.add_argument("--bundle", type=Path, help="model bundle (default: the shipped one of the domain)")
    parser.add_argument(
        "--domain", default="navigation", help="a domain's name, or module:factory (default: %(default)s)"
    )
    parser.add_argument(
        "--driver",
        default="planner",
        help="who drives: planner; policy (the bundle's own proposal, unscreened); random; one of the domain's "
        "scripted drivers; or a policy of yours as module:factory (docs/own_policy.md) (default: %(default)s)",
    )
    parser.add_argument(
        "--screen",
        metavar="DRIVER",
        help="have the planner screen what this scripted driver, or policy of yours (module:factory), is about to do: "
        "the best accepted one of its candidates is executed, the planner's own are the fallback",
    )
    parser.add_argument("--episodes", type=int, default=50, help="layouts to drive in (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=900_000, help="seed of the first layout (default: %(default)s)")
    parser.add_argument("--factors", nargs="+", help="factors of variation to take beyond training (default: all)")
    parser.add_argument(
        "--factor-episodes", type=int, default=0, help="layouts to drive in under each factor (default: none)"
    )
    parser.add_argument(
        "--perturbed-episodes",
        type=int,
        default=0,
        help="layouts to drive in under each perturbation; scripted drivers and random perceive nothing, and are not "
        "disturbed. For a policy of yours, --bundle tells how strong sensor noise is (default: none)",
    )
    parser.add_argument(
        "--probes",
        type=int,
        default=100,
        help="states to probe for language and counterfactual truth; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--open-loop",
        type=int,
        default=80,
        help="long episodes to measure the prediction error at k = 1..50 on; 0: none (default: %(default)s)",
    )
    parser.add_argument("--candidates", type=int, help="candidates per decision (default: the planner's)")
    parser.add_argument(
        "--threshold", type=finite, help="override the bundle's acceptance threshold; a large one accepts all"
    )
    planner_settings(parser)
    parser.add_argument("--workers", type=positive, default=1, help="processes that share the episodes (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for episodes, measures and figure; episodes already in it are not driven again",
    )
    parser.add_argument("--json", type=Path, help="write the measures here")
    parser.add_argument("--figure", type=Path, help="write the figure (PNG) here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and write what is asked for."""
    import tempfile

    from tc_mmwm_core import config as configs
    from tc_mmwm_core.domains.base import load_domain
    from tc_mmwm_core.domains.policies import is_foreign
    from tc_mmwm_core.evaluation.long_horizon import predicted
    from tc_mmwm_core.evaluation.report import report, write_report
    from tc_mmwm_core.evaluation.suite import PLANNER, POLICY, Contestant, EvaluationError, Suite, evaluate
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.resources import ResourceError, resource
    from tc_mmwm_core.runtime.bundle import Bundle
    from tc_mmwm_core.runtime.planner import PlannerConfig, planner_file, planner_for
    from tc_mmwm_core.runtime.proposals import ProposalConfig
    from tc_mmwm_core.training.checkpoint import CheckpointError

    learned = args.driver in (PLANNER, POLICY)
    idle = [f"--{name}" for name in ("planner", "candidates", "threshold") if getattr(args, name) is not None]
    if idle and args.driver != PLANNER:
        told = f"of the planner, and --driver {args.driver} drives without it"
        raise EvaluationError(f"{', '.join(idle)}: {told}; leave out the one or the other")
    bundle, planner = args.bundle, PlannerConfig()
    if learned or (args.perturbed_episodes and is_foreign(args.driver)):
        domain = load_domain(args.domain)
        try:
            bundle = bundle or resource("bundles", domain.name)
        except ResourceError as error:
            what = "it drives" if learned else "it tells how strong the sensor noise of --perturbed-episodes is"
            raise EvaluationError(f"--bundle is missing ({what}), and none of {domain.name} ships: {error}") from None
        robot = resource("config", "robots") / domain.robot  # that of a domain of one's own is not shipped
        if robot.exists():
            Bundle.load(bundle).check(RobotInterface.load(robot))  # a bundle of another domain
    if learned:
        planner = planner_for(bundle, args.planner)
    if args.driver == PLANNER:
        print(f"planner: {planner_file(bundle, args.planner) or 'its own defaults'}", flush=True)
    if args.candidates is not None:
        proposals = planner.proposals.model_dump() | {"candidates": args.candidates}
        proposals = configs.parse(proposals, ProposalConfig, "--candidates")
        planner = planner.model_copy(update={"proposals": proposals})
    if args.threshold is not None:
        planner = planner.model_copy(update={"threshold": args.threshold})
    contestant = Contestant(args.domain, args.driver, bundle, planner, args.screen)
    amounts = {
        "seed": args.seed,
        "episodes": args.episodes,
        "factors": args.factors,
        "factor_episodes": args.factor_episodes,
        "perturbed_episodes": args.perturbed_episodes,
        "probes": args.probes,
        "open_loop": args.open_loop,
    }
    suite = configs.parse(amounts, Suite, "tc-mmwm evaluate")
    log = args.output / "episodes.jsonl" if args.output else None
    progress = not args.quiet
    records = evaluate(contestant, suite, log, args.workers, progress)
    prediction = None
    with tempfile.TemporaryDirectory() as scratch:
        try:
            prediction = predicted(contestant, suite, (args.output or Path(scratch)) / "long", args.workers, progress)
        except CheckpointError as error:  # older than this code: its graphs still drive
            print(f"the prediction error is not measured: {error}")
    found = report(contestant, suite, records, prediction)
    print(found.table())
    if args.output:
        write_report(found, args.output / "evaluation.json", args.output / "evaluation.png")
    write_report(found, args.json, args.figure)
    return 0
