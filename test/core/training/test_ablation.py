"""``tc-mmwm ablate``: named switches, each a training of its own; done ones are not done again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from tc_mmwm_core.cli import main
from tc_mmwm_core.config import ConfigError, load
from tc_mmwm_core.evaluation.benchmark.plan import read_plan
from tc_mmwm_core.resources import resource
from tc_mmwm_core.training.ablation import Row, Switches, _Trained, ablated, ablations, table
from tc_mmwm_core.training.config import StageConfig, TrainConfig
from tc_mmwm_core.training.stage import TrainingError


@pytest.fixture(scope="module")
def shipped() -> Switches:
    return load(resource("config", "ablate", "default.yaml"), Switches)


def test_every_shipped_switch_changes_every_shipped_configuration_in_its_own_way(shipped, config):
    trainings = [load(path, TrainConfig) for path in sorted(resource("config", "train").glob("*.yaml"))]
    begins = {"reconstruction", "world_model", "full"}  # a second round or a fine-tuning has no curriculum to shorten
    for base in [config, *[each for each in trainings if begins <= {stage.name for stage in each.stages}]]:
        found = ablations(base, shipped, None, "default.yaml")
        assert len(found) == len(shipped.switches)  # the full one, and all but the composition that it has
        assert found.pop("full") == base
        assert all(changed != base for changed in found.values())
        assert len({changed.model_dump_json() for changed in found.values()}) == len(found)


def test_a_switch_changes_what_it_says_and_nothing_else(shipped, config):
    found = ablations(config, shipped, ["sigreg=off", "pretraining=off", "objective.counterfactuals=6"], "default.yaml")
    assert list(found) == ["full", "sigreg=off", "pretraining=off", "objective.counterfactuals=6"]
    weights = config.weights.model_copy(update={"sigreg_visual": 0.0, "sigreg_fused": 0.0})
    assert found["sigreg=off"] == config.model_copy(update={"weights": weights})
    assert found["pretraining=off"] == config.model_copy(update={"stages": config.stages[1:]})
    assert found["objective.counterfactuals=6"].objective.counterfactuals == 6


def test_fewer_stages_of_the_world_model_leave_the_policys_own(config):
    policy = StageConfig(name="policy", epochs=1, passes=3)
    base = config.model_copy(update={"stages": (*config.stages, policy)})
    assert ablated(base, {"stages": ["full"]}, "test").stages == (config.stages[2], policy)
    assert ablated(base, {"stages": {"full": {}, "policy": {"passes": 2}}}, "test").stages[1].passes == 2
    assert ablated(base, {"weights": {"proposal": 0}}, "test").stages == config.stages  # it would learn nothing


def test_the_stage_of_dynamics_goes_on_with_either_of_its_terms(config):
    dynamics = StageConfig(name="dynamics", epochs=1, min_length=8, weights={"rollout": 1.0})
    base = config.model_copy(update={"stages": (*config.stages, dynamics)})
    without_state = ablated(base, {"weights": {"state": 0}}, "test")
    assert without_state.stages[-1].loss_weights(without_state.weights).rollout == 1
    assert ablated(base, {"weights": {"rollout": 0}}, "test").stages[-1].weights == {"rollout": 0}
    assert ablated(base, {"weights": {"state": 0, "rollout": 0}}, "test").stages == config.stages


def test_the_gate_of_a_memory_that_nobody_reads_and_keypoints_that_are_not_there_are_not_trained(config):
    model = config.model.model_copy(update={"keypoints": True})
    alone = tuple(StageConfig(name=name, epochs=1) for name in ("memory", "keypoints"))
    base = config.model_copy(update={"stages": (*config.stages, *alone), "model": model})
    for switch, stays in (("use_memory", alone[1:]), ("keypoints", alone[:1])):
        assert ablated(base, {"model": {switch: False}}, "test").stages == (*config.stages, *stays)
    with pytest.raises(ValidationError, match=r"stage memory: .*\(model\.use_memory: false\); leave the stage out"):
        TrainConfig.model_validate(base.model_dump() | {"model": {"use_memory": False, "keypoints": True}})


def test_the_judge_stays_where_it_has_progress_left_to_learn():
    plan = read_plan(resource("config", "benchmark", "default.yaml"))

    def stages(domain, variant):
        return [stage.name for stage in plan.training[domain, variant].stages]

    assert "judge" in stages("manipulation", "conventional")  # progress is read off the latent, by weights
    assert "judge" not in stages("navigation", "conventional")  # and here off the field, by none
    for name in ("navigation", "manipulation"):
        base = load(resource("config", "train", f"{name}.yaml"), TrainConfig)
        nothing = ablated(base, {"weights": {"margin": 0, "progress": 0}}, "test")
        assert "judge" not in [stage.name for stage in nothing.stages]
    of_field = ablated(base, {"model": {"progress": "field"}, "weights": {"margin": 0}}, "test")
    assert "judge" not in [stage.name for stage in of_field.stages]


@pytest.mark.parametrize("file", ["default.yaml", "cpu.yaml"])
def test_a_weight_of_a_benchmark_variant_holds_in_every_stage(shipped, file):
    plan = read_plan(resource("config", "benchmark", file))
    seen = set()
    for (domain, name), config in plan.training.items():
        variant = plan.config.variants[name]
        switched = shipped.switches[variant.switch].get("weights", {}) if variant.switch else {}
        for term, value in (switched | variant.change.get("weights", {})).items():
            found = {stage.name: getattr(stage.loss_weights(config.weights), term) for stage in config.stages}
            assert set(found.values()) == {value}, f"{domain}, {name}: {term} is {found}"
            seen.add(name)
    assert seen == {"behaviour_cloning", "conventional", "no_counterfactual", "no_collapse_guard", "strong_guard"}


def test_every_weight_of_a_shipped_switch_holds_in_every_stage_that_stays(shipped):
    for path in sorted(resource("config", "train").glob("*.yaml")):
        base = load(path, TrainConfig)
        for name, change in shipped.switches.items():
            if not set(change.get("stages", ())) <= {stage.name for stage in base.stages}:
                continue
            config = ablated(base, change, name)
            for term, value in change.get("weights", {}).items():
                assert {getattr(stage.loss_weights(config.weights), term) for stage in config.stages} == {value}


def test_a_change_of_one_stage_s_weight_goes_before_that_of_the_run_s(config):
    stages = [stage.model_copy(update={"weights": {"place": 3.0, "field": 2.0}}) for stage in config.stages]
    base = config.model_copy(update={"stages": tuple(stages)})
    change = {"weights": {"place": 0}, "stages": {"world_model": {"weights": {"place": 1}}, "full": {}}}
    assert [stage.weights for stage in ablated(base, change, "test").stages] == [
        {"place": 1.0, "field": 2.0},
        {"place": 0.0, "field": 2.0},
    ]


def test_a_policy_that_is_not_to_learn_has_no_stage(config):
    policy = StageConfig(name="policy", epochs=1, weights={"proposal": 1.0})
    base = config.model_copy(update={"stages": (*config.stages, policy)})
    left = ablated(base, {"weights": {"proposal": 0}, "stages": ["full"]}, "test").stages
    assert [stage.name for stage in left] == ["full"]


def test_labels_are_made_anew_where_the_bodies_differ(config, dataset):
    trained = _Trained([dataset], "cpu", progress=False)
    for bodies in (1, 2, 1):
        changed = config.model_copy(update={"model": config.model.model_copy(update={"bodies": bodies})})
        labelled, _ = trained._labelled(changed)
        assert {place.shape[1] for place in labelled.labels[0].place} == {2 * bodies}


def test_a_finished_run_is_taken_up_again_for_its_own_data_only(config, dataset, tmp_path):
    def finished(digest: str) -> dict:
        done = {"config": config.model_dump(mode="json"), "data": [digest], "measures": {"loss": 1.0}}
        (tmp_path / "measures.json").write_text(json.dumps(done))
        return _Trained([part], "cpu", progress=False)(config, tmp_path, None, "full")

    part = dataset.subset([0, 1])
    assert finished(part.digest) == {"loss": 1.0}
    for other in (dataset, dataset.subset([2])):
        with pytest.raises(TrainingError, match="of another config or of other data"):
            finished(other.digest)


def test_unknown_switches_and_bad_changes_are_refused_by_name(shipped, config):
    with pytest.raises(ConfigError, match=r"--switch sigregg=off: known are vision=off, .*any dotted.key=value"):
        ablations(config, shipped, ["sigregg=off"], "default.yaml")
    with pytest.raises(ConfigError, match=r"--switch weights.sigreg=0: unknown key 'weights.sigreg'; did you mean"):
        ablations(config, shipped, ["weights.sigreg=0"], "default.yaml")
    with pytest.raises(ConfigError, match=r"--switch model.latent=16: the configuration is so already"):
        ablations(config, shipped, ["model.latent=16"], "default.yaml")
    with pytest.raises(ConfigError, match="stage world: the config has"):
        ablated(config, {"stages": ["world"]}, "default.yaml: curriculum")


def test_the_table_shows_mean_and_spread_over_the_seeds():
    rows = [Row("full", 0, {"a": 1.0}), Row("full", 1, {"a": 2.0}), Row("x=off", 0, {"a": 3.0, "b": 4.0})]
    head, full, off = table(rows, ["a", "b"]).splitlines()
    assert head.split() == ["a", "b"]
    assert full.split() == ["full", "1.500", "±", f"{np.std([1, 2], ddof=1):.3f}", "nan", "±", "nan"]
    assert off.split() == ["x=off", "3.000", "4.000"]


def test_the_command_trains_each_once_and_writes_the_table(config, collected, tmp_path, capsys, monkeypatch):
    content = config.model_dump(mode="json") | {"warmup_steps": 0}  # so few steps would be warned of
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    arguments = ["ablate", "--config", str(tmp_path / "train.yaml"), "--data", str(collected), "--quiet"]
    arguments += ["--output", str(tmp_path / "runs"), "--json", str(tmp_path / "ablate.json"), "--seeds", "3"]
    arguments += ["--switch", "language=off", "--steps", "2", "--threads", "1"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["full", "language=off"]

    content = json.loads((tmp_path / "ablate.json").read_text())
    rows = {(row["ablation"], row["seed"]): row["measures"] for row in content["rows"]}
    assert list(rows) == [("full", 3), ("language=off", 3)]
    assert content["environment"]["packages"]["torch"] == torch.__version__ and content["data"]
    for (name, _), measures in rows.items():
        same = measures["progress_correlation"] == pytest.approx(measures["progress_correlation_shuffled"], abs=1e-4)
        assert same == (name == "language=off")
        assert measures.keys() >= {"probe_r2_fused", "probe_r2_visual", "sigreg_fused", "effective_rank_fused"}

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("tc_mmwm_core.training.ablation.train", refuse)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == lines
    arguments[arguments.index("--steps") + 1] = "1"
    assert main(arguments) == 2
    assert "holds an ablation of another config" in capsys.readouterr().err
