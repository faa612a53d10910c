"""Read and write LeRobotDataset v3.0, the format in which robot-learning data is shared.

Layout (https://github.com/huggingface/lerobot, CODEBASE_VERSION v3.0): meta/info.json, meta/stats.json,
meta/tasks.parquet, meta/episodes/ and data/ in numbered parquet files, one row group an episode. Images are written as
PNG inside the parquet, so nothing is lost; datasets with MP4 video are read too.

What LeRobot has no place for travels along: per frame ``violation`` (0, 1, -1 unknown), ``valid`` and, of simulators,
``observation.environment_state`` (NaN in episodes that have none); per episode success, source, provenance and scene as
columns ``tc_mmwm/*``; the robot interface in meta/robot.json.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.data.report import ConversionReport, outcome
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.robot import ImageSpec, RobotInterface
from tc_mmwm_core.utils.files import sha256

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILES_A_CHUNK = 1000
FILE_BYTES = 100 * 1024 * 1024
STATE, ACTION, ENVIRONMENT = "observation.state", "action", "observation.environment_state"
IMAGES = "observation.images."
SUCCESS = "next.success"  # of each frame
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


class LeRobotError(ValueError):
    """A folder is no LeRobotDataset v3.0, or does not fit the robot interface."""


def _parquet() -> tuple[Any, Any]:
    """pyarrow, the parquet library that LeRobot itself uses; large, and needed for nothing else here."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise LeRobotError("LeRobotDataset is stored as parquet, which needs: pip install pyarrow") from None
    return pyarrow, pyarrow.parquet


# --- writing


def export_lerobot(dataset: Dataset, path: str | Path) -> int:
    """Write ``dataset`` as a LeRobotDataset to ``path``, which must not exist yet. Returns the number of episodes.

    Raises:
        LeRobotError: the rate is not a whole number of Hz, there are no trajectories, or ``path`` exists.
    """
    path = Path(path)
    interface = dataset.interface
    if path.exists():
        raise LeRobotError(f"{path} already exists")
    if interface.rate != int(interface.rate):
        raise LeRobotError(f"rate is {interface.rate} Hz; LeRobotDataset needs a whole number of frames a second")
    if not len(dataset):
        raise LeRobotError("the dataset has no trajectories")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(dataset, folder)
        folder.chmod(0o755)
        os.rename(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return len(dataset)


def _write(dataset: Dataset, folder: Path) -> None:
    pa, pq = _parquet()
    interface = dataset.interface
    sizes = {dataset[index].state.shape[1] for index, info in enumerate(dataset.trajectories) if info.has_state}
    if len(sizes) > 1:
        raise LeRobotError(f"states of {' and '.join(map(str, sorted(sizes)))} numbers; a LeRobotDataset has one size")
    state_size = sizes.pop() if sizes else None
    features = _features(interface, state_size)
    schema = _schema(features)
    tasks = list(dict.fromkeys(info.instruction for info in dataset.trajectories))
    statistics = {name: _Statistics() for name in features if name not in ("violation", "valid")}
    episodes: list[dict[str, Any]] = []
    data: _NumberedFile | None = None
    first = 0
    for number, info in enumerate(dataset.trajectories):
        trajectory = dataset[number]
        columns = _columns(trajectory, interface, number, first, tasks.index(info.instruction), state_size)
        for name, statistic in statistics.items():
            if name == ENVIRONMENT and trajectory.state is None:
                continue
            image = trajectory.images.get(name.removeprefix(IMAGES))
            values = columns[name] if image is None else _rgb(image, interface, name)
            statistic.add(np.asarray(values)[trajectory.valid])
        table = pa.table({name: _array(columns[name], schema.field(name).type) for name in features}, schema)
        if data is None or data.bytes >= FILE_BYTES:
            if data is not None:
                data.writer.close()
            data = _NumberedFile.open(folder / "data", 0 if data is None else data.number + 1, schema, pq)
        data.writer.write_table(table)
        episodes.append(
            {
                "episode_index": number,
                "tasks": [info.instruction],
                "length": info.length,
                "data/chunk_index": data.number // FILES_A_CHUNK,
                "data/file_index": data.number % FILES_A_CHUNK,
                "dataset_from_index": first,
                "dataset_to_index": first + info.length,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "tc_mmwm/success": info.success,
                "tc_mmwm/source": info.source,
                "tc_mmwm/provenance": json.dumps(info.provenance),
                "tc_mmwm/scene": json.dumps(info.scene),
            }
        )
        first += info.length
    data.writer.close()
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    kinds = {"tc_mmwm/success": pa.bool_()}
    columns = {key: pa.array([episode[key] for episode in episodes], kinds.get(key)) for key in episodes[0]}
    pq.write_table(pa.table(columns), meta / "episodes" / FILE.format(chunk_index=0, file_index=0))
    _write_tasks(tasks, meta / "tasks.parquet", pa, pq)
    _write_json(meta / "stats.json", {name: statistic.summary() for name, statistic in statistics.items()})
    _write_json(meta / "robot.json", interface.to_dict())
    _write_json(
        meta / "info.json",
        {
            "codebase_version": VERSION,
            "robot_type": interface.name,
            "fps": int(interface.rate),
            "features": features,
            "total_episodes": len(episodes),
            "total_frames": first,
            "total_tasks": len(tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "data_path": f"data/{FILE}",
            "video_path": None,
            "splits": {"train": f"0:{len(episodes)}"},
        },
    )


@dataclass
class _NumberedFile:
    path: Path
    number: int
    writer: Any

    @classmethod
    def open(cls, folder: Path, number: int, schema: Any, pq: Any) -> _NumberedFile:
        path = folder / FILE.format(chunk_index=number // FILES_A_CHUNK, file_index=number % FILES_A_CHUNK)
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path, number, pq.ParquetWriter(path, schema, compression="snappy"))

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def _features(interface: RobotInterface, state_size: int | None) -> dict[str, dict[str, Any]]:
    features: dict[str, dict[str, Any]] = {
        f"{IMAGES}{spec.name}": {
            "dtype": "image",
            "shape": [spec.height, spec.width, 3],
            "names": ["height", "width", "channels"],
        }
        for spec in interface.images
    }
    if interface.sensor_size:
        features[STATE] = {"dtype": "float32", "shape": [interface.sensor_size], "names": interface.sensor_names}
    features[ACTION] = {"dtype": "float32", "shape": [interface.action_size], "names": interface.action_names}
    if state_size is not None:
        features[ENVIRONMENT] = {"dtype": "float32", "shape": [state_size], "names": None}
    features["violation"] = {"dtype": "int8", "shape": [1], "names": None}
    features["valid"] = {"dtype": "bool", "shape": [1], "names": None}
    return features | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX.items()}


def _schema(features: dict[str, dict[str, Any]]) -> Any:
    pa, _ = _parquet()

    def kind(feature: dict[str, Any]) -> Any:
        if feature["dtype"] == "image":
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        scalar = pa.bool_() if feature["dtype"] == "bool" else pa.type_for_alias(feature["dtype"])
        # LeRobot stores a vector of one number as that number.
        return scalar if feature["shape"] == [1] else pa.list_(scalar, feature["shape"][0])

    return pa.schema([(name, kind(feature)) for name, feature in features.items()])


def _columns(
    trajectory: Trajectory, interface: RobotInterface, number: int, first: int, task: int, state_size: int | None
) -> dict[str, Any]:
    length = len(trajectory)
    columns: dict[str, Any] = {}
    for name, frames in trajectory.images.items():
        key = f"{IMAGES}{name}"
        pixels = _rgb(frames, interface, key)
        columns[key] = [
            {"bytes": cv2.imencode(".png", frame[..., ::-1])[1].tobytes(), "path": f"frame-{index:06d}.png"}
            for index, frame in enumerate(pixels)
        ]
    columns |= {STATE: trajectory.sensor, ACTION: trajectory.action}
    if state_size is not None:
        unknown = np.full((length, state_size), np.nan, np.float32)
        columns[ENVIRONMENT] = unknown if trajectory.state is None else trajectory.state
    columns |= {"violation": trajectory.violation, "valid": trajectory.valid}
    frames = np.arange(length)
    columns |= {
        "timestamp": (frames / interface.rate).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, number),
        "index": first + frames,
        "task_index": np.full(length, task),
    }
    return columns


def _array(values: Any, kind: Any) -> Any:
    pa, _ = _parquet()
    if isinstance(values, np.ndarray) and values.ndim == 2 and pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values.reshape(-1) if isinstance(values, np.ndarray) else values, kind)


def _rgb(frames: np.ndarray, interface: RobotInterface, key: str) -> np.ndarray:
    """uint8 [L, H, W, 3], red first, as LeRobot has them."""
    spec = next(spec for spec in interface.images if f"{IMAGES}{spec.name}" == key)
    if spec.encoding == "mono8":
        return np.repeat(frames, 3, axis=-1)
    return frames[..., ::-1] if spec.encoding == "bgr8" else frames


class _Statistics:
    """Minimum, maximum, mean, deviation and quantiles of a feature over valid frames; of an image by channel, 0 to 1.

    Vectors are few enough to be kept; of images a histogram of the 256 grey levels says it all.
    """

    def __init__(self) -> None:
        self.vectors: list[np.ndarray] = []
        self.histogram: np.ndarray | None = None
        self.frames = 0

    def add(self, values: np.ndarray) -> None:
        self.frames += len(values)
        if values.ndim == 4:
            counts = np.stack([np.bincount(values[..., channel].reshape(-1), minlength=256) for channel in range(3)])
            self.histogram = counts if self.histogram is None else self.histogram + counts
        else:
            self.vectors.append(values.reshape(len(values), -1).astype(np.float64))

    def summary(self) -> dict[str, Any]:
        if self.histogram is None:
            values = np.concatenate(self.vectors)
            found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
            found |= {name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()}
            return {name: value.tolist() for name, value in found.items()} | {"count": [self.frames]}
        levels = np.arange(256) / 255.0
        weights = self.histogram / self.histogram.sum(1, keepdims=True)
        mean = weights @ levels
        present = self.histogram > 0
        found = {
            "min": levels[present.argmax(1)],
            "max": levels[255 - present[:, ::-1].argmax(1)],
            "mean": mean,
            "std": np.sqrt(weights @ levels**2 - mean**2),
        }
        cumulative = weights.cumsum(1)
        found |= {name: levels[(cumulative >= share - 1e-12).argmax(1)] for name, share in QUANTILES.items()}
        return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [self.frames]}


def _write_tasks(tasks: list[str], path: Path, pa: Any, pq: Any) -> None:
    """LeRobot reads this with pandas, and the task's text is the index there; so says the pandas metadata."""
    column = {"metadata": None, "numpy_type": "int64", "pandas_type": "int64"}
    text = {"metadata": None, "numpy_type": "object", "pandas_type": "unicode"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index"} | column,
            {"name": "task", "field_name": "task"} | text,
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


# --- reading


def import_lerobot(
    path: str | Path,
    output: str | Path,
    interface: RobotInterface,
    *,
    instruction: str | None = None,
    source: Literal["simulated", "real"] | None = None,
    success: bool | None = None,
    force: bool = False,
) -> ConversionReport:
    """Append the episodes of the LeRobotDataset at ``path`` to the dataset at ``output``.

    Cameras are matched by name (``observation.images.<name>``), numbers of ``observation.state`` and ``action`` by
    their names, or by their order where the dataset gives no names, or none of these: a note of the report says so. An
    episode is cut where its task changes; it succeeded where one of its frames has ``next.success``.

    Args:
        instruction: for episodes without a task.
        source: by default what the dataset says, else real.
        success: of the trajectories of which it is not known; see :func:`tc_mmwm_core.data.convert.outcome`.
        force: also where the dataset at ``output`` already holds it.

    Raises:
        LeRobotError: not a LeRobotDataset v3.0, damaged, or it does not fit the interface; says what is there.
        AlreadyHeldError: the dataset at ``output`` holds it; only without ``force``.
    """
    pa, _ = _parquet()
    origin = _Source(Path(path), interface)
    writer = DatasetWriter(output, interface)
    if not force:
        writer.check_new(origin.path, "lerobot_sha256", origin.sha256)
    report = ConversionReport(bag=str(path), output=str(output), notes=origin.notes)
    try:
        with writer.shard() as shard:
            for trajectory in origin.trajectories():
                if not trajectory.instruction.strip():
                    trajectory.instruction = instruction or ""
                if not trajectory.instruction:
                    number = trajectory.provenance["episode_index"]
                    raise LeRobotError(f"{path}: episode {number} has no task; give one with --instruction")
                trajectory.source = source or trajectory.source
                trajectory.success = outcome(trajectory, success)
                shard.add(trajectory)
                report.account(trajectory, interface)
    except pa.ArrowException as error:
        raise LeRobotError(f"{path}: cannot be read: {error}") from None
    report.duration = report.steps / interface.rate
    return report


class _Source:
    """A LeRobotDataset on disk that fits an interface."""

    def __init__(self, path: Path, interface: RobotInterface):
        self.path = path
        self.interface = interface
        self.notes: list[str] = []  # what was assumed
        try:
            self.info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
            version, self.features, fps = self.info["codebase_version"], self.info["features"], self.info["fps"]
        except (OSError, ValueError, KeyError) as error:
            raise LeRobotError(f"{path}: not a LeRobotDataset: meta/info.json: {error}") from None
        if not str(version).startswith("v3."):
            raise LeRobotError(f"{path}: codebase_version is {version}; {VERSION} is read; LeRobot converts older ones")
        if fps != interface.rate:
            raise LeRobotError(f"{path}: recorded at {fps} Hz, the robot interface says {interface.rate:g} Hz")
        self.cameras = {spec.name: self._camera(spec) for spec in interface.images}
        self.sensor = self._order(STATE, interface.sensor_names) if interface.sensor_size else np.zeros(0, int)
        self.action = self._order(ACTION, interface.action_names)
        self.sha256 = self._sha256()

    def trajectories(self) -> Iterator[Trajectory]:
        _, pq = _parquet()
        tasks = {}
        for row in pq.read_table(self.path / "meta" / "tasks.parquet").to_pylist():
            text = row.get("task", row.get("__index_level_0__"))
            tasks[row["task_index"]] = text
        for file in sorted((self.path / "meta" / "episodes").glob("*/*.parquet")):
            names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
            for episode in pq.read_table(file, columns=names).to_pylist():
                yield from self._episode(episode, tasks)

    def _episode(self, episode: dict[str, Any], tasks: dict[int, str]) -> Iterator[Trajectory]:
        _, pq = _parquet()
        where = self.path / self.info["data_path"].format(
            chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"]
        )
        number = episode["episode_index"]
        rows = pq.read_table(where, filters=[("episode_index", "==", number)])
        frames = {name: self._frames(key, rows, episode) for name, key in self.cameras.items()}
        empty = np.zeros((len(rows), 0), np.float32)
        sensor = self._numbers(rows, STATE)[:, self.sensor] if len(self.sensor) else empty
        action = self._numbers(rows, ACTION)[:, self.action]
        # others keep there what no oracle of ours knows how to read
        known = ENVIRONMENT in rows.column_names and "tc_mmwm/scene" in episode
        states = self._numbers(rows, ENVIRONMENT) if known else None
        if states is not None and np.isnan(states).all():
            states = None
        scene = json.loads(episode.get("tc_mmwm/scene") or "null")
        provenance = json.loads(episode.get("tc_mmwm/provenance") or "{}")
        origin = {"lerobot": self.path.name, "lerobot_sha256": self.sha256, "episode_index": number}
        task = rows["task_index"].to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(task)) + 1).tolist(), len(task)]
        for begin, end in pairwise(cuts):
            last = end == len(task)
            yield Trajectory(
                images={name: pixels[begin:end] for name, pixels in frames.items()},
                sensor=np.ascontiguousarray(sensor[begin:end]),
                action=np.ascontiguousarray(action[begin:end]),
                valid=self._column(rows, "valid", True, bool)[begin:end],
                violation=self._column(rows, "violation", -1, np.int8)[begin:end],
                instruction=tasks[int(task[begin])] or "",
                success=self._success(episode, rows[begin:end]) if last else None,
                source=episode.get("tc_mmwm/source") or "real",
                provenance=provenance | origin,
                scene=scene,
                state=None if states is None else states[begin:end],
            )

    def _success(self, episode: dict[str, Any], rows: Any) -> bool | None:
        """What we wrote of the episode ourselves, else whether any of these frames, its last ones, is a success."""
        if SUCCESS not in rows.column_names or episode.get("tc_mmwm/success") is not None:
            return episode.get("tc_mmwm/success")
        return self._column(rows, SUCCESS, False, bool).any().item()

    def _sha256(self) -> str:
        """Over all parquet files: what was sensed, done and said, which no two recordings have in common."""
        return sha256(sorted([*self.path.glob("data/**/*.parquet"), *self.path.glob("meta/**/*.parquet")]))

    def _camera(self, spec: ImageSpec) -> str:
        keys = [key for key, feature in self.features.items() if feature["dtype"] in ("image", "video")]
        fitting = [key for key in keys if key in (f"{IMAGES}{spec.name}", f"observation.{spec.name}", spec.name)]
        if not fitting:
            raise LeRobotError(f"{self.path}: no camera '{spec.name}'; it has {', '.join(keys) or 'none'}")
        height, width = self.features[fitting[0]]["shape"][:2]
        if self.features[fitting[0]].get("names") == ["channels", "height", "width"]:
            height, width = self.features[fitting[0]]["shape"][1:]
        if width * spec.height != height * spec.width:
            raise LeRobotError(
                f"{self.path}: {fitting[0]} is {width}x{height}, the model sees {spec.width}x{spec.height}: only the "
                "same aspect ratio is resized"
            )
        return fitting[0]

    def _order(self, key: str, names: list[str]) -> np.ndarray:
        """Which elements of a vector are the interface's fields, in its order."""
        if key not in self.features:
            raise LeRobotError(f"{self.path}: has no '{key}'; it has {', '.join(self.features)}")
        theirs = self.features[key].get("names")
        if isinstance(theirs, dict):  # e.g. {"motors": [...]}
            theirs = next(iter(theirs.values()))
        if theirs and all(theirs.count(name) == 1 for name in names):
            return np.array([theirs.index(name) for name in names])
        plain, plain_theirs = ([name.rpartition(".")[2].casefold() for name in each] for each in (names, theirs or []))
        if set(names) & set(theirs or []) or (set(plain) & set(plain_theirs) and plain != plain_theirs):
            raise LeRobotError(
                f"{self.path}: '{key}' has the numbers {', '.join(theirs)}; the robot interface needs "
                f"{', '.join(names)}: some names fit, so the order does not tell which is which; name "
                "the fields of the robot interface as they are named there"
            )
        size = int(np.prod(self.features[key]["shape"]))
        if size != len(names):
            raise LeRobotError(
                f"{self.path}: '{key}' has {size} numbers ({theirs or 'without names'}), the robot interface needs "
                f"{len(names)}: {', '.join(names)}"
            )
        known = f"named {', '.join(theirs)} there" if theirs else "without names there"
        self.notes.append(f"{key}, {known}, was taken by order for {', '.join(names)}")
        return np.arange(size)

    def _numbers(self, rows: Any, key: str) -> np.ndarray:
        return np.array(rows[key].to_pylist(), np.float32).reshape(len(rows), -1)

    def _column(self, rows: Any, key: str, default: Any, dtype: Any) -> np.ndarray:
        if key not in rows.column_names:
            return np.full(len(rows), default, dtype)
        return np.array(rows[key].to_pylist(), dtype).reshape(-1)

    def _frames(self, key: str, rows: Any, episode: dict[str, Any]) -> np.ndarray:
        spec = next(spec for spec in self.interface.images if self.cameras.get(spec.name, key) == key)
        if self.features[key]["dtype"] == "video":
            pixels = self._video(key, episode, len(rows))
        else:
            pixels = (cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), 1) for cell in rows[key].to_pylist())
        conversion = {"rgb8": cv2.COLOR_BGR2RGB, "mono8": cv2.COLOR_BGR2GRAY}.get(spec.encoding)
        frames = np.empty((len(rows), spec.height, spec.width, spec.channels), np.uint8)
        for index, frame in enumerate(pixels):
            if frame.shape[:2] != (spec.height, spec.width):
                frame = cv2.resize(frame, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
            frame = frame if conversion is None else cv2.cvtColor(frame, conversion)
            frames[index] = frame.reshape(frames.shape[1:])
        return frames

    def _video(self, key: str, episode: dict[str, Any], length: int) -> Iterator[np.ndarray]:
        """The episode's frames, blue first; several episodes share a file."""
        try:
            import av  # PyAV: decodes AV1, LeRobot's default, which OpenCV's wheels do not
        except ModuleNotFoundError:
            raise LeRobotError(f"{self.path}: {key} is video; reading it needs PyAV: pip install av") from None

        file = self.path / self.info["video_path"].format(
            video_key=key,
            chunk_index=episode[f"videos/{key}/chunk_index"],
            file_index=episode[f"videos/{key}/file_index"],
        )
        begin = episode[f"videos/{key}/from_timestamp"] - 0.5 / self.interface.rate
        found = 0
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            container.seek(max(int(begin / stream.time_base), 0), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= begin:
                    yield frame.to_ndarray(format="bgr24")
                    found += 1
                    if found == length:
                        return
        raise LeRobotError(f"{file}: episode {episode['episode_index']} has {length} frames, the video only {found}")
