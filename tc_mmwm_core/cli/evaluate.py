"""tc-mmwm evaluate."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

HELP = "drive fresh layouts with a bundle and measure success, compliance, language and counterfactual truth"
EXAMPLES = """\
  tc-mmwm evaluate --bundle bundles/navigation --episodes 50
  tc-mmwm evaluate --bundle bundles/navigation --beyond wording composition --json beyond.json
  tc-mmwm evaluate --driver expert --episodes 20        (a scripted driver instead, for comparison)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm evaluate``."""
    parser.add_argument("--bundle", type=Path, help="model bundle (default: the shipped one of the domain)")
    parser.add_argument(
        "--domain", default="navigation", help="a domain's name, or module:factory (default: %(default)s)"
    )
    parser.add_argument("--driver", help="drive with one of the domain's scripted drivers instead of a bundle")
    parser.add_argument("--episodes", type=int, default=50, help="layouts to drive in (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=900_000, help="seed of the first layout (default: %(default)s)")
    parser.add_argument(
        "--beyond", nargs="+", default=[], metavar="FACTOR", help="factors of variation taken beyond what training sees"
    )
    parser.add_argument("--probes", type=int, default=40, help="states for language and counterfactual truth; 0: none")
    parser.add_argument("--candidates", type=int, help="candidates a decision (default: the planner's)")
    parser.add_argument("--threshold", type=float, help="override the bundle's acceptance threshold")
    parser.add_argument("--planner", type=Path, help="YAML of the planner's settings (default: its defaults)")
    parser.add_argument("--json", type=Path, help="write the measures here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    from tqdm import tqdm

    from tc_mmwm_core import config as configs
    from tc_mmwm_core.domains.base import load_domain
    from tc_mmwm_core.evaluation import closed_loop, counterfactual
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.runtime.bundle import Bundle
    from tc_mmwm_core.runtime.planner import Planner, PlannerConfig
    from tc_mmwm_core.runtime.screener import Screener

    os.environ.setdefault("MUJOCO_GL", "egl")
    domain = load_domain(args.domain)
    unknown = sorted(set(args.beyond) - set(domain.factors))
    if unknown:
        raise ValueError(f"--beyond {' '.join(unknown)}: {domain.name} has the factors {', '.join(domain.factors)}")
    environment = domain.environment()
    seeds = range(args.seed, args.seed + args.episodes)
    episodes = []
    screener = None
    if args.driver is None:
        bundle = Bundle.load(args.bundle or resource("bundles", domain.name))
        screener = Screener(bundle)
        settings = configs.load(args.planner, PlannerConfig) if args.planner else PlannerConfig()
        if args.candidates:
            proposals = settings.proposals.model_copy(update={"candidates": args.candidates})
            settings = settings.model_copy(update={"proposals": proposals})
        if args.threshold is not None:
            settings = settings.model_copy(update={"threshold": args.threshold})
        interface = RobotInterface.load(bundle.path / "robot.yaml")
        planner = Planner(screener, interface, settings)
        planner.warm_up()
    try:
        bar = tqdm(seeds, desc="episodes", unit="episode", disable=args.quiet)
        for seed in bar:
            if screener is None:
                controller = closed_loop.driver_controller(domain, environment, args.driver, seed)
            else:
                planner.reset()
                controller = closed_loop.planner_controller(planner)
            episodes.append(closed_loop.run_episode(environment, controller, seed, {"factors": args.beyond}))
            bar.set_postfix(success=f"{100 * sum(e.success for e in episodes) / len(episodes):.0f}%")
    finally:
        environment.close()
    result = closed_loop.summary(episodes)
    if screener is not None and args.probes:
        found = [
            counterfactual.probe(domain, screener, seed, 48, args.beyond)
            for seed in tqdm(range(args.seed, args.seed + args.probes), desc="probes", disable=args.quiet)
        ]
        truths = [truth for truth in found if truth is not None]
        threshold = planner.threshold
        result["language_truth"], result["language_flips"] = counterfactual.language_truth(truths, threshold)
        result["counterfactual_rank_correlation"] = counterfactual.rank_correlation(truths)
        result |= counterfactual.verdicts(truths, threshold)
    for name, value in result.items():
        if isinstance(value, dict):
            interval = f"[{value['low']:.1f}, {value['high']:.1f}] of {value['n_episodes']}"
            print(f"{name:34s} {value['mean']:6.1f} %   {interval}")
        elif not isinstance(value, list):
            print(f"{name:34s} {value:8.3f}" if isinstance(value, float) else f"{name:34s} {value:8d}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        settings.pop("run_command", None)
        args.json.write_text(json.dumps({"arguments": settings, "measures": result}, indent=2) + "\n")
    return 0
