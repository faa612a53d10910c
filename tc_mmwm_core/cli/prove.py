"""tc-mmwm prove."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tc_mmwm_core.utils.arguments import device, share

HELP = "show what each part of the method does, by training many small models"
EXAMPLES = """\
  tc-mmwm prove collapse           what keeps the latent from collapsing
  tc-mmwm prove constraint         whether the constraint function is meaningful and a bundle's bound holds
  tc-mmwm prove interventions      whether actions are interventions, and how far ahead the model sees
  tc-mmwm prove losses             what each loss and each stage of the curriculum contributes
  tc-mmwm prove losses --seeds 0 1 2 3 4 --json docs/results/ablation.json
After a kill, the same command resumes. What several of them need (data, runs) is made once, under --output.
"""
WHAT = ("collapse", "constraint", "interventions", "losses")
TRAIN_SEED, FRESH_SEED, ALTERNATIVES_SEED, LONG_SEED = 100_000, 300_000, 350_000, 360_000
FITTED = 200  # trajectories that linear map and probe are fitted to
JUDGED = 600  # fresh trajectories that each variant's constraint function is judged on
RESAMPLES = (20, 1000)
TABLES = {
    "collapse": (
        "effective_rank_fused",
        "sigreg_fused",
        "probe_r2_fused",
        "probe_r2_visual",
        "latent_variance_fused",
        "prediction_ratio",
    ),
    "constraint": ("auroc_all", "auroc_zone", "auroc_speed", "auroc_clearance", "miss_rate", "false_alarm_rate"),
    "interventions": (
        "outcome_rank",
        "latent_match",
        "latent_distance_rank",
        "latent_spread",
        "latent_error",
        "latent_model_1",
        "latent_model_5",
        "latent_model_50",
    ),
    "losses": (
        "prediction_ratio",
        "progress_correlation",
        "violation_auroc",
        "referring_error",
        "probe_r2_fused",
        "effective_rank_fused",
    ),
}
JUDGED_BY = {  # what the missing part is asked to better, and whether higher is better
    "collapse": {"effective_rank_fused": True, "probe_r2_fused": True, "probe_r2_visual": True},
    "constraint": {"auroc_all": True, "false_alarm_rate": False},
    "interventions": {"outcome_rank": True, "latent_match": True, "latent_error": False, "latent_model_50": False},
    "losses": {
        "prediction_ratio": False,
        "progress_correlation": True,
        "violation_auroc": True,
        "probe_r2_fused": True,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm prove``."""
    parser.add_argument("what", choices=WHAT, help="what to show")
    parser.add_argument("--config", type=Path, help="YAML of the full training (default: the shipped train/proof.yaml)")
    parser.add_argument("--robot", type=Path, help="robot interface YAML, or a shipped one's name (default: domain's)")
    parser.add_argument("--variants", type=Path, help="YAML of the variants (default: the shipped ablate/<what>.yaml)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/proof"), help="folder for runs and data (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, nargs="+", help="datasets to train on (default: collected in the domain)")
    parser.add_argument(
        "--episodes", type=int, default=1000, help="training episodes to collect (default: %(default)s)"
    )
    parser.add_argument("--fresh", type=int, default=1200, help="test episodes to collect (default: %(default)s)")
    parser.add_argument(
        "--states", type=int, default=60, help="states to restore and try actions in (default: %(default)s)"
    )
    parser.add_argument(
        "--alternatives", type=int, default=16, help="action sequences to try in each state (default: %(default)s)"
    )
    parser.add_argument(
        "--bundle", type=Path, help="bundle to compare the variants with (default: the domain's shipped one)"
    )
    parser.add_argument(
        "--alpha", type=share, help="largest share of violations that may be missed (default: the bundle's)"
    )
    parser.add_argument(
        "--delta", type=share, help="probability with which that bound may fail (default: the bundle's)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that collect (default: one per core)"
    )
    parser.add_argument(
        "--device", type=device, default="cpu", help="where to train: cpu, cuda, ... (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--json", type=Path, help="write the results here, with their figure next to them as .png")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Collect and train what is not there yet, measure, print the table, write the results."""
    import dataclasses

    import torch

    from tc_mmwm_core.config import ConfigError, load
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.domains.base import load_domain, robot_of
    from tc_mmwm_core.evaluation.proofs import figures, proofs
    from tc_mmwm_core.resources import resource
    from tc_mmwm_core.training.ablation import FULL, Switches, run_ablations, run_folder, table, variants
    from tc_mmwm_core.training.config import TrainConfig
    from tc_mmwm_core.training.run import METRICS, read_metrics
    from tc_mmwm_core.utils.results import write_results

    if args.threads:
        torch.set_num_threads(args.threads)
    config_file = args.config or resource("config", "train", "proof.yaml")
    base = load(config_file, TrainConfig)
    if base.data.domain is None:
        raise ConfigError(f"{config_file}: data.domain is missing; a proof needs a simulator's truth")
    domain = load_domain(base.data.domain)
    file = args.variants or resource("config", "ablate", f"{args.what}.yaml")
    switches = load(file, Switches)
    configs = variants(base, switches, str(file))
    args.robot = robot_of(domain, args.robot)
    if args.what in ("constraint", "interventions"):
        args.bundle = _bundle_for(args, domain)
        _refuse_unsuited(args, base.model)  # before hours of training
    if args.what == "interventions":
        _refuse_without_saving(domain)
    paths = args.data or [_collected(args, base, "train", args.episodes, 50, TRAIN_SEED)]
    datasets = [Dataset.open(path).tell_skipped() for path in paths]
    rows = run_ablations(configs, args.seeds, datasets, args.output, args.device, not args.quiet)
    found = {
        "config": base.model_dump(mode="json"),
        "variants": switches.switches,
        "seeds": args.seeds,
        "data": {"train": [dataset.digest for dataset in datasets]},
    }
    figure = None
    if args.what == "constraint":
        rows = _constraint(args, base, domain, rows, found)
    elif args.what == "interventions":
        rows, figure = _interventions(args, base, domain, datasets, rows, found)
    elif args.what == "collapse":
        folders = [run_folder(args.output, row.ablation, row.seed) for row in rows]
        points = [proofs.over_training(read_metrics(folder / METRICS), TABLES["collapse"]) for folder in folders]
        found["over_training"] = [
            {"ablation": row.ablation, "seed": row.seed, "validations": each}
            for row, each in zip(rows, points, strict=True)
        ]
        figure = figures.collapse_figure([(row.ablation, each) for row, each in zip(rows, points, strict=True)])
    print(table(rows, TABLES[args.what]))
    compared = [row for row in rows if row.ablation in configs]
    found["gains"] = {
        measure: proofs.gains(compared, measure, higher, FULL) for measure, higher in JUDGED_BY[args.what].items()
    }
    for measure, gains in found["gains"].items():
        print(f"\n{measure}: gain from each part, listed by the variant that lacks it")
        for name, each in gains.items():
            print(f"{name:24s} {each['gain']:+8.3f} [{each['low']:+.3f}, {each['high']:+.3f}]  {each['verdict']}")
    if args.json:
        write_results(args.json, found | {"rows": [dataclasses.asdict(row) for row in rows]})
        if figure is not None:
            figure.savefig(args.json.with_suffix(".png"), dpi=90)
    return 0


def _bundle_for(args, domain) -> Path:
    """The bundle that is given, or the domain's shipped one. ConfigError: none is."""
    from tc_mmwm_core.config import ConfigError
    from tc_mmwm_core.resources import ResourceError, resource

    try:
        return args.bundle or resource("bundles", domain.name)
    except ResourceError:
        told = f"--bundle is missing (it is proved beside the variants), and none ships for {domain.name}"
        raise ConfigError(told) from None


def _refuse_unsuited(args, model) -> None:
    """ConfigError, BundleError, CheckpointError: the bundle cannot be held against the training configuration."""
    from tc_mmwm_core.config import ConfigError
    from tc_mmwm_core.interface.robot import RobotInterface
    from tc_mmwm_core.runtime.bundle import Bundle
    from tc_mmwm_core.training.weights import load_bundle

    bundle = Bundle.load(args.bundle)
    bundle.check(RobotInterface.load(args.robot))
    manifest = bundle.manifest
    if (manifest.horizon, manifest.frame_skip) != (model.horizon, model.frame_skip):
        raise ConfigError(
            f"--bundle {args.bundle}: imagines {manifest.horizon} latent steps of {manifest.frame_skip} control steps, "
            f"the training configuration {model.horizon} of {model.frame_skip}; they must agree"
        )
    if args.what == "interventions":  # of its weights, not of its graphs
        if manifest.max_tokens != model.max_tokens:
            raise ConfigError(
                f"--bundle {args.bundle}: reads {manifest.max_tokens} tokens of an instruction, the training "
                f"configuration {model.max_tokens} (model.max_tokens); they must agree"
            )
        load_bundle(args.bundle)


def _refuse_without_saving(domain) -> None:
    """DomainError: states of the domain's environment cannot be restored to try other actions in."""
    from contextlib import closing

    from tc_mmwm_core.domains.base import DomainError
    from tc_mmwm_core.domains.conformance import saving_misfits

    with closing(domain.environment(render=False)) as environment:
        missing = saving_misfits(environment)
    if missing:
        raise DomainError(
            f"domain {domain.name!r}: {', '.join(missing)}, with which a state is restored to try other actions in; "
            "see Domain.environment"
        )


def _collected(args, config, name: str, episodes: int, steps: int, seed: int) -> Path:
    """The dataset ``name`` under the output folder, collected as far as it is not there."""
    from tc_mmwm_core.domains.collect import collect

    path = args.output / "data" / name
    collect(config.data.domain, args.robot, path, episodes, steps, seed, args.workers, not args.quiet)
    return path


def _labelled(args, config, domain, dataset):
    from tc_mmwm_core.training.data import LabelledData

    return LabelledData([dataset], config, domain, not args.quiet)


def _constraint(args, base, domain, rows, found):
    """The variants' constraint functions on fresh trajectories, and the bound of a bundle on them."""
    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.evaluation.proofs.bundle_scores import bundle_scores
    from tc_mmwm_core.evaluation.proofs.constraint import bound, discrimination, verdicts
    from tc_mmwm_core.evaluation.proofs.proofs import Bound, constraint_rows, trained
    from tc_mmwm_core.runtime.bundle import Bundle
    from tc_mmwm_core.runtime.screener import Screener

    fresh = Dataset.open(_collected(args, base, "fresh", args.fresh, 50, FRESH_SEED)).tell_skipped()
    found["data"]["fresh"] = fresh.digest
    data = _labelled(args, base, domain, fresh)
    bundle = Bundle.load(args.bundle)
    scores = bundle_scores(Screener(bundle), fresh, data.labels[0], progress=not args.quiet)
    calibration = bundle.manifest.calibration
    bundles = Bound(calibration.alpha, calibration.delta) if calibration else Bound()
    asked = Bound(args.alpha or bundles.alpha, args.delta or bundles.delta)
    found["bundle"] = {
        "identity": bundle.identity,
        "auroc": discrimination(scores, domain),
        "violating_sequences": int(scores.violating.sum()),
        "at_its_threshold": {"tau": bundle.manifest.threshold} | verdicts(scores, bundle.manifest.threshold),
        "bound": [bound(scores, asked.alpha, asked.delta, count, share=0.25, seed=0) for count in RESAMPLES],
    }
    for each in found["bundle"]["bound"]:
        print(
            f"{bundle.identity}: over {each['resamples']} resampled calibration sets of "
            f"{each['calibration_trajectories']} trajectories, {each['exceeding']:.1%} miss more than "
            f"{asked.alpha:.0%} on the rest; the bound allows {asked.delta:.0%}"
        )
    own = found["bundle"]["at_its_threshold"]
    print(f"at its own threshold: {own['miss_rate']:.2%} missed, {own['false_alarm_rate']:.1%} false alarms")
    judged = _labelled(args, base, domain, fresh.subset(range(min(JUDGED, len(fresh)))))
    models = trained(rows, args.output, fresh.interface)
    return constraint_rows(models, judged, domain, asked, not args.quiet)


def _interventions(args, base, domain, datasets, rows, found):
    """Restored and replayed alternatives, and open-loop prediction: of the variants, and of a bundle's model."""
    from itertools import chain

    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.evaluation.long_horizon import STEPS
    from tc_mmwm_core.evaluation.proofs.figures import open_loop_figure
    from tc_mmwm_core.evaluation.proofs.interventions import collect_alternatives
    from tc_mmwm_core.evaluation.proofs.proofs import Trained, intervention_rows, open_loop_results, trained
    from tc_mmwm_core.training.weights import load_bundle

    model = base.model
    path = args.output / "data" / "alternatives"
    collect_alternatives(
        domain,
        args.robot,
        path,
        args.states,
        args.alternatives,
        model.horizon,
        model.frame_skip,
        ALTERNATIVES_SEED,
        not args.quiet,
    )
    steps = (STEPS + 1) * model.frame_skip
    parts = {
        "alternatives": Dataset.open(path).tell_skipped(),
        "long": Dataset.open(_collected(args, base, "long", args.states * 2, steps, LONG_SEED)).tell_skipped(),
    }
    found["data"] |= {name: dataset.digest for name, dataset in parts.items()}
    fitted = datasets[0].subset(range(min(FITTED, len(datasets[0]))))
    labelled = [_labelled(args, base, domain, dataset) for dataset in (parts["alternatives"], fitted, parts["long"])]
    models = chain(trained(rows, args.output, datasets[0].interface), [Trained("bundle", *load_bundle(args.bundle))])
    rows, curves = intervention_rows(models, *labelled, STEPS)
    found["open_loop"] = open_loop_results(curves)
    return rows, open_loop_figure(curves)
