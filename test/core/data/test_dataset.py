"""Trajectories survive the disk unchanged, appending rewrites nothing, and damage is skipped, counted and named."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
from tc_mmwm_core.interface.robot import RobotInterface


def same(ours, theirs) -> bool:
    ours_, theirs_ = ours.arrays(), theirs.arrays()
    return ours_.keys() == theirs_.keys() and all(np.array_equal(ours_[name], theirs_[name]) for name in ours_)


def test_trajectories_read_back_exactly(navigation, tmp_path):
    written = [make_trajectory(navigation, seed, length) for seed, length in ((0, 12), (1, 7))]
    DatasetWriter(tmp_path, navigation).append(written)
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 2 and dataset.steps == 19 and dataset.skipped == [] and dataset.verify() == []
    assert dataset.interface == navigation
    for index, trajectory in enumerate(written):
        read = dataset[index]
        assert same(read, trajectory)
        for name in ("instruction", "success", "source", "provenance", "scene"):
            assert getattr(read, name) == getattr(trajectory, name)
        assert not read.images["overhead"].flags.writeable


def test_appending_rewrites_nothing(navigation, tmp_path):
    DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 0)])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    first = Dataset.open(tmp_path).digest
    DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 1)])
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}.items()
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 2 and same(dataset[0], make_trajectory(navigation, 0)) and dataset.digest != first


def test_state_and_scene_are_optional_per_trajectory(navigation, tmp_path):
    real = make_trajectory(navigation, 0)
    real.state, real.scene, real.source, real.success = None, None, "real", None
    DatasetWriter(tmp_path, navigation).append([real, make_trajectory(navigation, 1)])
    dataset = Dataset.open(tmp_path)
    assert dataset[0].state is None and dataset[1].state.shape == (12, 5) and dataset[0].success is None


def test_several_datasets_open_as_one_if_they_mean_the_same(navigation, robot, tmp_path):
    for name in "ab":
        DatasetWriter(tmp_path / name, navigation).append([make_trajectory(navigation, ord(name))])
    assert len(Dataset.open(tmp_path / "a", tmp_path / "b")) == 2
    robot["rate"] = 20.0
    DatasetWriter(tmp_path / "c", RobotInterface.from_dict(robot, "test"))
    with pytest.raises(DatasetError, match=r"rate: 10\.0 in 'navigation', 20\.0"):
        Dataset.open(tmp_path / "a", tmp_path / "c")
    with pytest.raises(DatasetError, match="rate"):
        DatasetWriter(tmp_path / "a", RobotInterface.from_dict(robot, "test"))


def test_an_empty_dataset_takes_the_interface_of_what_is_appended_first(navigation, robot, tmp_path):
    DatasetWriter(tmp_path, navigation)
    robot["rate"] = 20.0
    mended = RobotInterface.from_dict(robot, "mended")
    with DatasetWriter(tmp_path, mended).shard() as shard:
        with pytest.raises(DatasetError, match="rate"):  # begun, though nothing is there to be opened yet
            DatasetWriter(tmp_path, navigation)
        shard.add(make_trajectory(mended, 0))
    assert Dataset.open(tmp_path).interface == mended and len(Dataset.open(tmp_path)) == 1
    with pytest.raises(DatasetError, match="rate"):
        DatasetWriter(tmp_path, navigation)


def test_more_shards_than_the_usual_limit_of_open_files(navigation, tmp_path):
    writer = DatasetWriter(tmp_path, navigation)
    shard = writer.append([make_trajectory(navigation, 0)])
    for index in range(200):
        shutil.copytree(shard, shard.parent / f"{shard.name}-{index}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 201 and dataset.skipped == []


def test_not_a_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"schema": 7}')
    with pytest.raises(DatasetError, match="schema is 7, this version reads 1"):
        Dataset.open(tmp_path)


def _bend(**changes):
    def bend(trajectory):
        for name, value in changes.items():
            setattr(trajectory, name, value)

    return bend


@pytest.mark.parametrize(
    ("bend", "says"),
    [
        (_bend(images={}), "'image.overhead' is missing"),
        (_bend(sensor=np.zeros((12, 30), np.float32)), r"'sensor' is float32 \[12, 30\], the interface needs float32 "),
        (_bend(violation=np.zeros(12, np.float32)), "'violation' is float32"),
        (_bend(violation=np.full(12, 2, np.int8)), "allowed are -1, 0, 1"),
        (_bend(action=np.full((12, 2), np.nan, np.float32)), "'action' is not finite at step 0"),
        (_bend(source="dreamt"), "allowed are simulated and real"),
        (_bend(state=np.zeros((3, 5), np.float32)), r"'state' is \[3, 5\]"),
    ],
)
def test_unfit_trajectories_are_refused_and_leave_nothing(navigation, tmp_path, bend, says):
    trajectory = make_trajectory(navigation, 0)
    bend(trajectory)
    with pytest.raises(DatasetError, match=says):
        DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 1), trajectory])
    assert list((tmp_path / "shards").iterdir()) == []


def _edit(shard, index, **changes):
    """Change what shard.json says of a trajectory, as a faulty writer would: the checksum is right."""
    content = json.loads((shard / "shard.json").read_text())
    content["trajectories"][index] |= changes
    content["sha256"] = hashlib.sha256(json.dumps(content["trajectories"], sort_keys=True).encode()).hexdigest()
    (shard / "shard.json").write_text(json.dumps(content))


def _forge(shard, **changes):
    """Change what shard.json says of the first trajectory, and nothing else."""
    content = json.loads((shard / "shard.json").read_text())
    content["trajectories"][0] |= changes
    (shard / "shard.json").write_text(json.dumps(content))


def _poke(file, offset):
    with open(file, "r+b") as stream:
        stream.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 64]))


@pytest.mark.parametrize(
    ("damage", "trajectory", "says"),
    [
        (lambda shard: _edit(shard, 1, length=99), 1, "beyond the shard's 36"),
        (lambda shard: _edit(shard, 1, source="dreamt"), 1, "'source'"),
        (lambda shard: _edit(shard, 1, start="twelve"), 1, "'start'"),
        (lambda shard: _poke(shard / "sensor.npy", -31 * 4 * 12 - 1), 1, "sensor"),
        (lambda shard: _poke(shard / "violation.npy", -13), 1, "violation"),
        (lambda shard: _forge(shard, success=True), None, "not those that were written, the sha256 differs"),
        (lambda shard: _forge(shard, scene={"pads": []}), None, "not those that were written, the sha256 differs"),
        (lambda shard: (shard / "shard.json").write_text('{"trajec'), None, "JSONDecodeError"),
        (lambda shard: os.truncate(shard / "image.overhead.npy", 5000), None, "ValueError"),
        (lambda shard: (shard / "shard.json").unlink(), None, "FileNotFoundError"),
    ],
)
def test_damage_is_skipped_counted_and_named(navigation, tmp_path, damage, trajectory, says):
    writer = DatasetWriter(tmp_path, navigation)
    shard = writer.append([make_trajectory(navigation, seed) for seed in range(3)])
    writer.append([make_trajectory(navigation, 9)])
    damage(shard)
    dataset = Dataset.open(tmp_path)
    [(name, index, why)] = dataset.skipped
    assert (name, index) == (shard.name, trajectory) and says in why
    assert len(dataset) == (1 if trajectory is None else 3)
    assert same(dataset[len(dataset) - 1], make_trajectory(navigation, 9))


def test_the_digest_is_of_what_is_there(navigation, tmp_path):
    """Of what is intact it is what it always was: bundles and finished runs name their data by it."""
    shards = [
        DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, seed) for seed in pair])
        for pair in ((0, 1), (2, 3))
    ]
    dataset = Dataset.open(tmp_path)
    sums = sorted(json.loads((shard / "shard.json").read_text())["sha256"] for shard in shards)
    assert dataset.digest == hashlib.sha256("\n".join(sums).encode()).hexdigest()
    assert dataset.subset([3, 1, 0, 2]).digest == dataset.digest
    parts = [dataset.subset(which).digest for which in ([0], [1], [0, 1], [2, 3], [0, 1, 2], [0, 0])]
    assert len({*parts, dataset.digest}) == 7
    assert dataset.subset([2, 3, 0]).subset([2, 0, 1]).digest == dataset.subset([0, 2, 3]).digest
    _poke(shards[1] / "action.npy", -1)
    damaged = Dataset.open(tmp_path)
    assert len(damaged) == 3 and damaged.digest == parts[4]


def test_what_is_skipped_is_told(navigation, tmp_path, capsys):
    shards = [DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, seed)]) for seed in range(3)]
    _poke(shards[0] / "action.npy", -1)
    (shards[1] / "shard.json").unlink()
    dataset = Dataset.open(tmp_path)
    assert dataset.tell_skipped() is dataset
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"skipped: {tmp_path}, shard {shards[0].name}, trajectory 0: checksum of action differs")
    assert second.startswith(f"skipped: {tmp_path}, shard {shards[1].name}: FileNotFoundError")


def test_missing_column_names_it(navigation, tmp_path):
    shard = DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 0)])
    (shard / "action.npy").unlink()
    assert "action missing" in Dataset.open(tmp_path).skipped[0][2]
    shutil.rmtree(shard)
    assert len(Dataset.open(tmp_path)) == 0


def test_damaged_images_are_found_by_verify(navigation, tmp_path):
    shard = DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, seed) for seed in range(2)])
    _poke(shard / "image.overhead.npy", -1)
    assert Dataset.open(tmp_path).verify() == [(shard.name, 1, "checksum of image.overhead differs")]


def test_what_a_killed_writer_leaves_is_not_seen_and_the_next_removes_it(navigation, tmp_path):
    """SIGKILL before a shard's folder gets its name: what was there stays readable."""
    DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 0)])
    script = (
        "import os, signal, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from trajectories import make_trajectory\n"
        "from tc_mmwm_core.data.dataset import Dataset, DatasetWriter\n"
        "import tc_mmwm_core.data.dataset as dataset\n"
        "path = Path(sys.argv[1]); interface = Dataset.open(path).interface\n"
        "rename = os.rename\n"
        "def die(old, new): rename(old, new) if new.name[0] == '.' else os.kill(os.getpid(), signal.SIGKILL)\n"
        "dataset.os.rename = die\n"
        "DatasetWriter(path, interface).append([make_trajectory(interface, 1)])\n"
    )
    here = str(Path(__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path), here]).returncode == -9
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 1 and dataset.skipped == []
    [left] = (tmp_path / "shards").glob(".*")
    assert (left / "shard.json").exists()
    (tmp_path / "shards" / ".writing-before").mkdir()  # as of versions without a lock
    DatasetWriter(tmp_path, navigation)
    assert list((tmp_path / "shards").glob(".*")) == []
    shard = DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 2)])
    assert len(Dataset.open(tmp_path)) == 2 and not list(shard.glob(".*"))


def test_what_another_writer_writes_is_left_alone(navigation, tmp_path):
    with DatasetWriter(tmp_path, navigation).shard() as shard:
        shard.add(make_trajectory(navigation, 0))
        DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 1)])
        shard.add(make_trajectory(navigation, 2))
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 3 and dataset.skipped == [] and not list((tmp_path / "shards").glob(".*"))


def test_full_disk_leaves_the_dataset_as_it_was(navigation, tmp_path, monkeypatch):
    DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 0)])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tc_mmwm_core.data.dataset.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        DatasetWriter(tmp_path, navigation).append([make_trajectory(navigation, 1)])
    assert len(list((tmp_path / "shards").iterdir())) == 1
