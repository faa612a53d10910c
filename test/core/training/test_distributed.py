"""Two processes of torchrun on gloo: the loss curve of one process with the whole batch."""

from __future__ import annotations

import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from tc_mmwm_core.training.config import StageConfig
from tc_mmwm_core.training.distributed import processes
from tc_mmwm_core.training.fork import fork
from tc_mmwm_core.training.run import read_metrics
from tc_mmwm_core.training.trainer import train


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return subprocess.run([*launcher, "-m", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.timeout(900)  # two processes import torch: seconds on a free machine, minutes on a busy one
def test_two_processes_have_the_loss_curve_of_one_with_the_whole_batch(
    unbroken, config, collected, tmp_path, weights_of
):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["--config", tmp_path / "train.yaml", "--data", collected, "--output", tmp_path / "run"]
    done = torchrun("tc_mmwm_core", "train", *arguments, "--threads", 1, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("violation_auroc") == 1  # one process talks

    one, two = (list(read_metrics(folder / "metrics.jsonl")) for folder in (unbroken.folder, tmp_path / "run"))
    assert len(one) == len(two) > 0
    for expected, found in zip(one, two, strict=True):
        for name in expected:
            if name == "loss" or name.startswith(("raw/", "weighted/", "alpha/")):  # SIGReg and all
                assert found[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-5), (expected["step"], name)
    for name, value in weights_of(tmp_path / "run").items():
        # Adam's first steps are of one size whatever the gradient's: where that is rounding, so is the step's sign.
        close = (value - unbroken.weights[name]).abs() < 5e-4
        assert close.float().mean() > 0.95, name
    np.testing.assert_array_equal(
        weights_of(tmp_path / "run")["model.sensor.mean"], unbroken.weights["model.sensor.mean"]
    )


@pytest.mark.timeout(900)
def test_two_processes_draw_the_decisions_that_one_does(unbroken, config, collected, dataset, tmp_path):
    stage = StageConfig(name="policy", epochs=1, trajectories=4, min_length=2, max_length=4, instructions=2, passes=5)
    config = config.model_copy(update={"stages": (*config.stages, stage)})
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for name in ("one", "two"):
        fork(unbroken.folder, config, tmp_path / name)
    train(config, [dataset], tmp_path / "one", progress=False)
    arguments = ["--config", tmp_path / "train.yaml", "--data", collected, "--output", tmp_path / "two"]
    done = torchrun("tc_mmwm_core", "train", *arguments, "--threads", 1, "--quiet")
    assert done.returncode == 0, done.stderr
    one, two = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("one", "two"))
    assert len(one) == len(two) == one[-1]["step"] and one[-1]["stage"] == "policy"
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=2e-3)


def test_one_process_asks_nobody():
    with processes("cpu") as alone:
        assert alone.first and alone.count == 1 and alone.group is None
        assert alone.any(True) and not alone.any(False)
        assert alone.from_first({"a": 1}) == {"a": 1}
        module = torch.nn.Linear(1, 1)
        assert alone.wrap(module) is module
