"""``tc-mmwm bench resume``: quick here; the full proof kills ten times (docs/results/resume.json)."""

from __future__ import annotations

import json

import pytest
import yaml

from tc_mmwm_core.cli import main
from tc_mmwm_core.evaluation.speed import resume


@pytest.mark.timeout(900)  # three processes import torch: seconds on a free machine, minutes on a busy one
def test_a_run_killed_is_bitwise_the_unbroken_one(config, collected, tmp_path, capsys):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["bench", "resume", "--config", str(tmp_path / "train.yaml"), "--data", str(collected), "--kills", "1"]
    arguments += ["--steps", "2", "--checkpoint-seconds", "1e-9", "--json", str(tmp_path / "resume.json")]
    assert main([*arguments, "--output", str(tmp_path / "runs")]) == 0
    assert "bitwise equal" in capsys.readouterr().out
    found = json.loads((tmp_path / "resume.json").read_text())
    assert found["steps"] == 6 and len(found["kills"]) == 1 and found["bitwise_equal"]
    assert found["sha256"]["unbroken"] == found["sha256"]["killed"]
    starts = json.loads((tmp_path / "runs" / "killed" / "environment.json").read_text())
    assert starts[-1]["packages"]["torch"]


def test_a_training_that_fails_by_itself_is_told_with_its_last_words(config, tmp_path):
    with pytest.raises(resume.ResumeError, match=r"(?s)training failed \(2\): .*nowhere"):
        resume.prove(config, [tmp_path / "nowhere"], tmp_path / "runs", kills=1, seed=0)
