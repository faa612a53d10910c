"""The benchmark's configuration: the shipped ones are whole, and what is wrong is told before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import yaml

from tc_mmwm_core.cli.benchmark import SHIPPED
from tc_mmwm_core.config import ConfigError, load
from tc_mmwm_core.evaluation.benchmark.plan import Job, Plan, kept, read_plan, selected, sized
from tc_mmwm_core.evaluation.benchmark.table import CLAIMS
from tc_mmwm_core.resources import resource
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.curriculum import stage_steps


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request) -> Plan:
    return read_plan(resource("config", "benchmark", f"{request.param}.yaml"))


def test_the_shipped_plans_hold_what_they_schedule_and_train_no_two_alike(shipped):
    assert len(set(shipped.jobs)) == len(shipped.jobs)
    for (domain, name), config in shipped.training.items():
        assert config.data.domain == shipped.config.domains[domain].domain
        alone = all(config != other for (d, v), other in shipped.training.items() if d == domain and v != name)
        assert alone or name in ("full", "heedless_screened", "no_calibration", "no_rejection", "no_screening")


def test_layouts_of_training_and_evaluation_never_meet(shipped):
    for plan in shipped.config.domains.values():
        trained = range(plan.seed, plan.seed + plan.episodes + plan.calibration)
        for suite in shipped.config.suites.values():
            most = max(value for name, value in suite if name.endswith(("episodes", "probes", "open_loop")))
            assert not set(trained) & set(range(suite.seed, suite.seed + most))


def test_the_default_plan_answers_everything_that_is_claimed_and_begins_with_the_main_rows():
    plan = read_plan(resource("config", "benchmark", "default.yaml"))
    main = plan.config.suites["main"]
    assert main.factor_episodes and main.perturbed_episodes and main.probes and CLAIMS
    assert {job.variant for job in plan.jobs[:10]} == {"full"} and {job.seed for job in plan.jobs[:10]} == {*range(5)}
    first = {variant: index for index, variant in reversed(list(enumerate(job.variant for job in plan.jobs)))}
    assert max(first[v] for v in ("expert", "random", "behaviour_cloning", "conventional")) < first["no_language"]
    domains = [job.domain for job in plan.jobs if job.variant == "no_language"]
    assert domains == sorted(domains, reverse=True)  # navigation's ablations before manipulation's


def test_variants_that_only_drive_otherwise_share_a_training():
    plan = read_plan(resource("config", "benchmark", "default.yaml"))
    assert plan.trained_as(Job("navigation", "no_calibration", 2, "ablation")) == "full"
    assert plan.trained_as(Job("navigation", "no_rejection", 2, "ablation")) == "full"  # the same weights
    assert plan.trained_as(Job("navigation", "no_language", 2, "ablation")) == "no_language"
    assert plan.trained_as(Job("navigation", "full", 0, "size", 50)) == "full-50"


def test_a_digest_of_settings_tells_what_is_measured_otherwise_from_what_is_new():
    plan = read_plan(resource("config", "benchmark", "cpu.yaml"))
    full, other_seed = Job("navigation", "full", 0, "main"), Job("navigation", "full", 1, "main")
    digests = {job: plan.settings(job) for job in plan.jobs}
    assert len(set(digests.values())) == len(digests) and digests[full] != digests[other_seed]
    explicit = plan.config.domains["navigation"].model_copy(update={"delta": 0.05})  # its default, spelled out
    same = replace(
        plan, config=plan.config.model_copy(update={"domains": plan.config.domains | {"navigation": explicit}})
    )
    assert same.settings(full) == digests[full]
    slower = plan.training["navigation", "full"].model_copy(update={"ema_decay": 0.9})
    trained = replace(plan, training=plan.training | {("navigation", "full"): slower})
    assert trained.settings(full) != digests[full]
    expert = Job("navigation", "expert", 0, "main")
    assert trained.settings(expert) == digests[expert]
    more = plan.config.domains["navigation"].model_copy(update={"calibration": 5000})
    calibrated = replace(
        plan, config=plan.config.model_copy(update={"domains": plan.config.domains | {"navigation": more}})
    )
    differing = {job.variant for job in plan.jobs if calibrated.settings(job) != digests[job]}
    assert differing == {"full", "heedless_screened"}  # the others drive by no threshold, or by a given one


def test_fewer_episodes_are_trained_on_for_as_many_steps():
    base = load(resource("config", "train", "navigation.yaml"), TrainConfig)
    plan = read_plan(resource("config", "benchmark", "default.yaml")).config.domains["navigation"]
    whole = sized(base, plan, 3, None)
    assert whole == base.model_copy(update={"seed": 3})
    few = sized(base, plan, 3, 50)
    for one, other in zip(whole.stages, few.stages, strict=True):
        assert stage_steps(other, kept(50, few)) == pytest.approx(stage_steps(one, kept(4000, whole)), rel=0.01)
    short = sized(base, plan.model_copy(update={"stage_steps": 7}), 3, 50)
    assert [stage_steps(stage, 45) for stage in short.stages] == [7] * len(short.stages)


def test_a_part_of_the_schedule_can_be_chosen():
    plan = read_plan(resource("config", "benchmark", "default.yaml"))
    assert selected(plan, None) == plan.jobs
    assert {job.domain for job in selected(plan, ["manipulation"])} == {"manipulation"}
    assert {str(job) for job in selected(plan, ["navigation/full-50"])} == {"navigation, full-50, seed 0"}
    assert {job.seed for job in selected(plan, ["navigation/full"], [0, 3])} == {0, 3}
    with pytest.raises(ConfigError, match=r"--seeds 9: the schedule has \[0, 1, 2, 3, 4\]"):
        selected(plan, None, [0, 9])
    with pytest.raises(ConfigError, match=r"--only navigation/fool: the schedule has navigation, navigation/full"):
        selected(plan, ["navigation/fool"])


TRAIN = str(resource("config", "train", "navigation.yaml"))
NAVIGATION = {"domain": "navigation", "episodes": 9, "steps": 9, "train": TRAIN}
AGAIN = {"episodes": 5, "steps": 9, "train": TRAIN}
EXPLORED = {"driver": "heedless", "episodes": 5, "steps": 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variants": {"full": {}, "a": {"switch": "sigregg"}}},
            "variants.a: switch 'sigregg'; .* has vision, language",
        ),
        ({"variants": {"full": {}, "a": {"change": {"model": {"latnt": 3}}}}}, "variants.a: unknown key 'model.latnt'"),
        ({"variants": {"full": {}, "a": {"change": {"ema_decay": 0.995}}}}, "variants.a: changes nothing in"),
        ({"variants": {"full": {"threshold": 0}}}, "'full: {}' is needed"),
        (
            {"variants": {"full": {}, "a": {"threshold": math.nan}}},
            "threshold' is nan: .* a finite number",
        ),
        ({"schedule": [{"variants": ["b"], "domains": ["navigation"], "suite": "s"}]}, "b not among the variants full"),
        (
            {"schedule": [{"variants": ["full"], "domains": ["navigation"], "suite": "s", "sizes": [9]}]},
            "size 9 is not below the 9 episodes",
        ),
        ({"schedule": [{"variants": ["full"], "domains": ["x"], "suite": "s"}]}, "x not among the domains navigation"),
        (
            {
                "suites": {"s": {"episodes": 1}, "t": {"episodes": 2}},
                "schedule": [
                    {"variants": ["full"], "domains": ["navigation"], "suite": suite, "seeds": [seed, 2]}
                    for seed, suite in enumerate("st")
                ],
            },
            "schedule: variant full with suite s and variant full with suite t would .* navigation/full/seed-2; give",
        ),
        (
            {
                "variants": {"full": {}, "full-5": {"driver": "random"}},
                "schedule": [
                    {"variants": ["full", "full-5"], "domains": ["navigation"], "suite": "s", "sizes": [5]},
                    {"variants": ["full-5"], "domains": ["navigation"], "suite": "s"},
                ],
            },
            "variant full with suite s and variant full-5 with suite s would .* to navigation/full-5/seed-0; give",
        ),
        (
            {
                "suites": {"s": {"episodes": 1, "perturbed_episodes": 1}},
                "variants": {"full": {}, "mine": {"driver": "my_policy:make"}},
                "schedule": [{"variants": ["full", "mine"], "domains": ["navigation"], "suite": "s"}],
            },
            "schedule.0: suite s has perturbed_episodes, and variant mine drives by my_policy:make, without a bundle",
        ),
        (
            {"suites": {"s": {"seed": 99990, "episodes": 1, "probes": 12}}},
            "navigation: episodes, calibration: layouts 100000 to 100001 are those of suites.s as well",
        ),
        (
            {"domains": {"navigation": NAVIGATION | {"again": AGAIN | {"seed": 100008}}}},
            "navigation: episodes, calibration: layouts 100008 to 100008 are those of .*: again as well",
        ),
        (
            {"domains": {"navigation": NAVIGATION | {"again": AGAIN | {"explored": EXPLORED | {"seed": 200004}}}}},
            "navigation: again: layouts 200004 to 200004 are those of .*again.explored as well",
        ),
        (
            {"domains": {"navigation": NAVIGATION | {"again": AGAIN | {"explored": EXPLORED | {"driver": "heedles"}}}}},
            "navigation: again.explored: driver 'heedles'; navigation has .*heedless.*did you mean 'heedless'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    content = {
        "domains": {"navigation": NAVIGATION},
        "suites": {"s": {"episodes": 1}},
        "variants": {"full": {}},
        "schedule": [{"variants": ["full"], "domains": ["navigation"], "suite": "s"}],
    }
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(content))
    assert [str(job) for job in read_plan(tmp_path / "good.yaml").jobs] == ["navigation, full, seed 0"]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content | change))
    with pytest.raises(ConfigError, match=message):
        read_plan(tmp_path / "bad.yaml")
