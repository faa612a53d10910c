import json
import math

import pytest
import yaml

from tc_mmwm_core.config import Config, load
from tc_mmwm_core.training.run_directory import RunDirectory, read_metrics


class Inner(Config):
    rate: float = 1e-3


class Example(Config):
    name: str = "größe"
    inner: Inner = Inner()
    lengths: tuple[int, int] = (10, 30)


def test_a_run_leaves_config_versions_and_metrics(tmp_path):
    with RunDirectory(tmp_path / "run", Example()) as run:
        run.log(1, "full", {"loss/total": 2.5})
        assert next(read_metrics(tmp_path / "run" / "metrics.jsonl"))["loss/total"] == 2.5  # before close
        run.log(2, "full", {"loss/total": 2.0})
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["inner"] == {"rate": 1e-3}
    assert load(tmp_path / "run" / "config.yaml", Example) == Example()
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["resumed_from_step"] is None
    assert "torch" in start["packages"]
    records = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert [(record["step"], record["stage"]) for record in records] == [(1, "full"), (2, "full")]


def test_a_resumed_run_drops_what_it_will_make_again(tmp_path):
    with RunDirectory(tmp_path, Example()) as run:
        for step in range(1, 6):
            run.log(step, "full", {"loss/total": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss/to')  # a kill in the middle of a line
    with RunDirectory(tmp_path, Example(), resume_step=3) as run:
        run.log(4, "full", {"loss/total": 40})
    assert [record["loss/total"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 40]
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [start["resumed_from_step"] for start in starts] == [None, 3]


def test_another_runs_folder_is_refused(tmp_path):
    RunDirectory(tmp_path, Example()).close()
    with pytest.raises(FileExistsError, match=r"metrics.jsonl: another run's records are here"):
        RunDirectory(tmp_path, Example())


def test_every_line_is_json_even_where_a_loss_is_not_finite(tmp_path):
    with RunDirectory(tmp_path, Example()) as run:
        run.log(1, "full", {"loss/total": math.nan, "loss/raw/state": math.inf, "lr": 1.0})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=refuse)
    assert (record["loss/total"], record["loss/raw/state"], record["lr"]) == (None, None, 1.0)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not JSON"):
        list(read_metrics(path))
    path.write_text('{"step": 1}\n[1]\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: a JSON object with 'step'"):
        list(read_metrics(path))


def test_tensorboard_holds_the_same_numbers(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the tensorboard package is not installed"
    )
    with RunDirectory(tmp_path, Example()) as run:
        for step in range(1, 4):
            run.log(step, "full", {"loss/total": step / 2})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(1, 0.5), (2, 1.0), (3, 1.5)]
