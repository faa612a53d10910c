"""Write a rosbag2 folder in MCAP so that a killed recording can be read up to its last flush.

``ros2 bag info`` and ``ros2 bag play`` read the folder once ``close`` has written its metadata.yaml; without it
``ros2 bag reindex`` makes one, and ``tc-mmwm convert`` needs none.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import IO

import yaml

# mcap: the format's own library; writes chunks that a reader can make sense of without the end of the file.
from mcap.writer import CompressionType, Writer

from tc_mmwm_core.utils.files import write_atomically

METADATA_VERSION = 5  # read by rosbag2 of Humble and every later one
CHUNK_BYTES = 4 * 1024 * 1024


def new_folder(path: Path) -> Path:
    """Make the folder ``path``, or where that is taken ``path``_1, ``path``_2, ...: two who ask at once get two."""
    for name in chain([path.name], (f"{path.name}_{number}" for number in count(1))):
        with suppress(FileExistsError):
            path.with_name(name).mkdir(parents=True)
            return path.with_name(name)


@dataclass
class _Topic:
    name: str
    type: str
    definition: str
    qos: list[dict]
    channel: int = 0
    messages: int = 0


@dataclass
class _File:
    name: str
    start_ns: int | None = None
    end_ns: int = 0
    messages: int = 0

    @property
    def duration_ns(self) -> int:
        return 0 if self.start_ns is None else self.end_ns - self.start_ns


@dataclass
class BagWriter:
    """Not thread-safe.

    Args:
        folder: is created; must not hold anything yet (FileExistsError).
        chunk_seconds: what a kill loses at most, s of wall time, if ``write`` or ``flush`` is called that often.
        split_bytes: begin a new file beyond this size; 0: never.
    """

    folder: Path
    chunk_seconds: float = 0.5
    split_bytes: int = 0
    _topics: dict[str, _Topic] = field(default_factory=dict, init=False)
    _files: list[_File] = field(default_factory=list, init=False)
    _closed_bytes: int = field(default=0, init=False)
    _stream: IO[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} already holds something; a bag needs a folder of its own")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begin_file()

    def beside(self, folder: Path) -> BagWriter:
        """Close it, and go on in ``folder`` with the same topics."""
        self.close()
        other = BagWriter(folder, self.chunk_seconds, self.split_bytes)
        for topic in self._topics.values():
            other.add_topic(topic.name, topic.type, topic.definition, topic.qos)
        return other

    def add_topic(self, name: str, message_type: str, definition: str, qos: list[dict]) -> None:
        """Announce a topic before its first message. ``qos``: the profiles that a player should publish it with."""
        topic = _Topic(name, message_type, definition, qos)
        self._topics[name] = topic
        self._register(topic)

    def write(self, topic: str, log_ns: int, data: bytes) -> None:
        """Write one message, CDR as it came from the middleware. OSError: the disk is full, ..."""
        known, file = self._topics[topic], self._files[-1]
        self._writer.add_message(known.channel, log_ns, data, publish_time=log_ns, sequence=known.messages)
        known.messages += 1
        file.messages += 1
        file.start_ns = log_ns if file.start_ns is None else min(file.start_ns, log_ns)
        file.end_ns = max(file.end_ns, log_ns)
        self.flush(due=True)

    def flush(self, due: bool = False) -> None:
        """Hand everything so far to the operating system; with ``due`` only if ``chunk_seconds`` have passed."""
        now = time.monotonic()
        if due and now - self._flushed_at < self.chunk_seconds:
            return
        self._writer.flush()
        self._flushed_at = now
        if self.split_bytes and self._stream.tell() >= self.split_bytes:
            self._end_file()
            self._begin_file()

    def close(self) -> None:
        """Finish the file and write metadata.yaml."""
        self._end_file()
        write_atomically(self.folder / "metadata.yaml", yaml.safe_dump(self._metadata(), sort_keys=False).encode())

    @property
    def counts(self) -> dict[str, int]:
        """{topic: messages}."""
        return {topic.name: topic.messages for topic in self._topics.values()}

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._closed_bytes + (self._stream.tell() if self._stream else 0)

    def _begin_file(self) -> None:
        name = f"{self.folder.name}_{len(self._files)}.mcap"
        self._stream = open(self.folder / name, "xb")  # noqa: SIM115 (open for as long as the bag grows)
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="tc_mmwm_ros")
        self._files.append(_File(name))
        self._flushed_at = time.monotonic()
        for topic in self._topics.values():
            self._register(topic)

    def _register(self, topic: _Topic) -> None:
        schema = self._writer.register_schema(topic.type, "ros2msg", topic.definition.encode())
        metadata = {"offered_qos_profiles": yaml.safe_dump(topic.qos)}
        topic.channel = self._writer.register_channel(topic.name, "cdr", schema, metadata)

    def _end_file(self) -> None:
        self._writer.finish()
        self._closed_bytes += self._stream.tell()
        self._stream.close()
        self._stream = None

    def _metadata(self) -> dict:
        files = [file for file in self._files if file.start_ns is not None]
        start = min((file.start_ns for file in files), default=0)
        end = max((file.end_ns for file in files), default=0)
        return {
            "rosbag2_bagfile_information": {
                "version": METADATA_VERSION,
                "storage_identifier": "mcap",
                "duration": {"nanoseconds": end - start},
                "starting_time": {"nanoseconds_since_epoch": start},
                "message_count": sum(file.messages for file in self._files),
                "topics_with_message_count": [
                    {
                        "topic_metadata": {
                            "name": topic.name,
                            "type": topic.type,
                            "serialization_format": "cdr",
                            "offered_qos_profiles": yaml.safe_dump(topic.qos),
                        },
                        "message_count": topic.messages,
                    }
                    for topic in self._topics.values()
                ],
                "compression_format": "",
                "compression_mode": "",
                "relative_file_paths": [file.name for file in self._files],
                "files": [
                    {
                        "path": file.name,
                        "starting_time": {"nanoseconds_since_epoch": file.start_ns or 0},
                        "duration": {"nanoseconds": file.duration_ns},
                        "message_count": file.messages,
                    }
                    for file in self._files
                ],
            }
        }
