"""``tc-mmwm <command>``. Each command is one module of this package.

A command module has ``HELP`` (one line), ``EXAMPLES`` (text shown under ``--help``), ``add_arguments(parser)`` and
``run(args) -> int``. It imports what is heavy inside ``run``: only then does ``--help`` answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import pkgutil
import select
import sys
from collections.abc import Sequence

EPILOG = "tc-mmwm <command> --help shows the arguments of a command, with examples."


def commands() -> list[str]:
    """Names of the commands there are: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command in it."""
    parser = argparse.ArgumentParser(
        prog="tc-mmwm",
        description="Collect or convert data, train the world model, export it for the robot, and measure it.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("tc_mmwm_core"))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    for name in commands():
        command = importlib.import_module(f"{__name__}.{name}")
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run_command=command.run)  # `run` may be one of its arguments
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Exit codes: 0 done, 1 the command's own 'no', 2 wrong usage or input, 130 interrupted, 141 nobody reads its output.
    """
    args = build_parser().parse_args(arguments)
    if not sys.stderr.isatty():  # in a log file each refresh of a bar is a line of its own
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    try:
        status = args.run_command(args) or 0
        print(end="", flush=True)  # where it is closed (>&-), print has nothing to flush
        return status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and sys.stdout and _unread():  # `| head` has seen enough
            return 141
        if args.debug or not _is_for_people(error):
            raise
        print(f"tc-mmwm {args.command}: {error}", file=sys.stderr)
        return 2


def _unread() -> bool:
    """Whether nobody reads standard output any more; then what is still to be written to it goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _is_for_people(error: Exception) -> bool:
    """Whether the message alone tells what to fix: errors defined here, and those of files. Others are bugs."""
    return type(error).__module__.split(".")[0] == "tc_mmwm_core" or isinstance(error, OSError)
