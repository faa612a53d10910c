"""``tc-mmwm bench train`` on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from tc_mmwm_core.cli import main
from tc_mmwm_core.evaluation.speed.training_speed import PHASES, matrix_rate


def test_its_figures_fit_together(config, collected, tmp_path, capsys):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["bench", "train", "--config", str(tmp_path / "train.yaml"), "--data", str(collected), "--quiet"]
    arguments += ["--steps", "4", "--pairs", "2", "--threads", "1", "--json", str(tmp_path / "train.json")]
    torch.use_deterministic_algorithms(False)
    assert main(arguments) == 0
    assert torch.are_deterministic_algorithms_enabled()  # as in training: they take longer
    printed = capsys.readouterr().out
    assert "samples/s" in printed and "plain loop over time steps" in printed

    speed = json.loads((tmp_path / "train.json").read_text())
    assert list(speed["phases"]) == list(PHASES) and all(ms >= 0 for ms in speed["phases"].values())
    step = sum(speed["phases"].values()) / 1e3
    assert speed["windows_per_s"] == pytest.approx(config.stages[2].trajectories / step)
    assert 4 <= speed["samples_per_s"] / speed["windows_per_s"] <= 5  # windows are of 4 or 5 latent steps
    assert speed["wait_share"] == pytest.approx(speed["phases"]["wait"] / 1e3 / step)
    computing = step - speed["phases"]["wait"] / 1e3
    assert speed["matrix_share"] == pytest.approx(speed["flops"] / computing / speed["matrix_flops_per_s"])
    assert 0 < speed["matrix_share"] < 1 and 0.3 < speed["encoding_share"] < 1
    assert speed["eager"]["ratio"] == pytest.approx(speed["eager"]["ms"] / speed["eager"]["batched_ms"])
    assert speed["eager"]["loss_difference"] < 1e-3  # the same mathematics
    assert speed["config"]["model"]["latent"] == 16 and speed["environment"]["packages"]


def test_the_matrix_rate_does_not_depend_on_the_size_by_much():
    small, large = (matrix_rate(torch.device("cpu"), torch.float32, size) for size in (256, 512))
    assert 0.1 < small / large < 10
