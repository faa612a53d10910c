"""LeRobotDataset v3.0: what is written reads back unchanged, and as LeRobot's own reader expects it."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.dataset import AlreadyHeldError, Dataset, DatasetWriter
from tc_mmwm_core.data.lerobot import LeRobotError, export_lerobot, import_lerobot
from tc_mmwm_core.interface.robot import RobotInterface

pa = pytest.importorskip("pyarrow")
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
    assert import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation).trajectories == 3
    for before, after in zip(dataset, Dataset.open(tmp_path / "again"), strict=True):
        for name, array in before.arrays().items():
            np.testing.assert_array_equal(after.arrays()[name], array, err_msg=name)
        assert (after.instruction, after.success, after.source) == (before.instruction, before.success, before.source)
        assert after.scene == before.scene and before.provenance.items() <= after.provenance.items()


def test_scene_and_state_are_kept_where_only_some_have_them(navigation, tmp_path):
    kinds = [make_trajectory(navigation, seed) for seed in range(4)]
    kinds[0].state = kinds[0].scene = kinds[2].state = kinds[3].scene = None
    DatasetWriter(tmp_path / "dataset", navigation).append(kinds)
    export_lerobot(Dataset.open(tmp_path / "dataset"), tmp_path / "lerobot")
    import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation)
    for before, after in zip(kinds, Dataset.open(tmp_path / "again"), strict=True):
        assert after.scene == before.scene and (after.state is None) == (before.state is None)
        if before.state is not None:
            np.testing.assert_array_equal(after.state, before.state)
    stats = json.loads((tmp_path / "lerobot" / "meta" / "stats.json").read_text())["observation.environment_state"]
    known = np.concatenate([kinds[1].state, kinds[3].state])
    np.testing.assert_allclose(stats["mean"], known.mean(0), atol=1e-6)


def test_the_same_folder_twice_is_refused(dataset, navigation, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation)
    (tmp_path / "lerobot").rename(tmp_path / "renamed")
    with pytest.raises(AlreadyHeldError, match=r"renamed: .*again already holds its trajectories; --force"):
        import_lerobot(tmp_path / "renamed", tmp_path / "again", navigation)
    assert import_lerobot(tmp_path / "renamed", tmp_path / "again", navigation, force=True).trajectories == 3
    assert len(Dataset.open(tmp_path / "again")) == 6


def test_a_damaged_file_is_named(dataset, navigation, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    file = tmp_path / "lerobot" / "data" / "chunk-000" / "file-000.parquet"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(LeRobotError, match=r"lerobot: cannot be read: .*[Pp]arquet"):
        import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation)
    assert len(Dataset.open(tmp_path / "again")) == 0


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


def renamed(lerobot, names) -> None:
    """Give the numbers of the action other names."""
    file = lerobot / "meta" / "info.json"
    info = json.loads(file.read_text())
    info["features"]["action"]["names"] = names
    file.write_text(json.dumps(info))


@pytest.mark.parametrize(
    "names", [["turn", "drive"], ["turn", "turn"], ["Turn", "Forward"], ["cmd.turn", "cmd.forward"]]
)
def test_names_of_which_only_some_fit_are_not_taken_by_order(dataset, navigation, tmp_path, names):
    export_lerobot(dataset, tmp_path / "lerobot")
    renamed(tmp_path / "lerobot", names)
    with pytest.raises(
        LeRobotError, match=rf"'action' has the numbers {', '.join(names)}; .* needs forward, turn: some"
    ):
        import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation)


@pytest.mark.parametrize("names", [["v", "w"], ["cmd.forward", "cmd.turn"], None])
def test_numbers_of_other_names_are_taken_by_order_and_that_is_said(dataset, navigation, tmp_path, names):
    export_lerobot(dataset, tmp_path / "lerobot")
    renamed(tmp_path / "lerobot", names)
    [note] = import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation).notes
    assert note.startswith("action, ") and note.endswith(", was taken by order for forward, turn")
    np.testing.assert_array_equal(Dataset.open(tmp_path / "again")[0].action, dataset[0].action)


def somebody_elses(lerobot, **columns) -> None:
    """Take out what we wrote of the episodes, and add columns to the frames."""
    file = lerobot / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns([name for name in table.column_names if name.startswith("tc_mmwm/")]), file)
    file = lerobot / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file).drop_columns(["violation"])
    for name, values in columns.items():
        table = table.append_column(name, [values])
    pq.write_table(table, file)


def test_an_episode_with_a_successful_frame_succeeded(dataset, navigation, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    frames = np.zeros(28, bool)
    frames[[10, 19]] = True  # in the first and the last of three episodes
    somebody_elses(tmp_path / "lerobot", **{"next.success": frames})
    import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation, success=True)
    assert [info.success for info in Dataset.open(tmp_path / "again").trajectories] == [True, False, True]


def test_what_a_dataset_does_not_say_is_given(dataset, navigation, tmp_path):
    export_lerobot(dataset, tmp_path / "lerobot")
    somebody_elses(tmp_path / "lerobot")
    import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation)
    assert {(info.success, info.source) for info in Dataset.open(tmp_path / "again").trajectories} == {(None, "real")}
    tasks = pq.read_table(tmp_path / "lerobot" / "meta" / "tasks.parquet").to_pydict()
    tasks["task"][1] = ""
    pq.write_table(pa.table(tasks), tmp_path / "lerobot" / "meta" / "tasks.parquet")
    with pytest.raises(LeRobotError, match="episode 1 has no task; give one with --instruction"):
        import_lerobot(tmp_path / "lerobot", tmp_path / "third", navigation)
    given = {"instruction": "go", "source": "simulated", "success": True}
    report = import_lerobot(tmp_path / "lerobot", tmp_path / "third", navigation, **given)
    found = [(info.instruction, info.source, info.success) for info in Dataset.open(tmp_path / "third").trajectories]
    known = dataset[0].instruction
    assert found == [(known, "simulated", True), ("go", "simulated", True), (known, "simulated", True)]
    assert (report.trajectories, report.steps, report.successes) == (3, 28, 3)


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


def as_video(lerobot, key: str, frames: int) -> None:
    """Turn the pictures of a folder into one MP4 for all episodes, as LeRobot has them by default."""
    av = pytest.importorskip("av")
    data = lerobot / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(data)
    file = lerobot / "videos" / key / "chunk-000" / "file-000.mp4"
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("h264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 128  # twice what the interface asks for
        stream.pix_fmt, stream.gop_size, stream.time_base = "yuv420p", 4, Fraction(1, 10)
        for cell in table[key].to_pylist():
            pixels = cv2.resize(cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), 1), (128, 128))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    pq.write_table(table.drop_columns([key]), data)
    episodes = lerobot / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(episodes)
    starts = [index / 10 for index in table["dataset_from_index"].to_pylist()]
    for name, values in {"chunk_index": [0] * frames, "file_index": [0] * frames, "from_timestamp": starts}.items():
        table = table.append_column(f"videos/{key}/{name}", [values])
    pq.write_table(table, episodes)
    info = json.loads((lerobot / "meta" / "info.json").read_text())
    info["features"][key] |= {"dtype": "video", "shape": [128, 128, 3]}
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (lerobot / "meta" / "info.json").write_text(json.dumps(info))


def test_video_of_several_episodes_in_one_file(navigation, tmp_path):
    trajectories = [make_trajectory(navigation, seed, length) for seed, length in ((0, 12), (1, 7), (2, 9))]
    for number, trajectory in enumerate(trajectories):
        grey = 60 * number + 8 * np.arange(len(trajectory), dtype=np.uint8)
        trajectory.images["overhead"][:] = grey[:, None, None, None]
        trajectory.images["overhead"][..., 0] = 0  # no red
    DatasetWriter(tmp_path / "dataset", navigation).append(trajectories)
    export_lerobot(Dataset.open(tmp_path / "dataset"), tmp_path / "lerobot")
    as_video(tmp_path / "lerobot", "observation.images.overhead", len(trajectories))
    assert import_lerobot(tmp_path / "lerobot", tmp_path / "again", navigation).trajectories == 3
    for before, after in zip(trajectories, Dataset.open(tmp_path / "again"), strict=True):
        seen, expected = (t.images["overhead"].mean((1, 2)) for t in (after, before))
        np.testing.assert_allclose(seen.mean(1), expected.mean(1), atol=2.5)  # the next frame differs by 5.3
        np.testing.assert_allclose(seen, expected, atol=15)

    [file] = (tmp_path / "lerobot" / "videos").rglob("*.mp4")
    shorter = tmp_path / "shorter"
    export_lerobot(Dataset.open(tmp_path / "dataset").subset([0, 1]), shorter)
    as_video(shorter, "observation.images.overhead", 2)
    next((shorter / "videos").rglob("*.mp4")).replace(file)
    with pytest.raises(LeRobotError, match=r"file-000\.mp4: episode 2 has 9 frames, the video only 0"):
        import_lerobot(tmp_path / "lerobot", tmp_path / "third", navigation)


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
    assert import_lerobot(tmp_path / "lerobot", tmp_path / "ours", navigation).trajectories == 2
    for episode, trajectory in enumerate(Dataset.open(tmp_path / "ours")):
        steps = np.arange(15)
        assert trajectory.instruction == f"task {episode}" and trajectory.success is None and trajectory.valid.all()
        assert (trajectory.violation == -1).all() and trajectory.source == "real"
        np.testing.assert_array_equal(trajectory.action, np.stack([-steps, steps], 1))
        np.testing.assert_array_equal(trajectory.sensor[:, 0], steps)
        grey = trajectory.images["overhead"].mean((1, 2, 3))
        np.testing.assert_allclose(grey, 100 * episode + 10 * steps, atol=4.9 if videos else 0)
