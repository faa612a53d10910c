"""tc-mmwm benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import device

SHIPPED = ("default", "cpu", "quick")
HELP = "rerun the whole benchmark: collect, train every variant under every seed, export, evaluate, print the table"
EXAMPLES = """\
  tc-mmwm benchmark --quick                   everything on a small scale: takes minutes, and its numbers mean little
  tc-mmwm benchmark --config cpu --plan       what is done, what is left, and how long that will take
  tc-mmwm benchmark --config cpu --threads 1  sized for a CPU (days on 2 cores); after a kill, the same command resumes
  tc-mmwm benchmark --json docs/results/benchmark.json --device cuda
  tc-mmwm benchmark --only navigation/full navigation/expert --seeds 0
Start it several times at once (on cores, GPUs or machines that share the folder) and the processes divide the work.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm benchmark``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--config",
        default="default",
        help=f"{', '.join(SHIPPED)} (of config/benchmark/), or a YAML file (default: %(default)s)",
    )
    which.add_argument("--quick", dest="config", action="store_const", const="quick", help="short for --config quick")
    parser.add_argument(
        "--output", type=Path, help="folder for everything made (default: runs/benchmark-<name of the config>)"
    )
    parser.add_argument("--only", nargs="+", metavar="DOMAIN[/VARIANT]", help="only these parts of the schedule")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these training seeds of the schedule")
    parser.add_argument(
        "--plan", action="store_true", help="print what is left to do and how long it will take, then stop"
    )
    parser.add_argument(
        "--device", type=device, default="cpu", help="where to train: cpu, cuda, ... (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads for training (default: one per core)")
    parser.add_argument("--workers", type=int, default=1, help="processes that collect and evaluate (default: 1)")
    parser.add_argument(
        "--json",
        type=Path,
        help="write the table here, with its figure next to it, and keep what is there of jobs that the output folder "
        "has not done (default: in the output folder)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Work off the schedule; table and figure are written after every job, and the table printed at the end."""
    import torch

    from tc_mmwm_core.evaluation.benchmark.figure import draw
    from tc_mmwm_core.evaluation.benchmark.plan import read_plan, selected
    from tc_mmwm_core.evaluation.benchmark.run import Benchmark
    from tc_mmwm_core.evaluation.benchmark.table import collate, read_evaluations, render
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.utils.results import write_results

    if args.threads:
        torch.set_num_threads(args.threads)
    shipped = args.config in SHIPPED
    file = resource("config", "benchmark", f"{args.config}.yaml") if shipped else Path(args.config)
    plan = read_plan(file)
    jobs = selected(plan, args.only, args.seeds)
    folder = args.output or Path("runs") / f"benchmark-{file.stem}"
    benchmark = Benchmark(plan, folder, workers=args.workers, device=args.device, progress=not args.quiet)
    _print_plan(benchmark, jobs, whole=args.plan)
    if args.plan:
        return 0
    described = {
        "config": plan.config.model_dump(mode="json"),
        "training": {domain: plan.training[domain, "full"].model_dump(mode="json") for domain in plan.config.domains},
    }
    output = args.json or folder / "benchmark.json"
    earlier = read_evaluations(output) if args.json else {}

    def write():
        content = collate(benchmark, earlier) | described
        held = [job for job in plan.jobs if str(job.folder) in content["evaluations"]]
        content["command"] = _command(args.config if shipped else file.name, plan, held)
        content["seeds"] = sorted({job.seed for job in held})
        write_results(output, content)
        draw(content, list(plan.config.domains), output.with_suffix(".png"))
        return content

    failed = {}
    for job, error in benchmark.work_off(jobs):
        if error is not None:
            failed[job] = error
        print(f"{job}: {error or 'done'}", flush=True)
        write()
    print("\n" + render(write(), plan.config.domains))
    print(f"\nwritten to {output} and {output.with_suffix('.png').name}")
    for job, error in failed.items():
        print(f"FAILED: {job}: {error}")
    return 1 if failed else 0


def _command(config: str, plan, held) -> str:
    """What gives a table with all of ``held``, jobs of ``plan``, in one call: it may have been made in several."""
    names = dict.fromkeys(f"{job.domain}/{job.name}" for job in held)
    whole = len(held) == len(plan.jobs)
    chosen = {
        "--config": [config],
        "--only": [] if whole else names,
        "--seeds": [] if whole else sorted({j.seed for j in held}),
    }
    return " ".join(["tc-mmwm benchmark", *(f"{k} {' '.join(map(str, v))}" for k, v in chosen.items() if v)])


def _print_plan(benchmark, jobs, whole: bool) -> None:
    """Print how much is left; with ``whole``, every job with its parts and their minutes."""
    parts = {job: [(p, benchmark.clock.seconds(p)) for p in each] for job, each in benchmark.parts(jobs).items()}
    for job, each in parts.items() if whole else ():
        told = [f"{p.kind} {p.amount} ({'?' if s is None else f'{s / 60:.1f}'} min)" for p, s in each]
        print(f"{job!s:44} {', '.join(told) or 'done'}")
    left = [part for each in parts.values() for part in each]
    done = sum(benchmark.done(job) for job in jobs)
    trainings = sum(part.kind == "train" for part, _ in left)
    minutes = sum(seconds for _, seconds in left if seconds is not None) / 60
    untimed = sum(seconds is None for _, seconds in left)
    print(
        f"{benchmark.folder}: {done} of {len(jobs)} evaluations done, {trainings} trainings to do; at the rates so far "
        f"{minutes:.0f} min for one process" + (f" and {untimed} parts not timed so far" if untimed else "")
    )
