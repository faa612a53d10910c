"""tc-mmwm bench. Each benchmark is one module of this package, made like a command."""

from __future__ import annotations

import argparse
import importlib
import pkgutil

HELP = "measure speed, next to a reference measured in the same run"
EXAMPLES = """\
  tc-mmwm bench decide --bundle bundles/navigation
  tc-mmwm bench decide --help
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per benchmark."""
    subparsers = parser.add_subparsers(dest="benchmark", metavar="<benchmark>", required=True)
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        benchmark = importlib.import_module(f"{__name__}.{module.name}")
        subparser = subparsers.add_parser(
            module.name,
            help=benchmark.HELP,
            description=benchmark.HELP,
            epilog=f"examples:\n{benchmark.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        benchmark.add_arguments(subparser)
        subparser.set_defaults(run_benchmark=benchmark.run)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark that was asked for."""
    return args.run_benchmark(args)
