"""``tc-mmwm bench decide`` on a tiny bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # tiny_bundle.py, whatever pytest's import mode


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tc_mmwm_core", "bench", "decide", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_rows_and_json_hold_every_combination(bundle, tmp_path):
    figures = tmp_path / "decide.json"
    sizes = ("--candidates", 32, 64, "--threads", 1, 2, "--decisions", 20)
    run = bench("--bundle", bundle.path, *sizes, "--refinement", "mppi", "--json", figures)
    assert run.returncode == 0, run.stderr
    content = json.loads(figures.read_text())
    rows = content["rows"]
    assert [(row["threads"], row["candidates"]) for row in rows] == [(1, 32), (1, 64), (2, 32), (2, 64)]
    for row in rows:
        assert 0 < row["p50"] <= row["p99"]
        assert 0 < sum(row["phases"].values()) <= 1.5 * row["p50"]  # medians: far less on a machine that is busy
        assert row["provider"] == "CPUExecutionProvider" and row["horizon"] == 3
        assert 20 < row["memory"] < 4000
        assert row["ratio"] == pytest.approx(row["p50"] / row["floor"])
    assert rows[1]["flops"] - rows[0]["flops"] == 2 * 32 * 3 * (2 + 2 + 2) * 2  # two rounds, three products of 2
    assert content["cores"] >= 1 and content["bundles"] == [rows[0]["bundle"]]
    assert content["config"]["threads"] == [1, 2] and content["config"]["refinement"] == "mppi"
    made = content["environment"]
    assert made["command"][1:3] == ["bench", "decide"] and made["packages"]["onnxruntime"] and "git" in made
    assert len(run.stdout.splitlines()) == 2 + len(rows)


def test_decisions_are_measured_without_the_training_framework_in_memory(bundle):
    """Only what is written at the end may load it."""
    code = "import sys; from tc_mmwm_core.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    few = ["--candidates", "32", "--decisions", "5"]
    command = [sys.executable, "-c", code, "bench", "decide", "--bundle", str(bundle.path), *few]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_a_missing_bundle_is_named(tmp_path):
    run = bench("--bundle", tmp_path / "nowhere")
    assert run.returncode == 2
    assert "nowhere: no such folder" in run.stderr
