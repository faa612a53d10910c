"""tc-mmwm inspect."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tc_mmwm_core.data.dataset import TrajectoryInfo
    from tc_mmwm_core.runtime.bundle import Calibration

HELP = "describe a dataset, bag, run, bundle or checkpoint and what is in it"
EXAMPLES = """\
  tc-mmwm inspect data/navigation --figure data/navigation.png
  tc-mmwm inspect rosbag2_2025_06_01-12_00_00
  tc-mmwm inspect runs/navigation                  how far a training has come, and what to do next
  tc-mmwm inspect bundles/navigation --json
"""
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tc-mmwm inspect``."""
    parser.add_argument("path", type=Path, help="folder of a dataset, run or bundle, bag or checkpoint file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--all", action="store_true", help=f"every trajectory, not only the first {SHOWN}")
    parser.add_argument("--verify", action="store_true", help="datasets only: read every image and check its checksum")
    parser.add_argument("--figure", type=Path, help="datasets only: draw frames of its trajectories to this PNG")


def run(args: argparse.Namespace) -> int:
    """Describe ``args.path``. 1: something in it is damaged."""
    from tc_mmwm_core.data.dataset import DatasetError

    path: Path = args.path
    if (path / "dataset.json").is_file():
        facts, text = _dataset(path, args)
    elif args.figure or args.verify:
        raise DatasetError(f"{path}: not a dataset; --figure and --verify are for datasets")
    elif (path / "bundle.json").is_file():
        facts, text = _bundle(path)
    elif (path / "last.pt").is_file():
        facts, text = _run(path)
    elif (path / "metrics.jsonl").is_file():
        from tc_mmwm_core.training.checkpoint import CheckpointError

        raise CheckpointError(f"{path}: this run has no checkpoint (last.pt) yet; if it is training, try in a minute")
    elif path.suffix == ".pt":
        facts, text = _checkpoint(path)
    else:
        facts, text = _bag(path)
    print(json.dumps(facts, indent=2) if args.json else text)
    return 1 if facts.get("damaged") else 0


def _dataset(path: Path, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import numpy as np

    from tc_mmwm_core.data.dataset import Dataset
    from tc_mmwm_core.data.report import beyond_in_words

    dataset = Dataset.open(path)
    interface = dataset.interface
    damaged = [{"shard": shard, "trajectory": index, "why": why} for shard, index, why in dataset.skipped]
    if args.verify:
        damaged += [{"shard": shard, "trajectory": index, "why": why} for shard, index, why in dataset.verify()]
    rows = []
    actions = [np.zeros((0, interface.action_size), np.float32)]
    for index, info in enumerate(dataset.trajectories):
        trajectory = dataset[index]
        actions.append(trajectory.action[trajectory.valid])
        rows.append(
            {
                "trajectory": index,
                "steps": info.length,
                "invalid": int((~trajectory.valid).sum()),
                "violating": int((trajectory.violation == 1).sum()),
                "unjudged": int((trajectory.violation == -1).sum()),
                "success": info.success,
                "source": info.source,
                "instruction": info.instruction,
                "shard": info.shard,
            }
        )
    outcomes = Counter(row["success"] for row in rows)
    origin = _origin(dataset.trajectories)
    lengths = [row["steps"] for row in rows]
    done = np.concatenate(actions)
    spans = np.stack([done.min(0), done.max(0)], 1).tolist() if len(done) else [None] * interface.action_size
    fields = zip(interface.action_names, spans, interface.beyond_limits(done).sum(0).tolist(), strict=True)
    facts = {
        "kind": "dataset",
        "robot": interface.name,
        "rate": interface.rate,
        "images": {spec.name: [spec.height, spec.width, spec.channels] for spec in interface.images},
        "sensors": interface.sensor_names,
        "action": interface.action_names,
        "commanded": {name: {"span": span, "beyond_limits": beyond} for name, span, beyond in fields},
        "trajectories": rows,
        "steps": dataset.steps,
        "lengths": {"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)} if rows else None,
        "seconds": dataset.steps / interface.rate,
        "instructions": len({row["instruction"] for row in rows}),
        "origin": origin,
        "successes": outcomes[True],
        "failures": outcomes[False],
        "digest": dataset.digest,
        "damaged": damaged,
    }
    images = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in facts["images"].items())
    sensors = ", ".join(f"{s.name} ({', '.join(field.name for field in s.fields)})" for s in interface.sensors)
    actions_in_words = [
        f"{field.name} [{field.unit}]" + (f" {span[0]:.3g} to {span[1]:.3g}" if span else "")
        for field, span in zip(interface.action.fields, spans, strict=True)
    ]
    judged = dataset.steps - sum(row["unjudged"] for row in rows)
    lines = [
        f"dataset of the robot '{interface.name}' at {interface.rate:g} Hz, digest {dataset.digest[:12]}",
        f"  images      {images}",
        f"  sensors     {interface.sensor_size} numbers: {sensors}",
        f"  action      {', '.join(actions_in_words)}",
        f"  trajectories {len(rows)}, {dataset.steps} steps ({facts['seconds']:.0f} s), "
        f"{dataset.steps - len(done)} of them not valid",
        *([f"  lengths     {min(lengths)} to {max(lengths)} steps, median {np.median(lengths):g}"] if rows else []),
        f"  instructions {facts['instructions']} different ones",
        *_origin_in_words(origin),
        f"  outcome     {outcomes[True]} success, {outcomes[False]} failure, {outcomes[None]} unknown",
        f"  violations  {sum(row['violating'] for row in rows)} of {judged} judged steps",
        *(
            f"  {beyond_in_words(field.name, facts['commanded'][field.name]['beyond_limits'], len(done), field.limits)}"
            for field in interface.action.fields
            if facts["commanded"][field.name]["beyond_limits"]
        ),
        "",
        f"{'#':>6} {'steps':>6} {'invalid':>7} {'violating':>9} {'success':>8} {'source':<10} instruction",
    ]
    shown = rows if args.all else rows[:SHOWN]
    for row in shown:
        violating = "?" if row["unjudged"] == row["steps"] else row["violating"]
        success = {True: "yes", False: "no", None: "?"}[row["success"]]
        lines.append(
            f"{row['trajectory']:>6} {row['steps']:>6} {row['invalid']:>7} {violating:>9} {success:>8} "
            f"{row['source']:<10} {row['instruction']}"
        )
    if len(shown) < len(rows):
        lines.append(f"       ... and {len(rows) - len(shown)} more (--all shows them)")
    lines += [f"damaged: shard {d['shard']}, trajectory {d['trajectory']}: {d['why']}" for d in damaged]
    if args.figure:
        _contact_sheet(dataset, args.figure)
        lines.append(f"frames of the first trajectories: {args.figure}")
    return facts, "\n".join(lines)


def _origin(infos: Sequence[TrajectoryInfo]) -> dict[str, Any]:
    """Who drove, and what disturbed that; in which layouts; and from which recordings the rest is."""
    drivers: dict[str, Counter[str]] = {}
    seeds: set[int] = set()
    recordings: Counter[str] = Counter()
    for info in infos:
        made = info.provenance
        if "driver" in made:
            who = " ".join(filter(None, (made["driver"], made.get("bundle"))))
            drivers.setdefault(who, Counter())[made.get("perturbation") or "undisturbed"] += 1
        if "bag" in made or "lerobot" in made:
            recordings[made.get("lerobot") or made["bag"]] += 1
        seed = made.get("seed", made.get("scene_seed"))
        if info.scene is not None and seed is not None:
            seeds.add(seed)
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and ranges[-1][1] == seed - 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return {"drivers": drivers, "layout_seeds": ranges, "recordings": recordings}


def _origin_in_words(origin: dict[str, Any]) -> list[str]:
    """Two lines at most; one for what was driven in a domain, one for recordings."""
    lines = []
    if origin["drivers"]:
        who = []
        for name, kinds in sorted(origin["drivers"].items(), key=lambda item: -item[1].total()):
            disturbed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()) if kind != "undisturbed")
            who.append(f"{name} {kinds.total()}" + (f" ({disturbed})" if disturbed else ""))
        lines.append(f"  driven by   {', '.join(who)}")
    if origin["recordings"]:
        lines.append(f"  recordings  {_few([f'{name} {count}' for name, count in origin['recordings'].items()])}")
    if origin["layout_seeds"] and lines:
        seeds = [str(first) if first == last else f"{first}-{last}" for first, last in origin["layout_seeds"]]
        lines[0] += f"; layout seeds {_few(seeds)}"
    return lines


def _few(texts: list[str], shown: int = 5) -> str:
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more" if len(texts) > shown else "")


def _contact_sheet(dataset: Any, path: Path, trajectories: int = 8, frames: int = 10) -> None:
    """One row a trajectory, its first camera; a frame is red where the instruction is being broken, grey: unknown."""
    import numpy as np
    from matplotlib.figure import Figure

    from tc_mmwm_core.data.dataset import DatasetError

    if not dataset.interface.images:
        raise DatasetError(f"{dataset.paths[0]}: 'images' of the robot interface is empty; --figure needs a camera")
    spec = dataset.interface.images[0]
    rows = min(trajectories, len(dataset))
    figure = Figure(figsize=(frames * 1.1, max(rows, 1) * 1.35), layout="constrained")
    axes = figure.subplots(max(rows, 1), frames, squeeze=False)
    for row in range(rows):
        trajectory = dataset[row]
        for column, step in enumerate(np.linspace(0, len(trajectory) - 1, frames).astype(int)):
            axis = axes[row, column]
            image = trajectory.images[spec.name][step]
            image = image[..., ::-1] if spec.encoding == "bgr8" else image
            axis.imshow(image.squeeze(), cmap="gray" if spec.channels == 1 else None)
            axis.set(xticks=[], yticks=[])
            colour = {1: "red", 0: "green", -1: "grey"}[int(trajectory.violation[step])]
            for side in axis.spines.values():
                side.set(color=colour, linewidth=2)
        outcome = {True: "success", False: "failure", None: "outcome unknown"}[trajectory.success]
        axis, text = axes[row, 0], f"{row}: {trajectory.instruction} ({outcome})"
        title = axis.text(0, 1.06, text, transform=axis.transAxes, fontsize=7)
        title.set_in_layout(False)  # it runs over the whole row
    figure.supxlabel("frames in red break a rule, in green none, in grey nobody judged", fontsize=7)
    figure.savefig(path, dpi=150)


def _bag(path: Path) -> tuple[dict[str, Any], str]:
    from tc_mmwm_core.data.bag import Bag, NoBagError

    try:
        bag = Bag(path)
    except NoBagError as error:
        others = "a dataset (dataset.json), bundle (bundle.json), run (last.pt) or checkpoint (.pt)"
        raise NoBagError(f"{error}; nor is it {others}") from None
    topics = {
        name: {"type": topic.type, "messages": topic.messages, "rate": topic.messages / max(bag.duration, 1e-9)}
        for name, topic in sorted(bag.topics.items())
    }
    facts = {"kind": "bag", "duration": bag.duration, "topics": topics, "damaged": bag.lost}
    lines = [f"bag of {bag.duration:.1f} s, {sum(topic['messages'] for topic in topics.values())} messages"]
    lines += [
        f"  {name:<32} {topic['type']:<36} {topic['messages']:>8} messages {topic['rate']:>8.1f} Hz"
        for name, topic in topics.items()
    ]
    return facts, "\n".join(lines + [f"damaged: {line}" for line in bag.lost])


def _bundle(path: Path) -> tuple[dict[str, Any], str]:
    from tc_mmwm_core.runtime.bundle import Bundle
    from tc_mmwm_core.runtime.planner import planner_file
    from tc_mmwm_core.utils.files import shown

    bundle = Bundle.load(path)
    manifest, file = bundle.manifest, planner_file(path)
    facts = {"kind": "bundle", "identity": bundle.identity} | manifest.model_dump(mode="json", by_alias=True)
    sizes = ", ".join(f"{name} {(path / name).stat().st_size / 1e6:.1f} MB" for name in manifest.files)
    lines = [
        f"model bundle {bundle.identity} for the robot '{bundle.interface.name}', made {manifest.created}",
        f"  latent      {manifest.latent} numbers, context {manifest.context}",
        f"  imagines    {manifest.horizon} steps of {bundle.step_duration:g} s",
        f"  threshold   {manifest.threshold:g}: {_promise(manifest.calibration)}",
        f"  goal        {_goal(manifest.goal_threshold, manifest.goal_calibration)}",
        f"  progress    {'taught by an oracle' if manifest.progress_taught else 'not taught: it ranks nothing'}",
        f"  trained     revision {manifest.training.revision}, seed {manifest.training.seed}",
        *([f"  unfinished  {manifest.training.unfinished}"] if manifest.training.unfinished else []),
        f"  planner     parameters: {shown(file) if file else 'built-in defaults'}, unless the planner is given a file",
        f"  files       {sizes}",
        "every file has the sha256 that bundle.json names",
    ]
    return facts, "\n".join(lines)


def _promise(calibration: Calibration | None) -> str:
    if calibration is None:
        return "set by hand, promises nothing"
    told = (
        f"of a trajectory's violating sequences, on average over trajectories, at most {calibration.alpha:.1%} are "
        f"accepted, with confidence {1 - calibration.delta:.0%}"
    )
    rests_on = [calibration.method, f"{calibration.n_trajectories} trajectories"]
    if calibration.sequences is not None:
        rests_on.append(f"{calibration.sequences} violating sequences")
    if calibration.empirical_miss is not None:
        rests_on.append(f"{calibration.empirical_miss:.2%} of a trajectory's accepted there")
    if calibration.empirical_false_alarm is not None:
        rests_on.append(f"{calibration.empirical_false_alarm:.1%} of complying ones rejected")
    return f"{told} ({', '.join(rests_on)})"


def _goal(threshold: float | None, calibration: Calibration | None) -> str:
    if threshold is None or calibration is None:
        return "not told whether it is in view"
    return (
        f"in view where the best place's progress is above {threshold:g}: of a trajectory's sequences whose goal is "
        f"there, on average over trajectories, at most {calibration.alpha:.1%} begin where it is not seen, with "
        f"confidence {1 - calibration.delta:.0%} ({calibration.method}, {calibration.n_trajectories} trajectories)"
    )


def _run(path: Path) -> tuple[dict[str, Any], str]:
    """What a run's checkpoints and its logs say of it."""
    import shlex

    import yaml

    from tc_mmwm_core.training.run import ENVIRONMENT, METRICS, read_metrics
    from tc_mmwm_core.training.run_progress import RunProgress
    from tc_mmwm_core.training.weights import read_weights
    from tc_mmwm_core.utils.files import shown

    run, weights = RunProgress.of(path), read_weights(path)
    starts = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8")) if (path / ENVIRONMENT).exists() else []
    command = shlex.join(starts[-1]["command"]) if starts else "the command that began it"
    validated = {}  # by stage, the last of each
    for record in read_metrics(path / METRICS) if (path / METRICS).exists() else ():
        if record["step"] <= run.last.step and "valid/loss" in record:
            validated[record["stage"]] = {
                "step": record["step"],
                "loss": record["loss"],
                "held_out": record["valid/loss"],
            }
    set_here = run.config.model_dump(mode="json", exclude_defaults=True)
    facts = {
        "kind": "run",
        "robot": weights.interface.name,
        "standing": run.standing,
        "step": run.last.step,
        "ended": run.ended,
        "best": None if run.best is None else vars(run.best),
        "trained_on": len(weights.trained_on),
        "datasets": run.datasets,
        "judged": weights.judged,
        "validated": validated,
        "command": command,
        "config": set_here,
    }
    ended = {True: "ended", False: "not ended", None: "not told whether it has ended"}[run.ended]
    digests = ", ".join(digest[:12] for digest in run.datasets) or "not told which"
    data = "DATA" if run.config.early_stopping.patience is None else "DATA_THAT_WERE_NOT_TRAINED_ON"
    export = f"tc-mmwm export {shown(path)} --data {data} --output BUNDLE"
    lines = [
        f"training run for the robot '{weights.interface.name}'",
        f"  standing    {run.standing}; {run.last.step} optimizer steps in all; {ended}",
        f"  to export   {run.exported}",
        f"  trained on  datasets {digests}; {len(weights.trained_on)} identities of trajectories and their episodes",
        f"  progress    {'taught by an oracle' if weights.judged else 'not taught: no oracle judged anything'}",
        f"  started     {len(starts)} times" + (f", first {starts[0]['started']}" if starts else ""),
        f"  next        {export if run.ended else f'{command} (in the folder where it was begun) goes on from there'}",
        "",
        f"{'stage, as last validated':24} {'step':>7} {'loss':>9} {'held out':>9}",
    ]
    for stage, last in validated.items():
        loss, held_out = ("-" if last[name] is None else f"{last[name]:.4f}" for name in ("loss", "held_out"))
        lines.append(f"{stage:24} {last['step']:>7} {loss:>9} {held_out:>9}")
    lines += ["", "what its configuration sets that is not the default:"]
    lines += ["  " + line for line in yaml.safe_dump(set_here, sort_keys=False, width=110).splitlines()]
    return facts, "\n".join(lines)


def _checkpoint(path: Path) -> tuple[dict[str, Any], str]:
    import torch

    from tc_mmwm_core.training.checkpoint import read_checkpoint

    content = read_checkpoint(path)
    parts = {}
    for name, state in content["parts"].items():
        tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
        parts[name] = {"tensors": len(tensors), "numbers": sum(tensor.numel() for tensor in tensors)}
    facts = {"kind": "checkpoint", "position": content["position"], "parts": parts, "config": content["config"]}
    where = ", ".join(f"{key} {value}" for key, value in content["position"].items())
    lines = [f"checkpoint at {where}"]
    lines += [
        f"  {name:<16} {part['tensors']:>5} tensors {part['numbers']:>12,} values" for name, part in parts.items()
    ]
    return facts, "\n".join(lines)
