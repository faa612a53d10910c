"""The dataset: memory-mapped trajectories in shards that are written once and never touched again (contract 2).

A shard is written under a temporary name, synced to disk and renamed, so there is never half a shard, and appending
rewrites nothing. What a killed writer leaves is in nobody's way, and the next writer removes it.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import resource
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from tc_mmwm_core.config import Config, ConfigError
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.utils.files import to_disk, write_atomically

SCHEMA = 1
LOCK = ".lock"  # held in a shard's folder while the shard is written


class DatasetError(ValueError):
    """A folder is no dataset, or what is appended does not fit it."""


class AlreadyHeldError(DatasetError):
    """A recording would be appended a second time."""


class _Record(Config):
    """One trajectory in shard.json."""

    start: int = Field(ge=0)
    length: int = Field(ge=1)
    instruction: str
    success: bool | None
    source: Literal["simulated", "real"]
    provenance: dict[str, Any]
    scene: dict[str, Any] | None
    has_state: bool
    crc32: dict[str, int]


@dataclass(frozen=True, slots=True)
class TrajectoryInfo:
    """What is known of a trajectory without touching its arrays."""

    dataset: str  # path
    shard: str  # folder name
    index: int  # within the shard
    start: int  # first row of the shard's arrays
    length: int  # control steps
    instruction: str
    success: bool | None
    source: str
    provenance: dict[str, Any]
    scene: dict[str, Any] | None
    has_state: bool
    identity: str
    """sha256 of what the robot sensed and did: the same for the same recording, wherever it lies"""
    record: str
    """sha256 of all that shard.json says of it, labels and checksums too"""

    @property
    def episode(self) -> str:
        """sha256 of what it is a piece of, by its provenance; its own identity where that does not tell.

        Converters cut episodes where the instruction changes, and pieces of one resemble each other. Where no event
        says that an attempt begins (``scene_seed`` is null), one stretch of a recording goes on where the one before
        ended, in the same place among the same things: all of the recording is one episode.
        """
        made = self.provenance
        if "sha256" in made and "episode" in made:  # first: it stays so through a LeRobotDataset
            attempt = made["episode"] if made.get("scene_seed") is not None else None
            return _sha256(json.dumps([made["sha256"], made.get("namespace"), attempt]))
        if "lerobot_sha256" in made:
            return _sha256(json.dumps([made["lerobot_sha256"], made["episode_index"]]))
        return self.identity

    @property
    def group(self) -> str:
        """sha256 of what it shares with those that resemble it: its :attr:`episode`, or, of an episode collected in a
        domain, the layout: two drivers over one seed see the same things in the same places."""
        made = self.provenance
        if self.episode == self.identity and "domain" in made and "seed" in made:
            return _sha256(json.dumps(["layout", made["domain"], made["seed"]]))
        return self.episode


class DatasetWriter:
    """Appends trajectories to the dataset at ``path``, which is created where there is none or an empty one.

    Raises:
        DatasetError: the dataset there was made for another robot interface; each difference is named.
    """

    def __init__(self, path: str | Path, interface: RobotInterface):
        self.path = Path(path)
        self.interface = interface
        shards, file = self.path / "shards", self.path / "dataset.json"
        _remove_abandoned(shards)
        theirs = _read_interface(self.path) if file.exists() else None
        holds_something = any(shards.glob("*"))  # what another writer has begun, too
        if theirs is not None and holds_something:
            _check_interface(self.path, theirs, interface)
        else:
            shards.mkdir(parents=True, exist_ok=True)
            content = {"schema": SCHEMA, "created": _utc_now(), "interface": interface.to_dict()}
            write_atomically(file, json.dumps(content, indent=2).encode())

    def check_new(self, recording: Path, key: str, sha256: str, **part: str) -> None:
        """Refuse ``recording`` with AlreadyHeldError where a trajectory here is of it: has its ``sha256`` as ``key``.

        ``part``: of the recording, e.g. one of two robots in a bag. A trajectory that does not say which is of any.
        """
        held = (info.provenance for info in Dataset.open(self.path).trajectories if info.provenance.get(key) == sha256)
        if any(all(made.get(name, value) == value for name, value in part.items()) for made in held):
            raise AlreadyHeldError(
                f"{recording}: {self.path} already holds its trajectories; --force appends them again"
            )

    def append(self, trajectories: Sequence[Trajectory]) -> Path:
        """Write ``trajectories`` as one new shard and return its path.

        Raises:
            DatasetError: a trajectory does not fit the interface (nothing is written), or there are none.
            OSError: the disk is full, ...; nothing is left behind.
        """
        with self.shard() as shard:
            for trajectory in trajectories:
                shard.add(trajectory)
        return shard.path

    @contextmanager
    def shard(self) -> Iterator[ShardWriter]:
        """A new shard to ``add`` trajectories to one by one; it appears whole when the block ends without an error."""
        shards = self.path / "shards"
        shards.mkdir(exist_ok=True)
        with _locked_folder(shards) as folder:
            shard = ShardWriter(folder, self.interface)
            try:
                yield shard
                if not shard.records:
                    raise DatasetError(f"{self.path}: no trajectories to append")
                digest = shard.finish()
                shard.path = shards / f"{_utc_now()}-{digest[:12]}"
                os.rename(shard.folder, shard.path)
            except BaseException:
                shard.abandon()
                raise
            (shard.path / LOCK).unlink()
        to_disk(shards)


@contextmanager
def _locked_folder(shards: Path) -> Iterator[Path]:
    """A new folder under ``shards`` that no other writer removes before the block ends."""
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=shards))
    with open(made / LOCK, "w") as lock:
        with suppress(OSError):  # a file system without locks: what is left on it stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now under the name that others look for: what they find there without a lock is abandoned.
        folder = shards / made.name.replace(".new-", ".writing-")
        os.rename(made, folder)
        yield folder


def _remove_abandoned(shards: Path) -> None:
    """Remove the folders of writers that were killed: nobody holds their locks."""
    for folder in shards.glob(".writing-*"):
        with suppress(OSError), open(folder / LOCK, "w") as lock:  # it is being written, or is complete by now
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


class ShardWriter:
    """A shard in the making, made by ``DatasetWriter.shard``; needs no more memory than one trajectory."""

    path: Path  # where the shard lies once it is complete

    def __init__(self, folder: Path, interface: RobotInterface):
        self.folder = folder
        self.interface = interface
        self.records: list[dict[str, Any]] = []
        self.steps = 0
        self._files: dict[str, IO[bytes]] = {}
        self._columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def add(self, trajectory: Trajectory) -> None:
        """Write one trajectory. DatasetError: it does not fit the interface."""
        if problems := trajectory.problems(self.interface):
            raise DatasetError(f"trajectory {len(self.records)} to append: {'; '.join(problems)}")
        arrays = trajectory.arrays()
        if trajectory.state is not None:
            arrays["state"] = trajectory.state.astype(np.float32)
        elif "state" in self._columns:
            arrays["state"] = np.full((len(trajectory), *self._columns["state"][1]), np.nan, np.float32)
        for name, array in arrays.items():
            column = (array.dtype, array.shape[1:])
            if name not in self._columns:
                self._begin_column(name, column)
            if self._columns[name] != column:
                raise DatasetError(f"'{name}' is {column} and was {self._columns[name]} in the same shard")
            self._files[name].write(np.ascontiguousarray(array).tobytes())
        record = _Record(
            start=self.steps,
            length=len(trajectory),
            instruction=trajectory.instruction,
            success=trajectory.success,
            source=trajectory.source,
            provenance=trajectory.provenance,
            scene=trajectory.scene,
            has_state=trajectory.state is not None,
            crc32=_checksums(trajectory),
        )
        self.records.append(record.model_dump(mode="json"))
        self.steps += len(trajectory)

    def finish(self) -> str:
        """Sync everything to disk; returns the sha256 over the records, which hold the checksum of every array."""
        for name, file in self._files.items():
            file.seek(0)
            self._write_header(name, self.steps)
            file.flush()
            os.fsync(file.fileno())
            file.close()
        digest = _sha256(json.dumps(self.records, sort_keys=True))
        content = {"schema": SCHEMA, "steps": self.steps, "sha256": digest, "trajectories": self.records}
        write_atomically(self.folder / "shard.json", json.dumps(content).encode())
        self.folder.chmod(0o755)  # mkdtemp's folders are private, a dataset is to be shared
        return digest

    def abandon(self) -> None:
        """Remove what was written."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin_column(self, name: str, column: tuple[np.dtype, tuple[int, ...]]) -> None:
        self._columns[name] = column
        self._files[name] = open(self.folder / f"{name}.npy", "wb")  # noqa: SIM115 (open until the shard is finished)
        self._write_header(name, 0)
        if self.steps:  # the first trajectories had no state
            self._files[name].write(np.full((self.steps, *column[1]), np.nan, column[0]).tobytes())

    def _write_header(self, name: str, rows: int) -> None:
        """NumPy leaves room in the header for the number of rows to grow, so it can be written again."""
        dtype, shape = self._columns[name]
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(self._files[name], header)


class Dataset(Sequence[Trajectory]):
    """Trajectories of one or more datasets of the same robot interface, memory-mapped.

    Corrupt shards and trajectories are left out and named in ``skipped``: (shard, trajectory or None, why).
    """

    def __init__(self, interface: RobotInterface, paths: Sequence[Path]):
        self.interface = interface
        self.paths = list(paths)
        self.trajectories: list[TrajectoryInfo] = []
        self.skipped: list[tuple[str, int | None, str]] = []
        self._shards: list[dict[str, np.ndarray]] = []
        self._shard_of: list[int] = []
        self._digests: list[tuple[int, str]] = []  # of each shard: how many trajectories were written, sha256
        for path in self.paths:
            for shard in sorted((path / "shards").glob("[!.]*")):
                self._open_shard(path, shard)

    @classmethod
    def open(cls, *paths: str | Path) -> Dataset:
        """Open the datasets at ``paths`` as one.

        Raises:
            DatasetError: a path is no dataset, or two datasets were made for robot interfaces that differ.
        """
        if not paths:
            raise DatasetError("no dataset given")
        _allow_open_files()
        folders = [Path(path) for path in paths]
        interfaces = [_read_interface(folder) for folder in folders]
        for folder, interface in zip(folders[1:], interfaces[1:], strict=True):
            _check_interface(folders[0], interfaces[0], interface, other=str(folder))
        return cls(interfaces[0], folders)

    def __len__(self) -> int:
        return len(self.trajectories)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The named trajectories as a dataset of its own, over the same files."""
        part = copy.copy(self)
        part.trajectories = [self.trajectories[index] for index in indices]
        part._shard_of = [self._shard_of[index] for index in indices]
        return part

    def tell_skipped(self) -> Dataset:
        """Print what is left out as corrupt, a line each; returns the dataset."""
        for shard, trajectory, why in self.skipped:
            where = f"shard {shard}" if trajectory is None else f"shard {shard}, trajectory {trajectory}"
            print(f"skipped: {', '.join(map(str, self.paths))}, {where}: {why}", flush=True)
        return self

    def __getitem__(self, index: int) -> Trajectory:
        """Trajectory ``index``; its arrays are read-only views of the files."""
        return _view(self.trajectories[index], self.arrays(index))

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """The whole shard's arrays by name, where trajectory ``index`` is rows [start, start + length)."""
        return self._shards[self._shard_of[index]]

    @property
    def steps(self) -> int:
        """Control steps in all."""
        return sum(info.length for info in self.trajectories)

    @property
    def digest(self) -> str:
        """sha256 over the records of its trajectories, which hold the checksum of every array.

        The order of shards makes no difference, nor that of a subset; how trajectories are divided into shards does.
        """
        records: dict[int, list[str]] = {}
        for shard, info in zip(self._shard_of, self.trajectories, strict=True):
            records.setdefault(shard, []).append(info.record)
        parts = []
        for shard, held in records.items():
            count, digest = self._digests[shard]
            parts.append(digest if count == len(held) == len(set(held)) else _sha256("\n".join(sorted(held))))
        return _sha256("\n".join(sorted(parts)))

    def verify(self) -> list[tuple[str, int, str]]:
        """Read everything, images too, and name each trajectory whose bytes are not those that were written."""
        damaged = []
        for index, info in enumerate(self.trajectories):
            records = json.loads((Path(info.dataset) / "shards" / info.shard / "shard.json").read_text())
            expected = records["trajectories"][info.index]["crc32"]
            wrong = [name for name, value in _checksums(self[index]).items() if expected.get(name) != value]
            if wrong:
                damaged.append((info.shard, info.index, f"checksum of {', '.join(sorted(wrong))} differs"))
        return damaged

    def _open_shard(self, path: Path, shard: Path) -> None:
        try:
            content = json.loads((shard / "shard.json").read_text(encoding="utf-8"))
            records, steps, digest = content["trajectories"], int(content["steps"]), str(content["sha256"])
            if _sha256(json.dumps(records, sort_keys=True)) != digest:
                raise ValueError("shard.json: its trajectories are not those that were written, the sha256 differs")
            arrays = {file.stem: _map(file) for file in sorted(shard.glob("*.npy"))}
            wrong = [f"{name}.npy has {len(array)} rows" for name, array in arrays.items() if len(array) != steps]
            if wrong:
                raise ValueError(f"{', '.join(wrong)}; shard.json says {steps}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.skipped.append((shard.name, None, f"{type(error).__name__}: {error}"))
            return
        infos = []
        for index, record in enumerate(records):
            try:
                infos.append(_read_record(record, str(path), shard.name, index, arrays, self.interface))
            except (ValueError, KeyError) as error:
                self.skipped.append((shard.name, index, str(error)))
        self.trajectories += infos
        self._shard_of += [len(self._shards)] * len(infos)
        self._shards.append(arrays)
        self._digests.append((len(records), digest))


def _read_record(
    content: Any, path: str, shard: str, index: int, arrays: dict[str, np.ndarray], interface: RobotInterface
) -> TrajectoryInfo:
    """The trajectory that ``content`` of shard.json describes. Raises ValueError that says why it is corrupt."""
    try:
        record = _Record.model_validate(content)
    except ValidationError as error:
        reasons = [f"'{'.'.join(map(str, detail['loc']))}': {detail['msg']}" for detail in error.errors()]
        raise ValueError(f"shard.json: {'; '.join(reasons)}") from None
    needed = ["sensor", "action", "valid", "violation"] + ["state"] * record.has_state
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f"{', '.join(missing)} missing")
    if record.start + record.length > len(arrays["action"]):
        end = record.start + record.length
        raise ValueError(f"steps {record.start} to {end} are beyond the shard's {len(arrays['action'])}")
    known = {name: record.crc32.get(name) for name in ("sensor", "action")}
    info = TrajectoryInfo(
        dataset=path,
        shard=shard,
        index=index,
        identity=_sha256(json.dumps([known, record.length, record.instruction])),
        record=_sha256(json.dumps(content, sort_keys=True)),
        **record.model_dump(exclude={"crc32"}),
    )
    trajectory = _view(info, arrays)
    if problems := trajectory.problems(interface):
        raise ValueError("; ".join(problems))
    wrong = [name for name, value in _checksums(trajectory, images=False).items() if record.crc32.get(name) != value]
    if wrong:
        raise ValueError(f"checksum of {', '.join(wrong)} differs: the file was changed or damaged")
    return info


def _view(info: TrajectoryInfo, arrays: dict[str, np.ndarray]) -> Trajectory:
    rows = {name: array[info.start : info.start + info.length] for name, array in arrays.items()}
    return Trajectory(
        images={name.removeprefix("image."): array for name, array in rows.items() if name.startswith("image.")},
        sensor=rows["sensor"],
        action=rows["action"],
        valid=rows["valid"],
        violation=rows["violation"],
        instruction=info.instruction,
        success=info.success,
        source=info.source,
        provenance=info.provenance,
        scene=info.scene,
        state=rows["state"] if info.has_state else None,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksums(trajectory: Trajectory, images: bool = True) -> dict[str, int]:
    arrays = trajectory.arrays()
    if trajectory.state is not None:
        arrays["state"] = trajectory.state.astype(np.float32)
    names = [name for name in arrays if images or not name.startswith("image.")]
    return {name: zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes()) for name in names}


def _map(file: Path) -> np.ndarray:
    with open(file, "rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    if 0 in shape:  # an empty array cannot be mapped
        return np.load(file)
    return np.load(file, mmap_mode="r").view(np.ndarray)  # slices of np.memmap are slow


def _allow_open_files() -> None:
    """Each mapped file holds a descriptor; the usual soft limit of 1024 would end at some 150 shards."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _read_interface(path: Path) -> RobotInterface:
    file = path / "dataset.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: not a dataset (it has no dataset.json)") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read: {error}") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise DatasetError(f"{file}: schema is {found!r}, this version reads {SCHEMA}")
    try:
        return RobotInterface.from_dict(content["interface"], f"{file}: interface")
    except (KeyError, ConfigError) as error:
        raise DatasetError(f"{file}: {error}") from None


def _check_interface(path: Path, ours: RobotInterface, theirs: RobotInterface, other: str = "the new data") -> None:
    if differing := ours.differences(theirs):
        raise DatasetError(f"{path} and {other} have different robot interfaces:\n  " + "\n  ".join(differing))


def _utc_now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
