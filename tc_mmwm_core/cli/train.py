"""tc-mmwm train."""

from __future__ import annotations

import argparse
from pathlib import Path

from tc_mmwm_core.utils.arguments import device

HELP = "train a world model on one or more datasets; a killed run continues where it was"
EXAMPLES = """\
  tc-mmwm train --config config/train/navigation.yaml --data data/navigation --output runs/navigation
  tc-mmwm train --config config/train/default.yaml --data data/sim data/real --output runs/mixed --device cuda
  tc-mmwm train --config config/train/finetune.yaml --init bundles/navigation --data data/new data/old --output runs/new
  tc-mmwm train --config config/train/manipulation_again.yaml --init bundles/manipulation --output runs/again \\
    --data data/manipulation data/again data/again  (what a bundle drove itself, twice; see tc-mmwm collect --bundle)
  torchrun --nproc_per_node 4 -m tc_mmwm_core train --config config/train/default.yaml --data data/sim \\
    --output runs/4 --device cuda  (four GPUs, among which each batch is divided)
  GOMP_SPINCOUNT=1000 tc-mmwm train ...  (on CPU cores that other processes use too: libgomp's threads spin while they
    wait for one another, on 2 cores beside one other process for 15 s a step in place of 0.5; alone it costs a fifth)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm train``."""
    parser.add_argument("--config", type=Path, required=True, help="YAML with every hyperparameter")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="dataset folders; simulated and real are mixed by weight, those of a kind by how long they are: one that "
        "is given several times counts as often, each time under other instructions",
    )
    parser.add_argument("--output", type=Path, required=True, help="run folder; a run that is there is continued")
    parser.add_argument("--init", type=Path, help="bundle or run to start from; its model configuration is used")
    parser.add_argument("--stages", nargs="+", help="only these stages, in this order (default: all of the config)")
    parser.add_argument("--seed", type=int, help="overrides the config's")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="warnings, errors and the end alone: no progress bars, no table of what each stage can learn from",
    )


def run(args: argparse.Namespace) -> int:
    """Train and print what held-out data say."""
    import torch

    from tc_mmwm_core.config import load, parse
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.training.curriculum import select_stages
    from tc_mmwm_core.training.distributed import is_first
    from tc_mmwm_core.training.trainer import train
    from tc_mmwm_core.training.weights import read_weights
    from tc_mmwm_core.utils.files import shown

    if args.threads:
        torch.set_num_threads(args.threads)
    config = load(args.config, TrainConfig)
    config = config.model_copy(update={"stages": select_stages(config.stages, args.stages)})
    if args.seed is not None:
        config = config.model_copy(update={"seed": args.seed})
    init = None
    if args.init is not None:
        init = read_weights(args.init)
        content = config.model_dump(mode="json") | {"model": init.config.model.model_dump(mode="json")}
        config = parse(content, TrainConfig, f"{args.config} with the model of {args.init}")
    datasets = [Dataset.open(path) for path in args.data]
    if init is not None and is_first():
        for line in init.interface.differences(datasets[0].interface):
            print(f"warning: {args.init} was trained for another robot interface: {line}")
        for name, value in config.objective:
            if value != (theirs := getattr(init.config.objective, name)):
                print(f"warning: {args.init} was trained with objective.{name} {theirs}, which is {value} now")
    for dataset in datasets if is_first() else ():
        dataset.tell_skipped()
    measures = train(config, datasets, args.output, init, args.device, progress=not args.quiet)
    if not is_first():
        return 0
    for name, value in measures.items():
        print(f"{name:32s} {value:8.4f}")
    data, why = " ".join(str(shown(path)) for path in dict.fromkeys(args.data)), ""
    if config.early_stopping.patience is not None:
        data, why = "OTHERS", " (OTHERS: data that were not trained on; early stopping has seen what was held out, too)"
    run = shown(args.output)
    print(f"run: {run}; next: tc-mmwm export {run} --data {data} --output BUNDLE{why}")
    return 0
