"""Before hours are spent, training says what each stage draws from and what nobody ever told it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.supply import Supply
from tc_mmwm_core.training.trainer import TrainingError, train


@pytest.fixture(scope="module")
def alone(config):
    """The configuration without a domain, so that nothing is judged by an oracle."""
    return config.model_copy(update={"data": config.data.model_copy(update={"domain": None})})


@pytest.fixture(scope="module")
def recorded(dataset, tmp_path_factory):
    """Recordings of which the labels that are asked for are known, and nothing else."""

    def write(violation: int = -1, success: bool | None = None, lengths=(20, 20, 20)) -> Dataset:
        path = tmp_path_factory.mktemp("recorded") / "real"
        steps = zip(range(len(lengths)), lengths, strict=True)
        whole = [replace(dataset[i], source="real", scene=None, state=None, success=success) for i in range(3)]
        labelled = [replace(t, violation=np.full(len(t.valid), violation, np.int8)) for t in whole]
        parts = [replace(labelled[i], valid=np.arange(len(labelled[i].valid)) < length) for i, length in steps]
        DatasetWriter(path, dataset.interface).append(parts)
        return Dataset.open(path)

    return write


def supply(config, dataset) -> Supply:
    return Supply.of(LabelledData([dataset], config, None, progress=False))


def test_where_an_oracle_judges_only_what_hides_the_view_is_not_told(data):
    found = Supply.of(data)
    assert found.taught(data.config.stages[-1])[1] == ["visibility"]  # navigation's robot hides nothing that it tells
    assert found.warnings() == []
    count = len(data.datasets[0])
    first, header, *rows = found.table().splitlines()
    assert first.startswith(
        f"to learn from: {count} trajectories, {data.datasets[0].steps} control steps; {count} judged"
    )
    assert header.split()[0] == "stage" and len(rows) == len(data.config.stages)
    assert rows[-1].split() == ["full", "4", str(count), "of", str(count), "7-10", "visibility"]
    erased = data.config.model_copy(update={"data": data.config.data.model_copy(update={"erase": 0.5})})
    assert Supply.of(data.under(erased)).taught(erased.stages[-1])[1] == []


def test_recordings_alone_lack_what_an_oracle_labels_and_successes_would_tell(alone, recorded):
    oracle, labels, success = supply(alone, recorded()).warnings()
    assert oracle.startswith(
        "no trajectory is judged by an oracle (data.domain is null): these loss terms have nothing to learn from: ref"
    )
    assert labels.startswith("no step is known to comply with its instruction or to violate it")
    assert "--success yes" in success
    complying = supply(alone, recorded(0, True)).warnings()
    assert len(complying) == 2 and complying[1].startswith("no step is known to violate its instruction")
    assert supply(alone, recorded(1, True)).warnings()[1].startswith("no step is known to comply with its instruction:")


def test_trajectories_too_short_for_a_stage_are_counted_and_many_of_them_warned_of(alone, recorded):
    found = supply(alone, recorded(1, True, lengths=(20, 6, 20)))
    assert [row.split()[2:5] for row in found.table().splitlines()[2:]] == [["3", "of", "3"], *[["2", "of", "3"]] * 2]
    told = (
        "stage world_model, full: 1 of 3 trajectories (33%) are never drawn: they have no run of 7 valid control steps "
    )
    assert found.warnings()[0] == f"{told}(min_length)"


def test_a_stage_that_nothing_teaches_is_warned_of_and_a_run_of_such_stages_alone_refused(
    alone, recorded, tmp_path, capsys
):
    dataset = recorded()
    judge = alone.stages[-1].model_copy(update={"name": "judge"})
    both = alone.model_copy(update={"stages": (alone.stages[0], judge)})
    train(both, [dataset], tmp_path / "both", progress=False)
    told = capsys.readouterr().out
    idle = "stage judge: none of its loss terms has anything to learn from"
    assert f"warning: {idle}; leave it out: --stages reconstruction\n" in told
    assert "\nto learn from: " not in f"\n{told}"  # quiet: warnings alone
    with pytest.raises(TrainingError, match="no stage has anything to learn from in these data:\n  no trajectory is"):
        train(alone.model_copy(update={"stages": (judge,)}), [dataset], tmp_path / "judge", progress=False)
    assert not (tmp_path / "judge").exists()
