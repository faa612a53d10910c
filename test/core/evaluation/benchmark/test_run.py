"""The benchmark from nothing to its table, in small: real data, trainings and episodes; killed, it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tc_mmwm_core.cli import main
from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.data.dataset import Dataset, DatasetError
from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.evaluation.benchmark import run as running
from tc_mmwm_core.evaluation.benchmark.plan import read_plan
from tc_mmwm_core.evaluation.benchmark.run import Benchmark
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.training.checkpoint import CheckpointError
from tc_mmwm_core.training.stage import TrainingError
from tc_mmwm_core.training.weights import read_weights

SMALL = {"trajectories": 4, "instructions": 2, "starts": 2}
TRAINING = {
    "data": {"domain": "navigation", "instructions": 2, "holdout": 0.25},
    "model": {
        **{"latent": 16, "width": 16, "hidden": 32, "slots": 3, "slot_width": 4, "field_channels": 2},
        **{"word_dimensions": 16, "horizon": 3},
    },
    "stages": [
        {"name": "reconstruction", "epochs": 1, "min_length": 1, "max_length": 1, **SMALL},
        {"name": "full", "epochs": 1, "min_length": 4, "max_length": 5, **SMALL},
    ],
}
AGAIN = TRAINING | {"stages": [{"name": "policy", "epochs": 1, "min_length": 4, "max_length": 5, "passes": 2, **SMALL}]}
PLANNER = {"proposals": {"candidates": 8}}
PLAN = {
    "domains": {
        "navigation": {
            **{"domain": "navigation", "episodes": 8, "steps": 24, "seed": 100000, "train": "train.yaml"},
            **{"calibration": 3},
            "again": {
                **{"episodes": 3, "steps": 12, "disturb": ["occlusion"], "times": 2, "train": "again.yaml"},
                "explored": {"driver": "heedless", "episodes": 2, "steps": 9},
            },
            **{"planner": PLANNER},
        }
    },
    "suites": {
        "main": {
            **{"episodes": 1, "factors": ["light"], "factor_episodes": 1, "perturbed_episodes": 1},
            **{"probes": 1, "candidates": 4, "open_loop": 2},
        },
        "short": {"episodes": 1, "probes": 0},
    },
    "variants": {
        "full": {},
        "random": {"driver": "random"},
        "no_screening": {"driver": "policy"},
    },
    "schedule": [
        {"variants": ["full", "random"], "domains": ["navigation"], "suite": "main"},
        {"variants": ["no_screening"], "domains": ["navigation"], "suite": "short"},
        {"variants": ["full"], "domains": ["navigation"], "suite": "short", "sizes": [6]},
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder where the benchmark ran to its end, in two goes."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (folder / "again.yaml").write_text(yaml.safe_dump(AGAIN))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PLAN))
    command = ["benchmark", "--config", str(folder / "tiny.yaml"), "--output", str(folder / "out"), "--threads", "1"]
    assert main([*command, "--quiet", "--only", "navigation/full", "navigation/random"]) == 0
    assert main([*command, "--quiet", "--json", str(folder / "table.json")]) == 0
    return folder


def test_the_table_holds_what_the_issue_names_and_every_job(finished):
    found = json.loads((finished / "table.json").read_text())
    assert found["jobs"] == {"done": 4, "planned": 4, "other_settings": [], "left_out": [], "other_plans": []}
    measures = {"task_success", "constraint_compliance", "ood_retention", "robustness_drop"}
    assert measures | {"language_truth", "counterfactual_rank_correlation"} <= found["navigation"].keys()
    for name in measures:
        assert found["navigation"][name].keys() == {"mean", "std", "n_seeds", "n_episodes"}
    assert found["variants"]["navigation"].keys() == {"random", "no_screening"}
    assert [row["episodes"] for row in found["sample_efficiency"]["navigation"]["curve"]] == [6, 8]
    assert found["open_loop"]["navigation"]["latent"].keys() == {"model", "copy", "linear"}
    assert found["cost"]["navigation"]["training_minutes"]["mean"] > 0
    assert found["seeds"] == [0] and found["config"]["suites"]["main"]["probes"] == 1
    assert found["training"]["navigation"]["model"]["latent"] == 16
    assert found["command"].startswith("tc-mmwm benchmark") and found["environment"]["packages"]["torch"]
    assert str(finished) not in json.dumps({key: value for key, value in found.items() if key != "environment"})


def test_a_table_grows_from_another_folder(finished, tmp_path):
    table = tmp_path / "table.json"
    table.write_text((finished / "table.json").read_text())
    command = ["benchmark", "--config", str(finished / "tiny.yaml"), "--output", str(tmp_path / "out"), "--quiet"]
    assert main([*command, "--only", "navigation/random", "--json", str(table)]) == 0
    before, after = json.loads((finished / "table.json").read_text()), json.loads(table.read_text())
    assert after["jobs"] == before["jobs"] and after["navigation"] == before["navigation"]
    assert after["command"] == "tc-mmwm benchmark --config tiny.yaml"  # in one call: all of the plan is there
    assert main([*command, "--only", "navigation/random"]) == 0
    alone = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert alone["jobs"]["done"] == 1 and "navigation" not in alone
    assert alone["command"].endswith("--config tiny.yaml --only navigation/random --seeds 0")


def test_each_job_leaves_its_run_and_its_evaluation_and_trainings_are_shared(finished):
    out = finished / "out" / "navigation"
    for name in ("full", "random", "no_screening", "full-6"):
        left = out / name / "seed-0"
        assert (left / "evaluation.json").exists() and (left / "evaluation.png").exists()
    assert {path.parts[-4] for path in out.glob("*/seed-0/bundle/bundle.json")} == {"full", "full-6"}
    same = json.loads((out / "no_screening" / "seed-0" / "evaluation.json").read_text())["driver"]
    assert same["kind"] == "policy" and same["bundle"].startswith("navigation-full-0@")


def test_a_second_round_goes_on_from_the_first_with_what_its_bundle_did(finished):
    """Those that share a training share it too; a training on part of the episodes has none."""
    run = finished / "out" / "navigation" / "full" / "seed-0"
    own = Dataset.open(run / "on_policy").trajectories
    assert [t.provenance["seed"] for t in own] == [200000, 200001, 200002]
    first, bundle = Bundle.load(run / "first"), Bundle.load(run / "bundle")
    assert {(t.provenance["driver"], t.provenance["bundle"]) for t in own} == {("planner", first.identity)}
    assert [s["name"] for s in yaml.safe_load(bundle.manifest.training.config)["stages"]] == ["policy"]
    before, after = (load_file(b.path / "weights.safetensors") for b in (first, bundle))
    assert {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])} == {"policy"}
    explored = Dataset.open(finished / "out" / "navigation" / "explored").trajectories
    assert [t.provenance["seed"] for t in explored] == [210000, 210001]
    assert {t.provenance["driver"] for t in explored} == {"heedless"}
    seen = [len(read_weights(run / name).trained_on) for name in ("first", "bundle")]
    assert seen[1] > seen[0] + 2  # some of what its own bundle did, and some of what was explored; the rest is held out
    assert not list((finished / "out" / "navigation").glob("*/seed-0/again/again"))
    assert not (finished / "out" / "navigation" / "full-6" / "seed-0" / "on_policy").exists()


def test_a_second_round_of_another_model_or_training_is_refused(finished, tmp_path):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(AGAIN | {"model": {"latent": 32}}))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN))
    with pytest.raises(ConfigError, match=r"domains\.navigation\.again\.train: its model is not that of train\.yaml"):
        read_plan(tmp_path / "tiny.yaml")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(AGAIN | {"ema_decay": 0.5}))
    plan = read_plan(tmp_path / "tiny.yaml")
    with pytest.raises(TrainingError, match=r"ema_decay was 0\.998, is 0\.5"):
        Benchmark(plan, finished / "out", progress=False).carry_out(plan.jobs[0])


def test_thresholds_rest_on_episodes_of_their_own_beside_those_held_out(finished):
    """Not those of a training on part of the episodes: it has no more than that part."""
    fresh = Dataset.open(finished / "out" / "navigation" / "calibration")
    assert {t.provenance["seed"] for t in fresh.trajectories} == {100008, 100009, 100010}
    plan = read_plan(finished / "tiny.yaml")
    benchmark = Benchmark(plan, finished / "out", progress=False)
    whole, part = plan.jobs[0], plan.jobs[-1]
    assert part.size == 6 and [len(dataset) for dataset in benchmark._fresh(whole)] == [3]
    assert benchmark._fresh(part) == []


def test_what_is_done_is_not_done_again_and_the_plan_says_so(finished, capsys, monkeypatch):
    monkeypatch.setattr(running, "run_ablations", None)
    monkeypatch.setattr(running, "evaluate", None)
    command = ["benchmark", "--config", str(finished / "tiny.yaml"), "--output", str(finished / "out"), "--quiet"]
    assert main([*command, "--plan"]) == 0
    assert "4 of 4 evaluations done, 0 trainings to do" in capsys.readouterr().out
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "full model ahead by" in table and "success by episodes trained on" in table


def test_a_plan_says_what_is_left_and_how_long_it_takes_at_the_rates_so_far(finished, capsys):
    plan = read_plan(finished / "tiny.yaml")
    for job in plan.jobs:
        (finished / "new" / job.folder).mkdir(parents=True)
    command = ["benchmark", "--config", str(finished / "tiny.yaml"), "--plan", "--output"]
    assert main([*command, str(finished / "new")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith(
        "collect 13 (? min), collect planner 3 (? min), train 10 (? min), evaluate planner 6 (? min)"
    )
    assert told[2].split("seed 0")[1].split() == ["evaluate", "policy", "1", "(?", "min)"]  # its training is full's
    assert "0 of 4 evaluations done, 2 trainings to do" in told[-1] and "parts not timed so far" in told[-1]
    (finished / "new" / "navigation" / "dataset").mkdir()
    assert main([*command, str(finished / "new")]) == 0
    assert "seed 0 collect 5 (" in " ".join(capsys.readouterr().out.splitlines()[0].split())  # calibration, explored
    (finished / "new" / "navigation" / "dataset").rmdir()
    (finished / "new" / "times.jsonl").write_text((finished / "out" / "times.jsonl").read_text())
    assert main([*command, str(finished / "new")]) == 0
    assert "not timed" not in capsys.readouterr().out


def test_a_plan_says_what_is_left_of_a_job_that_was_killed_in_its_second_round(finished, tmp_path):
    plan = read_plan(finished / "tiny.yaml")
    job = plan.jobs[0]
    first, second = plan.training_steps(job)
    shutil.copytree(finished / "out", tmp_path, dirs_exist_ok=True)
    run = tmp_path / job.folder
    (run / "evaluation.json").unlink()
    (run / "episodes.jsonl").unlink()

    def left() -> dict[str, int]:
        found = Benchmark(plan, tmp_path, progress=False).parts(plan.jobs[:1])[job]
        return {part.kind: part.amount for part in found}

    shutil.rmtree(run / "bundle")
    assert left() == {"evaluate planner": 6}  # exporting alone
    records = (run / "again" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "again" / "metrics.jsonl").write_text(records[0])
    assert left() == {"train": second - 1, "evaluate planner": 6}
    shutil.rmtree(run / "again")
    assert left() == {"train": second, "evaluate planner": 6}
    shutil.rmtree(run / "on_policy")
    shutil.rmtree(tmp_path / "navigation" / "calibration")
    assert left() == {"collect": 3, "collect planner": 3, "train": second, "evaluate planner": 6}
    (run / "measures.json").unlink()
    (run / "metrics.jsonl").unlink()
    assert left()["train"] == first + second


def test_what_is_to_be_measured_anew_is_planned_without_what_was_driven(finished, monkeypatch):
    benchmark = Benchmark(read_plan(finished / "tiny.yaml"), finished / "out", progress=False)
    monkeypatch.setattr(benchmark, "done", lambda job: False)
    planned = [[(part.kind, part.amount) for part in parts] for parts in benchmark.parts(benchmark.plan.jobs).values()]
    kinds = ["evaluate planner", "evaluate random", "evaluate policy", "evaluate planner"]
    assert planned == [[(kind, 0)] for kind in kinds]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"episodes": 4}, "holds 4 episodes of other layouts, 100004 to 100007; the plan has 100000 to 100003"),
        ({"seed": 100002}, "holds 2 episodes of other layouts, 100000 to 100001; the plan has 100002 to 100009"),
        ({"steps": 30}, "episode 10000[0-7] was collected with steps 24, asked for is 30"),
    ],
)
def test_a_dataset_of_another_plan_is_refused(finished, change, told):
    plan = read_plan(finished / "tiny.yaml")
    asked = plan.config.domains["navigation"].model_copy(update=change)
    other = replace(plan, config=plan.config.model_copy(update={"domains": {"navigation": asked}}))
    with pytest.raises(DatasetError, match=told):
        Benchmark(other, finished / "out", progress=False)._dataset(plan.jobs[0])
    same = Benchmark(plan, finished / "out", progress=False)
    assert len(same._dataset(plan.jobs[0])) == 8


def test_a_bundle_of_another_training_is_refused(finished):
    plan = read_plan(finished / "tiny.yaml")
    job = plan.jobs[0]
    kept = Benchmark(plan, finished / "out", progress=False)._bundle(job)
    assert kept.name == "bundle"
    changed = {key: config.model_copy(update={"ema_decay": 0.5}) for key, config in plan.training.items()}
    other = Benchmark(replace(plan, training=changed), finished / "out", progress=False)
    with pytest.raises(TrainingError, match=r"bundle.json: trained with .*: ema_decay was 0.998, is 0.5; choose"):
        other._bundle(job)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": 0.1}, "alpha was 0.05, is 0.1"),
        ({"delta": 0.1}, "delta was 0.05, is 0.1"),
        ({"calibration": 4}, "calibration was 3, is 4"),
        ({"episodes": 9}, "episodes was 8, is 9"),
        ({"steps": 25}, "steps was 24, is 25"),
        ({"again": {"episodes": 4}}, "again was .*'episodes': 3.*, is .*'episodes': 4"),
        ({"again": {"explored": None}}, "again was .*'explored': {'driver': 'heedless'.*, is .*"),
    ],
)
def test_a_bundle_made_under_another_plan_is_refused(finished, change, told):
    plan = read_plan(finished / "tiny.yaml")
    domain = plan.config.domains["navigation"]
    if "again" in change:
        change = {"again": domain.again.model_copy(update=change["again"])}
    domains = {"navigation": domain.model_copy(update=change)}
    other = replace(plan, config=plan.config.model_copy(update={"domains": domains}))
    benchmark = Benchmark(other, finished / "out", progress=False)
    full, _, policy, _ = plan.jobs
    with pytest.raises(TrainingError, match=rf"full/seed-0/data\.json: made under another plan of navigation: {told}"):
        benchmark._bundle(full)
    if change.keys() <= {"alpha", "delta", "calibration"}:
        assert benchmark._bundle(policy).name == "bundle"  # it drives by no threshold


def test_a_bundle_of_before_the_plan_was_kept_beside_it_goes_on_and_tells_its_bound(finished, tmp_path):
    plan = read_plan(finished / "tiny.yaml")
    job = plan.jobs[0]
    shutil.copytree(finished / "out" / job.folder, tmp_path / job.folder)
    (tmp_path / job.folder / "data.json").unlink()
    benchmark = Benchmark(plan, tmp_path, progress=False)
    assert benchmark._bundle(job).name == "bundle"
    manifest = tmp_path / job.folder / "bundle" / "bundle.json"
    bound = {"alpha": 0.2, "delta": 0.05, "n_trajectories": 9, "dataset": "-", "method": "betting"}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"calibration": bound}))
    with pytest.raises(
        TrainingError, match=r"bundle\.json: made under another plan .*: alpha was 0\.2, is 0\.05; choose"
    ):
        benchmark._bundle(job)


@pytest.mark.parametrize("error", [TrainingError, DatasetError, DomainError, CheckpointError])
def test_a_training_that_fails_is_named_and_the_others_go_on(finished, tmp_path, monkeypatch, error):
    benchmark = Benchmark(read_plan(finished / "tiny.yaml"), tmp_path, progress=False)

    def broken(*_):
        raise error("step 3: loss state is not finite")

    monkeypatch.setattr(running, "run_ablations", broken)
    monkeypatch.setattr(running, "collect", lambda *_, **__: None)
    there = Dataset.open(finished / "out" / "navigation" / "dataset")
    monkeypatch.setattr(running.Dataset, "open", lambda folder: there)
    found = {job.variant: error for job, error in benchmark.work_off(benchmark.plan.jobs[:2])}
    assert str(found["full"]) == "step 3: loss state is not finite" and found["random"] is None


def test_long_episodes_of_a_model_with_other_latent_steps_lie_apart(finished, tmp_path):
    """They are longer, and a folder holds those of one length alone."""
    for name in ("train.yaml", "again.yaml"):
        shutil.copy(finished / name, tmp_path)
    slower = {"variants": {**PLAN["variants"], "slower": {"change": {"model": {"frame_skip": 3}}}}}
    schedule = [{"variants": ["full", "random", "slower"], "domains": ["navigation"], "suite": "main"}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN | slower | {"schedule": schedule}))
    plan = read_plan(tmp_path / "tiny.yaml")
    benchmark = Benchmark(plan, tmp_path / "out", progress=False)
    found = {job.variant: benchmark._long_folder(job).relative_to(tmp_path / "out") for job in plan.jobs}
    usual = Path("navigation", "long")
    assert found == {"full": usual, "random": usual, "slower": Path("navigation", f"long-{51 * 3}")}
    assert (finished / "out" / usual / "dataset.json").exists()


def test_work_in_other_hands_is_left_until_it_is_done(finished, monkeypatch):
    benchmark = Benchmark(read_plan(finished / "tiny.yaml"), finished / "shared", progress=False)
    full, chance = benchmark.plan.jobs[:2]
    done = []
    monkeypatch.setattr(benchmark, "carry_out", done.append)
    monkeypatch.setattr(benchmark, "done", lambda job: job in done)
    with running.claim(finished / "shared" / full.folder):
        monkeypatch.setattr(running.time, "sleep", lambda _: done.append(full))  # the other process ends
        assert [job for job, _ in benchmark.work_off([full, chance])] == [chance]
    assert done == [chance, full]
