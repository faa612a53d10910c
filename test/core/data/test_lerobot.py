"""LeRobotDataset v3.0: what is written reads back unchanged, and as LeRobot's own reader expects it."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.data.lerobot import LeRobotError, export_lerobot, import_lerobot
from tc_mmwm_core.interface.robot import RobotInterface

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def dataset(navigation, tmp_path) -> Dataset:
    trajectories = [make_trajectory(navigation, seed, length) for seed, length in ((0, 12), (1, 7), (2, 9))]
    trajectories[2].instruction = trajectories[0].instruction
    trajectories[2].success = None
    trajectories[1].valid[3] = False
    DatasetWriter(tmp_path / "dataset", navigation).append(trajectories)
    return Dataset.open(tmp_path / "dataset")


def test_reads_back_unchanged(dataset, navigation, tmp_path):
    assert export_lerobot(dataset, tmp_path / "lerobot") == 3
    assert import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation) == 3
    for before, after in zip(dataset, Dataset.open(tmp_path / "again"), strict=True):
        for name, array in before.arrays().items():
            np.testing.assert_array_equal(after.arrays()[name], array, err_msg=name)
        assert (after.instruction, after.success, after.source) == (before.instruction, before.success, before.source)
        assert after.scene == before.scene and before.provenance.items() <= after.provenance.items()


def test_layout_is_that_of_version_3(dataset, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    info = json.loads((tmp_path / "lerobot" / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 10, 3, 28)
    assert info["total_tasks"] == 2 and info["features"]["action"]["names"] == ["forward", "turn"]
    file = pq.ParquetFile(tmp_path / "lerobot" / "data" / "chunk-000" / "file-000.parquet")
    assert file.num_row_groups == 3 and set(file.schema_arrow.names) == set(info["features"])
    rows = file.read().to_pydict()
    assert rows["index"] == list(range(28)) and rows["episode_index"] == [0] * 12 + [1] * 7 + [2] * 9
    assert rows["task_index"] == [0] * 12 + [1] * 7 + [0] * 9
    np.testing.assert_allclose(rows["timestamp"][12:19], np.arange(7) / 10, rtol=1e-6)
    episodes = pq.read_table(tmp_path / "lerobot" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pydict()
    assert episodes["dataset_from_index"] == [0, 12, 19] and episodes["dataset_to_index"] == [12, 19, 28]


def test_statistics_are_those_of_the_valid_frames(dataset, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    stats = json.loads((tmp_path / "lerobot" / "meta" / "stats.json").read_text())
    action = np.concatenate([trajectory.action[trajectory.valid] for trajectory in dataset])
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(action.astype(float), 0.9, axis=0), atol=1e-6)
    pixels = np.concatenate([t.images["overhead"][t.valid] for t in dataset]).reshape(-1, 3) / 255
    image = stats["observation.images.overhead"]
    assert np.shape(image["mean"]) == (3, 1, 1) and image["count"] == [27]
    np.testing.assert_allclose(np.ravel(image["mean"]), pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.ravel(image["std"]), pixels.std(0), atol=1e-6)
    np.testing.assert_allclose(np.ravel(image["q10"]), np.quantile(pixels, 0.1, axis=0), atol=1 / 255)


def test_fields_are_matched_by_name(dataset, robot, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    robot["action"]["fields"].reverse()
    turned = RobotInterface.from_dict(robot, "test")
    import_lerobot(tmp_path / "lerobot", tmp_path / "again", turned)
    np.testing.assert_array_equal(Dataset.open(tmp_path / "again")[0].action, dataset[0].action[:, ::-1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda robot: robot.update(rate=20.0), "recorded at 10 Hz, the robot interface says 20 Hz"),
        (
            lambda robot: robot["images"][0].update(name="wrist"),
            "no camera 'wrist'; it has observation.images",
        ),
        (lambda robot: robot["images"][0].update(height=32), "only the same aspect ratio"),
        (lambda robot: robot["action"]["fields"].append({**robot["action"]["fields"][0], "name": "lift"}), "lift"),
    ],
)
def test_what_does_not_fit_is_named(dataset, robot, tmp_path, change, says):
    export_lerobot(dataset, tmp_path / "lerobot")
    change(robot)
    with pytest.raises(LeRobotError) as refusal:
        import_lerobot(tmp_path / "lerobot", tmp_path / "again", RobotInterface.from_dict(robot, "test"))
    assert says in str(refusal.value)


def test_not_a_lerobot_dataset(navigation, tmp_path):
    with pytest.raises(LeRobotError, match=r"not a LeRobotDataset: meta/info\.json"):
        import_lerobot(tmp_path, tmp_path / "again", navigation)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v2.1", "features": {}, "fps": 10}')
    with pytest.raises(LeRobotError, match=r"codebase_version is v2\.1"):
        import_lerobot(tmp_path, tmp_path / "again", navigation)


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="lerobot is not installed")
def test_lerobots_own_reader(dataset, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    export_lerobot(dataset, tmp_path / "lerobot")
    theirs = LeRobotDataset("local/navigation", root=tmp_path / "lerobot")
    assert len(theirs) == 28 and theirs.num_episodes == 3
    frame = theirs[12 + 5]
    assert frame["task"] == dataset[1].instruction
    np.testing.assert_array_equal(frame["action"].numpy(), dataset[1].action[5])
    np.testing.assert_array_equal(frame["observation.state"].numpy(), dataset[1].sensor[5])
    pixels = (frame["observation.images.overhead"].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, dataset[1].images["overhead"][5])


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="lerobot is not installed")
@pytest.mark.parametrize("videos", [False, True])
def test_what_lerobot_wrote(navigation, tmp_path, videos):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    camera = {"dtype": "video" if videos else "image", "shape": (128, 128, 3), "names": ["height", "width", "channels"]}
    state = {"dtype": "float32", "shape": (navigation.sensor_size,), "names": navigation.sensor_names}
    action = {"dtype": "float32", "shape": (2,), "names": ["turn", "forward"]}
    features = {"observation.images.overhead": camera, "observation.state": state, "action": action}
    theirs = LeRobotDataset.create("local/x", 10, features, root=tmp_path / "lerobot", use_videos=videos)
    for episode in range(2):
        for step in range(15):
            pixels = np.full((128, 128, 3), 100 * episode + 10 * step, np.uint8)
            theirs.add_frame(
                {
                    "observation.images.overhead": pixels,
                    "observation.state": np.full(navigation.sensor_size, step, np.float32),
                    "action": np.float32([step, -step]),
                    "task": f"task {episode}",
                }
            )
        theirs.save_episode()
    theirs.finalize()
    assert import_lerobot(tmp_path / "lerobot", tmp_path / "ours", navigation) == 2
    for episode, trajectory in enumerate(Dataset.open(tmp_path / "ours")):
        steps = np.arange(15)
        assert trajectory.instruction == f"task {episode}" and trajectory.success is None and trajectory.valid.all()
        assert (trajectory.violation == -1).all() and trajectory.source == "real"
        np.testing.assert_array_equal(trajectory.action, np.stack([-steps, steps], 1))
        np.testing.assert_array_equal(trajectory.sensor[:, 0], steps)
        grey = trajectory.images["overhead"].mean((1, 2, 3))
        np.testing.assert_allclose(grey, 100 * episode + 10 * steps, atol=4.9 if videos else 0)
