import json
import math
from dataclasses import dataclass

import pytest
import torch

from tc_mmwm_core.config import Config, load
from tc_mmwm_core.training.run import Run, read_metrics, save_batch


class Inner(Config):
    rate: float = 3e-4


class Example(Config):
    name: str = "größe"
    inner: Inner = Inner(rate=1e-8)
    lengths: tuple[int, int] = (10, 30)


CONFIG = Example().model_dump(mode="json")


def test_a_run_leaves_config_versions_metrics_and_figure(tmp_path):
    folder = tmp_path / "runs" / "first"
    with Run(folder, CONFIG) as run:
        run.log(1, "full", {"loss": 2.5})
        assert next(read_metrics(folder / "metrics.jsonl"))["loss"] == 2.5  # before close
        run.log(2, "full", {"loss": 2.0})
    assert load(folder / "config.yaml", Example) == Example()
    (start,) = json.loads((folder / "environment.json").read_text())
    assert start["resumed_from_step"] == 0
    assert start["packages"]["torch"] == torch.__version__
    records = list(read_metrics(folder / "metrics.jsonl"))
    assert [(record["step"], record["stage"]) for record in records] == [(1, "full"), (2, "full")]
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_drops_what_it_will_make_again(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        for step in range(1, 6):
            run.log(step, "full", {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a kill in the middle of a line
    with Run(tmp_path, CONFIG, resume_step=3) as run:
        run.log(4, "full", {"loss": 40})
    assert [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 40]
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert [start["resumed_from_step"] for start in starts] == [0, 3]


def test_a_run_killed_before_its_first_checkpoint_starts_its_records_afresh(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.log(1, "full", {"loss": 9})
    with Run(tmp_path, CONFIG) as run:
        run.log(1, "full", {"loss": 1})
    assert [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_every_line_is_json_even_where_a_loss_is_not_finite(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.log(1, "full", {"loss": math.nan, "raw/state": math.inf, "learning_rate": 1.0})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=refuse)
    assert (record["loss"], record["raw/state"], record["learning_rate"]) == (None, None, 1.0)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not JSON"):
        list(read_metrics(path))
    path.write_text('{"step": 1}\n[1]\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: a JSON object with 'step'"):
        list(read_metrics(path))


def test_the_batch_that_failed_can_be_looked_at(tmp_path):
    @dataclass
    class Batch:
        images: list
        sensor: torch.Tensor

    batch = Batch([torch.zeros(2, 3, dtype=torch.uint8)], torch.tensor([1.0, math.nan]))
    path = save_batch(tmp_path, 17, batch)
    assert path == tmp_path / "batch-17.pt"
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["images"][0], batch.images[0])
    assert content["sensor"].isnan().tolist() == [False, True]


def test_tensorboard_holds_the_same_numbers(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the tensorboard package is not installed"
    )
    with Run(tmp_path, CONFIG) as run:
        for step in range(1, 4):
            run.log(step, "full", {"loss": step / 2})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_bars_are_shown_only_where_asked(tmp_path, capsys):
    for progress in (False, True):
        with Run(tmp_path, CONFIG, progress=progress) as run, run.stage("full", 2) as bar:
            bar.update({"loss": 1.0}, samples=4)
        assert ("full" in capsys.readouterr().err) == progress
