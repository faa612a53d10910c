"""What a run's folder tells of it, as ``tc-mmwm inspect`` shows it."""

from __future__ import annotations

import json

import pytest

from tc_mmwm_core.cli import main
from tc_mmwm_core.training.checkpoint import LAST, CheckpointError, read_checkpoint, write_checkpoint
from tc_mmwm_core.training.run import METRICS
from tc_mmwm_core.training.run_progress import RunProgress
from tc_mmwm_core.utils.files import shown


def test_a_run_that_has_ended_says_how_to_export_it(unbroken, dataset, capsys):
    progress = RunProgress.of(unbroken.folder)
    assert progress.ended and progress.unfinished is None and progress.standing == "stage full (3 of 3), step 3 of 3"
    assert main(["inspect", str(unbroken.folder)]) == 0
    out = capsys.readouterr().out
    assert "  standing    stage full (3 of 3), step 3 of 3; 8 optimizer steps in all; ended\n" in out
    assert "  to export   last.pt, the newest weights (averaged)\n" in out
    assert f"  trained on  datasets {dataset.digest[:12]}; " in out
    assert f"  next        tc-mmwm export {shown(unbroken.folder)} --data DATA" in out
    assert main(["inspect", str(unbroken.folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "run" and facts["ended"] and facts["datasets"] == [dataset.digest]
    assert list(facts["validated"]) == ["reconstruction", "world_model", "full"]
    assert facts["validated"]["full"]["held_out"] == pytest.approx(unbroken.measures["loss"])
    assert facts["config"]["data"] == {"domain": "navigation", "instructions": 3, "holdout": 0.4}  # no defaults


def test_a_run_that_has_not_ended_says_how_to_go_on_and_an_older_one_no_more_than_it_knows(unbroken, tmp_path, capsys):
    content = read_checkpoint(unbroken.folder / LAST)
    write_checkpoint(tmp_path / LAST, content | {"position": {"step": 7, "stage": 2, "stage_step": 2}, "left": 1})
    assert RunProgress.of(tmp_path).unfinished == "its training has not ended: stage full (3 of 3), step 2 of 3"
    environment = [{"started": "then", "command": ["tc-mmwm", "train", "--output", "my run"]}]
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "step 2 of 3; 7 optimizer steps in all; not ended\n" in out
    assert (
        "  next        tc-mmwm train --output 'my run' (in the folder where it was begun) goes on from there\n" in out
    )
    del content["left"], content["parts"]["trained_on"]["datasets"]
    write_checkpoint(tmp_path / LAST, content)
    assert RunProgress.of(tmp_path).ended is None and RunProgress.of(tmp_path).unfinished is None
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "not told whether it has ended" in out and "  trained on  datasets not told which; " in out
    with pytest.raises(CheckpointError, match="no such file"):
        RunProgress.of(tmp_path / "none")


def test_a_run_without_a_checkpoint_yet_is_told_as_that(tmp_path, capsys):
    (tmp_path / METRICS).touch()
    assert main(["inspect", str(tmp_path)]) == 2
    assert "this run has no checkpoint (last.pt) yet; if it is training, try in a minute" in capsys.readouterr().err
