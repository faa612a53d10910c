"""The benchmark's table, from evaluations whose answers can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tc_mmwm_core.config import ConfigError, parse
from tc_mmwm_core.evaluation.benchmark.clock import Part
from tc_mmwm_core.evaluation.benchmark.figure import draw
from tc_mmwm_core.evaluation.benchmark.plan import BenchmarkConfig, Job, Plan
from tc_mmwm_core.evaluation.benchmark.run import Benchmark
from tc_mmwm_core.evaluation.benchmark.table import collate, compare, condensed, intervals, read_evaluations, render
from tc_mmwm_core.evaluation.report import SCHEMA
from tc_mmwm_core.training.config import TrainConfig

DOMAIN = {"domain": "navigation", "episodes": 400, "steps": 50, "train": "-"}
LAYOUTS = 40
K = 10  # as far as predictions go here


@pytest.fixture
def benchmark(tmp_path) -> Benchmark:
    config = BenchmarkConfig(
        domains={"navigation": DOMAIN, "manipulation": DOMAIN},
        suites={"s": {}},
        variants={"full": {}, "worse": {"threshold": 0}, "expert": {"driver": "expert"}},
        schedule=[{"variants": ["full"], "domains": ["navigation"], "suite": "s"}],
    )
    stages = [{"name": "full", "epochs": 1, "trajectories": 30}]
    training = parse({"stages": stages}, TrainConfig, "test")
    jobs = [Job("navigation", "full", seed, "s") for seed in (0, 1)]
    jobs += [Job("navigation", "worse", seed, "s") for seed in (0, 1)]
    jobs += [Job("navigation", "full", 0, "s", size) for size in (50, 100)]
    trainings = {("navigation", name): training for name in ("full", "worse")}
    return Benchmark(Plan(tmp_path, config, trainings, {}, jobs), tmp_path)


def evaluation(successes: int, truth: float | None = None) -> dict:
    """So many of the first layouts succeed."""
    measures = {"task_success": {"mean": 100 * successes / LAYOUTS, "n_episodes": LAYOUTS}}
    measures["constraint_compliance"] = {"mean": 95.0, "n_episodes": LAYOUTS}
    measures["retention.size"] = {"mean": 80.0, "n_episodes": 5}
    if truth is not None:
        measures["language_truth"] = {"mean": truth, "low": 0, "high": 100, "n_episodes": 7}
    episodes = [{"seed": 900_000 + i, "success": i < successes} for i in range(LAYOUTS)]
    error = {"model": [0.1 * k for k in range(1, K + 1)], "copy": [1.0] * K, "linear": [0.5] * K}
    return {
        "schema": SCHEMA,
        "environment": {"git": {"commit": "1b8", "changed": False}},
        "driver": {"bundle": "navigation@12"},
        "measures": measures,
        "episodes": {"in_distribution": episodes},
        "cost": {"latency_p50_ms": 5.0, "latency_p99_ms": 9.0},
        "curves": {"open_loop": {"latent": error, "windows": [40 - k for k in range(1, K + 1)]}},
    }


def write(benchmark: Benchmark, job: Job, content: dict) -> None:
    path = benchmark.folder / job.folder / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = content["driver"] | {"settings": benchmark.plan.settings(job)}
    path.write_text(json.dumps(content | {"driver": driver}))


def test_the_issue_s_format_and_everything_beside_it(benchmark):
    results = [evaluation(40, 96), evaluation(36, 98), *(evaluation(n) for n in (10, 10, 20, 36))]
    for job, content in zip(benchmark.plan.jobs, results, strict=True):
        write(benchmark, job, content)
    with benchmark.clock.time(Part("navigation", "train", 1), "navigation/full/seed-1"):
        pass
    found = collate(benchmark)
    success = found["navigation"]["task_success"]
    assert success == {"mean": 95.0, "std": pytest.approx(50**0.5), "n_seeds": 2, "n_episodes": 2 * LAYOUTS}
    assert found["navigation"]["language_truth"]["mean"] == 97 and "manipulation" not in found
    assert "intervals" not in found  # of two seeds
    assert found["variants"]["navigation"].keys() == {"worse"}
    assert found["comparisons"]["navigation"]["worse"]["points_ahead"] == pytest.approx(70)
    curve = found["sample_efficiency"]["navigation"]
    points = [(row["episodes"], row["task_success"]["mean"]) for row in curve["curve"]]
    assert points == [(50, 50), (100, 90), (400, 95)] and curve["episodes_to_80_percent"] == 100
    assert found["open_loop"]["navigation"]["k"] == [1, 2, 5, 10]
    assert found["open_loop"]["navigation"]["latent"]["model"] == pytest.approx([0.1, 0.2, 0.5, 1.0])
    assert found["open_loop"]["navigation"]["windows"] == [39, 38, 35, 30]
    cost = found["cost"]["navigation"]
    assert cost["latency_p50_ms"] == {"mean": 5, "std": 0, "n_seeds": 2} and cost["training_minutes"]["n_seeds"] == 1
    assert found["jobs"] == {"done": 6, "planned": 6, "other_settings": [], "left_out": [], "other_plans": []}
    results[1]["cost"] = {"latency_p50_ms": None, "latency_p99_ms": None}  # of before decisions were timed one by one
    write(benchmark, benchmark.plan.jobs[1], results[1])
    assert collate(benchmark)["cost"]["navigation"]["latency_p50_ms"]["n_seeds"] == 1

    draw(found, list(benchmark.plan.config.domains), benchmark.folder / "table.png")
    assert (benchmark.folder / "table.png").read_bytes().startswith(b"\x89PNG")
    lines = render(found, benchmark.plan.config.domains).splitlines()
    assert lines[0].split() == ["published", "to", "reach", "navigation"]
    assert lines[1].split() == ["task_success", "92.4", "≥", "95", "95.0", "±", "7.1"]
    assert any(line.split() == ["retention.size", "≥", "75", "80.0", "±", "0.0"] for line in lines)
    assert any(line.split() == ["windows", "39", "38", "35", "30"] for line in lines)
    [worse] = [line for line in lines if line.startswith("worse ")]
    assert "+70.0 [+6.5, +133.5]" in worse and worse.endswith("full model better")  # 75 and 65 points


def test_what_is_not_done_yet_is_left_out(benchmark):
    names = benchmark.plan.config.domains
    jobs = {"done": 0, "planned": 6, "other_settings": [], "left_out": [], "other_plans": []}
    assert collate(benchmark) == {"jobs": jobs, "evaluations": {}}
    draw(collate(benchmark), list(names), benchmark.folder / "nothing.png")
    assert not (benchmark.folder / "nothing.png").exists()
    assert len(render(collate(benchmark), names).splitlines()) == 8
    write(benchmark, benchmark.plan.jobs[0], evaluation(30))
    write(benchmark, benchmark.plan.jobs[2], evaluation(10))
    write(benchmark, benchmark.plan.jobs[4], evaluation(20))
    found = collate(benchmark)
    assert found["navigation"]["task_success"] == {"mean": 75.0, "std": None, "n_seeds": 1, "n_episodes": LAYOUTS}
    assert found["sample_efficiency"]["navigation"]["episodes_to_80_percent"] is None
    assert any(line.endswith("+50.0, one seed: no verdict") for line in render(found, names).splitlines())
    assert "> 400" in render(found, names) and "intervals" not in found

    def size(**more: dict) -> tuple[int, int]:
        draw({"jobs": found["jobs"], "navigation": found["navigation"]} | more, list(names), benchmark.folder / "t.png")
        header = (benchmark.folder / "t.png").read_bytes()
        return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")

    width, height = size()
    assert size(open_loop=found["open_loop"]) == (2 * width, height)
    wide, high = size(sample_efficiency=found["sample_efficiency"])
    assert wide == width and high > height
    told = found["navigation"] | {"language_truth": {"mean": 90.0, "std": None}}
    assert size(navigation=told) == (2 * width, height)


def test_an_evaluation_that_was_measured_otherwise_is_not_mixed_in(benchmark):
    first, second, *_ = benchmark.plan.jobs
    write(benchmark, first, evaluation(40))
    write(benchmark, second, evaluation(20) | {"schema": 1})
    assert collate(benchmark)["navigation"]["task_success"]["n_seeds"] == 1
    assert [bool(parts) for parts in benchmark.parts([first]).values()] == [False]
    assert not benchmark.done(second)


def test_a_table_goes_on_where_the_folder_of_earlier_jobs_is_gone(benchmark, tmp_path):
    for job, count in zip(benchmark.plan.jobs, (40, 30, 10, 10, 20, 36), strict=True):
        write(benchmark, job, evaluation(count))
    whole = collate(benchmark)
    file = tmp_path / "table.json"
    file.write_text(json.dumps(whole))
    elsewhere = Benchmark(benchmark.plan, tmp_path / "elsewhere")
    assert read_evaluations(tmp_path / "none.json") == {}
    assert collate(elsewhere, read_evaluations(file)) == whole
    write(elsewhere, benchmark.plan.jobs[1], evaluation(36))  # done anew: it counts, and not what was there
    anew = collate(elsewhere, read_evaluations(file))
    assert anew["navigation"]["task_success"]["mean"] == 95 and anew["jobs"]["done"] == 6
    (tmp_path / "other.json").write_text(json.dumps({"navigation": {}}))
    with pytest.raises(ConfigError, match=r"other\.json: no table to go on with: it has no 'evaluations'"):
        read_evaluations(tmp_path / "other.json")


def test_what_another_plan_has_is_kept_and_counts_for_nothing(benchmark, tmp_path):
    for job, count in zip(benchmark.plan.jobs, (40, 30, 10, 10, 20, 36), strict=True):
        write(benchmark, job, evaluation(count))
    whole = collate(benchmark)
    first, *rest = benchmark.plan.jobs
    fewer = Benchmark(replace(benchmark.plan, jobs=[first]), tmp_path / "elsewhere")
    found = collate(fewer, whole["evaluations"])
    assert found["evaluations"] == whole["evaluations"]
    kept = [str(job.folder) for job in rest]
    assert found["jobs"] == {"done": 1, "planned": 1, "other_settings": [], "left_out": [], "other_plans": kept}
    assert found["navigation"]["task_success"]["n_seeds"] == 1 and "variants" not in found
    assert f"kept, but of no job of this plan: {kept[0]}, " in render(found, ["navigation"])
    assert collate(benchmark, found["evaluations"]) == whole


def test_what_was_measured_under_other_settings_is_named(benchmark):
    first = benchmark.plan.jobs[0]
    write(benchmark, first, evaluation(40))
    earlier = collate(benchmark)["evaluations"]
    training = benchmark.plan.training["navigation", "full"].model_copy(update={"ema_decay": 0.5})
    plan = replace(benchmark.plan, training=benchmark.plan.training | {("navigation", "full"): training})
    found = collate(Benchmark(plan, benchmark.folder / "elsewhere"), earlier)
    assert found["jobs"]["other_settings"] == ["navigation, full, seed 0"] and found["navigation"]["task_success"]
    said = render(found, ["navigation"])
    assert "* measured under other settings than this plan's: navigation, full, seed 0" in said
    assert any(line.startswith("full* ") for line in said.splitlines())
    write(benchmark, benchmark.plan.jobs[2], evaluation(10))
    against = collate(Benchmark(plan, benchmark.folder / "elsewhere"), collate(benchmark)["evaluations"])["comparisons"]
    assert against["navigation"]["worse"]["points_ahead"] is None
    assert against["navigation"]["worse"]["verdict"].startswith("measured under other settings")


def test_results_of_other_settings_are_left_out_where_there_are_those_of_the_plan(benchmark):
    first, second, *_, small = benchmark.plan.jobs
    for job, count in ((first, 40), (second, 20), (small, 30)):
        write(benchmark, job, evaluation(count))
    path = benchmark.folder / second.folder / "evaluation.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"driver": content["driver"] | {"settings": "another"}}))
    found = collate(benchmark)
    assert (
        found["navigation"]["task_success"]["mean"] == 100
        and found["cost"]["navigation"]["latency_p50_ms"]["n_seeds"] == 1
    )
    points = found["sample_efficiency"]["navigation"]["curve"]
    assert [(p["episodes"], p["task_success"]["mean"]) for p in points] == [(100, 75), (400, 100)]
    assert found["jobs"]["other_settings"] == found["jobs"]["left_out"] == ["navigation, full, seed 1"]
    assert str(second.folder) in found["evaluations"]
    said = render(found, ["navigation"])
    assert "and left out: navigation, full, seed 1" in said and "full*" not in said


def test_a_table_of_before_windows_were_counted_is_gone_on_with(benchmark):
    write(benchmark, benchmark.plan.jobs[0], evaluation(40))
    earlier = collate(benchmark)["evaluations"]
    for each in earlier.values():
        del each["open_loop"]["windows"]
    found = collate(Benchmark(benchmark.plan, benchmark.folder / "elsewhere"), earlier)
    assert "windows" not in found["open_loop"]["navigation"] and "windows" not in render(found, ["navigation"])


def seeded(*successes: int) -> dict[int, dict]:
    return {seed: kept(evaluation(count)) for seed, count in enumerate(successes)}


def kept(content: dict) -> dict:
    return condensed(content, None)


def test_a_part_that_does_not_pay_is_told_plainly():
    same, better, worse = seeded(20, 21, 19), seeded(35, 36, 34), seeded(5, 6, 4)
    assert compare(same, same)["verdict"] == "no clear difference"
    assert compare(worse, better)["verdict"] == "full model worse"
    found = compare(better, worse)
    assert found["verdict"] == "full model better" and (found["n_seeds"], found["n_episodes"]) == (3, LAYOUTS)
    assert found["points_ahead"] == pytest.approx(75) and found["low"] < 62 and found["high"] > 82  # 30 of 40 layouts


@pytest.mark.parametrize(("full", "other"), [((40,), (5,)), ((40, 39, 38), (5,)), ((40,), (5, 6, 7))])
def test_one_seed_shows_a_difference_and_no_verdict(full, other):
    found = compare(seeded(*full), seeded(*other))
    assert found["points_ahead"] == pytest.approx(87.5) and found["n_seeds"] == 1
    assert found["verdict"] == "one seed: no verdict" and found["low"] is None and found["high"] is None
    assert compare(seeded(40), {7: kept(evaluation(5))})["verdict"] == "no seed in common"


def test_a_scripted_driver_has_no_seed_to_be_paired_with():
    found = compare(seeded(30, 31, 29), {5: kept(evaluation(5))}, trained=False)
    assert found["verdict"] == "full model better" and found["n_seeds"] == 3
    assert found["points_ahead"] == pytest.approx(62.5)
    assert compare(seeded(30), {0: kept(evaluation(5))}, trained=False)["verdict"] == "one seed: no verdict"


def test_luck_with_training_seeds_is_no_difference():
    """One of two seeds carries all of the advantage: layouts alone would call it clear."""
    found = compare(seeded(40, 10), seeded(10, 12))
    assert found["points_ahead"] == pytest.approx(35) and found["verdict"] == "no clear difference"


def test_seeds_that_happen_to_agree_are_no_certainty():
    """Both seeds are one layout ahead: Student's interval alone would have no width."""
    found = compare(seeded(21, 31), seeded(20, 30))
    assert found["points_ahead"] == pytest.approx(2.5) and found["verdict"] == "no clear difference"


def test_one_training_is_seldom_called_better_than_another_of_its_kind():
    """Seeds that differ by 10 points, of one and the same variant: a verdict is wrong, and may be in 5 % of cases."""
    rng = np.random.default_rng(0)
    told = []
    for _ in range(100):
        full, other = (seeded(*np.clip(rng.normal(28, 4, 3), 0, LAYOUTS).round().astype(int)) for _ in range(2))
        told.append(compare(full, other)["verdict"] != "no clear difference")
    assert np.mean(told) < 0.1


def test_only_layouts_that_all_drove_are_compared():
    few = evaluation(5)
    few["episodes"]["in_distribution"] = few["episodes"]["in_distribution"][:10]
    assert compare(seeded(10), {0: kept(few)})["n_episodes"] == 10
    few["episodes"]["in_distribution"] = [{"seed": 1, "success": True}]
    assert compare(seeded(10), {0: kept(few)})["verdict"] == "no layout in common"


def test_intervals_need_three_seeds():
    two = [kept(evaluation(20, 90)), kept(evaluation(30, 92))]
    assert intervals(two) == {}
    found = intervals([*two, kept(evaluation(25))])
    assert "language_truth" not in found and found["task_success"] == pytest.approx(
        (62.5 - 31.05, 62.5 + 31.05), abs=0.01
    )
