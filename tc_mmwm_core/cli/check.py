"""tc-mmwm check."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from tc_mmwm_core.utils.arguments import not_negative, positive

HELP = "run a simulated domain for a few episodes and list what does not keep to the protocol"
EXAMPLES = """\
  tc-mmwm check --domain my_robot.world:make --robot my_robot.yaml
  tc-mmwm check --domain navigation --episodes 2
"""

INDENT = 9 * " "  # as wide as a verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm check``."""
    parser.add_argument("--domain", required=True, help="a domain's name, or module:factory")
    parser.add_argument(
        "--robot", type=Path, help="robot interface YAML or the name of a shipped one (default: the domain's)"
    )
    parser.add_argument(
        "--episodes", type=positive, default=5, help="episodes that each of its drivers drives (default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=1000,
        help="control steps after which an episode is taken not to end by itself (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=not_negative, default=800_000, help="seed of the first episode (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Check. 1: something is wrong, which the list says."""
    from tc_mmwm_core.domains.base import load_domain, robot_of
    from tc_mmwm_core.domains.check import check
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.models.vocabulary import TextTokens
    from tc_mmwm_core.models.world_model import ModelConfig

    domain = load_domain(args.domain)
    interface = RobotInterface.load(robot_of(domain, args.robot))
    tokens = TextTokens(ModelConfig.model_fields["max_tokens"].default)
    verdicts = []
    for finding in check(domain, interface, tokens, args.episodes, args.steps, args.seed):
        verdicts.append(finding.verdict)
        text = f"{finding.verdict:<{len(INDENT)}}{finding.checked}: {finding.told}"
        for number, line in enumerate(text.split("\n")):
            indent = INDENT if number else ""
            print(textwrap.fill(line, 120, initial_indent=indent, subsequent_indent=INDENT), flush=True)
    wrong, warnings = verdicts.count("WRONG"), verdicts.count("WARNING")
    print(f"{args.domain}: {wrong} wrong, {warnings} warnings, {verdicts.count('OK')} as promised")
    return 1 if wrong else 0
