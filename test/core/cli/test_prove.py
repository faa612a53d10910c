"""``tc-mmwm prove``: each proof in one command, from nothing; what is there is not made again."""

from __future__ import annotations

import json

import pytest
import yaml

from tc_mmwm_core.cli import main
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.resources import robot_file

SMALL = {"trajectories": 4, "instructions": 2, "starts": 2}
CONFIG = {
    "data": {"domain": "navigation", "instructions": 3, "holdout": 0.25},
    "model": {
        **{"latent": 16, "width": 16, "hidden": 32, "slots": 3, "slot_width": 4, "field_channels": 2},
        **{"word_dimensions": 16, "horizon": 3},
    },
    "stages": [
        {"name": "reconstruction", "epochs": 1, "min_length": 1, "max_length": 1, **SMALL},
        {"name": "full", "epochs": 1, "min_length": 4, "max_length": 5, **SMALL},
    ],
}


@pytest.fixture(scope="module")
def prove(tmp_path_factory):
    """Runs a proof; returns the results it writes."""
    folder = tmp_path_factory.mktemp("prove")
    collect("navigation", robot_file("navigation.yaml"), folder / "data", 8, 24, seed=0, workers=1, progress=False)
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "variants.yaml").write_text(yaml.safe_dump({"switches": {"no_action": {"weights": {"action": 0}}}}))
    common = ["--config", "train.yaml", "--variants", "variants.yaml", "--data", "data", "--output", "proof"]
    common += ["--seeds", "0", "--workers", "1", "--threads", "1", "--quiet"]

    def run(what: str, *more: str) -> dict:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(["prove", what, *common, "--json", f"{what}.json", *more]) == 0
        return json.loads((folder / f"{what}.json").read_text())

    run.folder = folder
    return run


def test_runs_are_trained_once_for_all_proofs_and_results_say_what_they_rest_on(prove, capsys, monkeypatch):
    first = prove("losses")
    assert {(row["ablation"], row["seed"]) for row in first["rows"]} == {("full", 0), ("no_action", 0)}
    assert first["seeds"] == [0] and first["config"]["model"]["latent"] == 16 and first["data"]["train"]
    assert first["environment"]["packages"]["torch"] and first["environment"]["command"]
    assert first["gains"]["prediction_ratio"]["no_action"]["verdict"] == "no clear difference"  # of one seed
    assert "no_action" in capsys.readouterr().out

    monkeypatch.setattr("tc_mmwm_core.training.ablation.train", None)  # nothing is trained again
    again = prove("losses")
    assert again["rows"] == first["rows"]
    collapse = prove("collapse")
    assert collapse["rows"] == first["rows"]
    whole, _ = collapse["over_training"]
    assert whole["ablation"] == "full" and len(whole["validations"]) >= 2  # at the end of each stage
    assert whole["validations"][-1]["sigreg_fused"] == pytest.approx(first["rows"][0]["measures"]["sigreg_fused"])
    assert (prove.folder / "collapse.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def bundle(prove):
    """Of the small run, untrained as it is."""
    prove("losses")
    path = prove.folder / "bundle"
    run = prove.folder / "proof" / "full" / "seed-0"
    assert main(["export", str(run), "--threshold", "0.1", "--output", str(path), "--quiet"]) == 0
    return path


def test_interventions_are_collected_and_judged(prove, bundle):
    found = prove("interventions", "--states", "3", "--alternatives", "4", "--bundle", str(bundle))
    rows = {row["ablation"]: row["measures"] for row in found["rows"]}
    assert rows.keys() == {"full", "no_action", "bundle"} and rows["bundle"] == pytest.approx(rows["full"], nan_ok=True)
    assert found["gains"]["outcome_rank"].keys() == {"no_action"}
    for row in found["rows"]:
        assert 0 <= row["measures"]["latent_match"] <= 1 and row["measures"]["latent_match_chance"] == 0.25
        assert row["measures"]["latent_copy_50"] > 0
    curves = found["open_loop"]["variants"]["full"]
    assert all(len(values) == 50 for values in (*curves["latent"].values(), *curves["state_rmse"].values()))
    assert found["open_loop"]["state"][:3] == ["x [m]", "y [m]", "cos yaw"]
    assert found["data"].keys() == {"train", "alternatives", "long"}
    assert (prove.folder / "interventions.png").exists()


def test_the_constraint_and_a_bundles_bound_are_tried_on_fresh_data(prove, bundle):
    more = ["--bundle", str(bundle), "--fresh", "24", "--alpha", "0.4", "--delta", "0.4"]
    found = prove("constraint", *more)
    twenty, thousand = found["bundle"]["bound"]
    assert (twenty["resamples"], thousand["resamples"]) == (20, 1000) and twenty["alpha"] == 0.4
    assert 0 <= thousand["exceeding"] <= 1 and len(twenty["miss_rates"]) == 20
    assert found["bundle"]["at_its_threshold"]["tau"] == pytest.approx(0.1)
    assert {row["ablation"] for row in found["rows"]} == {"full", "no_action"}
    assert all(0 <= row["measures"]["auroc_all"] <= 1 for row in found["rows"])


def test_a_domain_of_ones_own_is_proved_too(prove, monkeypatch):
    monkeypatch.syspath_prepend(str(prove.folder))  # processes that collect get it too
    monkeypatch.chdir(prove.folder)
    lines = ["from tc_mmwm_core.domains.navigation.domain import Navigation", "class Mine(Navigation):"]
    lines += ["    name, robot = 'mine', 'mine.yaml'", "def make():", "    return Mine()"]
    (prove.folder / "my_world.py").write_text("\n".join(lines))
    (prove.folder / "mine.yaml").write_text(robot_file("navigation.yaml").read_text())
    config = CONFIG | {"data": CONFIG["data"] | {"domain": "my_world:make"}, "stages": CONFIG["stages"][:1]}
    (prove.folder / "mine_train.yaml").write_text(yaml.safe_dump(config))
    asked = ["--config", "mine_train.yaml", "--robot", "mine.yaml", "--variants", "variants.yaml", "--episodes", "4"]
    asked += ["--output", "own", "--seeds", "0", "--workers", "1", "--threads", "1", "--quiet"]
    assert main(["prove", "losses", *asked]) == 0
    [info, *_] = Dataset.open(prove.folder / "own" / "data" / "train").trajectories
    assert info.provenance["domain"] == "mine"


def test_a_bundle_that_looks_otherwise_far_ahead_is_refused(prove, capsys):
    with pytest.raises(AssertionError):
        prove("interventions")  # the shipped one
    assert "imagines 5 latent steps of 2 control steps, the training configuration 3 of 2" in capsys.readouterr().err


def test_what_interventions_cannot_do_with_a_bundle_or_a_domain_is_told_before_anything_is_trained(
    prove, bundle, monkeypatch, capsys
):
    monkeypatch.setattr("tc_mmwm_core.training.ablation.train", None)  # an error of its own, were it called
    monkeypatch.syspath_prepend(str(prove.folder))
    monkeypatch.chdir(prove.folder)
    lines = ["from tc_mmwm_core.domains.navigation.domain import Navigation", "class Forgetful(Navigation):"]
    lines += ["    name = 'forgetful'", "    def environment(self, render=True):"]
    lines += ["        environment = super().environment(render)", "        environment.save = None"]
    lines += ["        return environment", "def make():", "    return Forgetful()"]
    (prove.folder / "forgetful.py").write_text("\n".join(lines))

    def told(bundle=None, **changed) -> str:
        (prove.folder / "other.yaml").write_text(yaml.safe_dump(CONFIG | changed))
        given = ["--bundle", str(bundle)] if bundle else []
        asked = ["--config", "other.yaml", "--variants", "variants.yaml", "--output", "never", "--workers", "1"]
        assert main(["prove", "interventions", *asked, *given, "--quiet"]) == 2
        assert not (prove.folder / "never").exists()
        return capsys.readouterr().err

    forgetful = CONFIG["data"] | {"domain": "forgetful:make"}
    assert "domain 'forgetful': the environment has no save(), with which a state is" in told(bundle, data=forgetful)
    assert "--bundle is missing (it is proved beside the variants), and none ships for forgetful" in told(
        data=forgetful
    )
    longer = CONFIG["model"] | {"max_tokens": 40}
    assert "tokens of an instruction, the training configuration 40 (model.max_tokens)" in told(bundle, model=longer)
    manipulation = CONFIG["data"] | {"domain": "manipulation"}
    assert "trained for another robot interface; the bundle's values first:" in told(bundle, data=manipulation)


def test_a_config_without_a_simulator_is_refused(prove, capsys):
    (prove.folder / "real.yaml").write_text(yaml.safe_dump(CONFIG | {"data": {}}))
    assert main(["prove", "losses", "--config", str(prove.folder / "real.yaml")]) == 2
    assert "real.yaml: data.domain is missing" in capsys.readouterr().err
