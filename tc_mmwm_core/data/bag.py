"""Read ROS 2 bags without ROS: rosbag2 folders (SQLite or MCAP, compressed or not), bare files, cut-off MCAP files."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# mcap: its stream reader makes sense of a file without an end.
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

# rosbags: reads every kind of rosbag2 and deserializes CDR without ROS.
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Nodetype
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from tc_mmwm_core.utils.files import sha256

STORAGE = (".mcap", ".db3")
BROKEN = Exception  # bad bytes lead the readers into checksum, decompression, key, type, ... errors of many libraries


class BagError(ValueError):
    """A path is not a bag, or a bag that cannot be read."""


class NoBagError(BagError):
    """A path is something else than a bag."""


class DamagedBagError(BagError):
    """A bag that looked whole is damaged inside; ``Bag(path, salvage=True)`` reads what is left of an MCAP."""


class UnreadableMessageError(BagError):
    """The data of one message is bad. SQLite bags have no checksums: nothing else would notice."""


class Raw(NamedTuple):
    """One message as recorded."""

    topic: str  # as recorded, absolute
    type: str  # package/msg/Name
    log_ns: int  # when it was received
    data: bytes  # CDR


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """What a bag holds on one topic."""

    type: str
    messages: int


class Bag:
    """A recording. Messages come in the order in which they were received.

    Args:
        path: rosbag2 folder, or one .mcap or .db3 file.
        salvage: read MCAP files chunk by chunk, without trusting their index; a cut-off file is read so anyway.

    Raises:
        BagError: there is nothing at ``path``, it is not a bag, it is empty, or it cannot be read at all.
    """

    def __init__(self, path: str | Path, salvage: bool = False):
        self.path = Path(path)
        self.lost: list[str] = []  # what could not be read, a line for each file that was cut off or damaged
        self.unreadable: dict[tuple[str, int], str] = {}  # (topic, log_ns) of what ``contents`` left out, and why
        try:
            self._parts: list[_Indexed | _Salvaged] = _open(self.path, salvage, self.lost)
        except OSError as error:
            raise BagError(f"{self.path}: cannot be read: {error}") from None
        self.topics: dict[str, TopicSummary] = {}
        for part in self._parts:
            for name, found in part.topics.items():
                before = self.topics[name].messages if name in self.topics else 0
                self.topics[name] = TopicSummary(found.type, before + found.messages)
        if not any(topic.messages for topic in self.topics.values()):
            lost = f" ({'; '.join(self.lost)})" if self.lost else ""
            raise BagError(f"{self.path}: the bag is empty: no messages on any topic{lost}")
        self.start_ns = min(part.start_ns for part in self._parts)
        self.end_ns = max(part.end_ns for part in self._parts)
        self._store = _typestore([definition for part in self._parts for definition in part.definitions], self.topics)

    @property
    def files(self) -> list[Path]:
        """The files that hold the messages."""
        return [file for part in self._parts for file in part.files]

    @property
    def duration(self) -> float:
        """Seconds between the first and the last message."""
        return (self.end_ns - self.start_ns) / 1e9

    def sha256(self) -> str:
        """Over the contents of every file that holds messages."""
        return sha256(self.files)

    def messages(self, topics: set[str]) -> Iterator[Raw]:
        """Every message on ``topics``, in the order of reception. DamagedBagError: it ends here."""
        for part in self._parts:
            try:
                yield from part.messages(topics)
            except BROKEN as error:
                raise DamagedBagError(f"{part.files[0]}: damaged: {error}") from error

    def setback(self) -> tuple[str, int] | None:
        """(topic, by how many ns): where the recorder's clock fell most, in the order of the files; None: nowhere.

        ``messages`` sorts what a file holds by time, so that what was recorded before and after lies interleaved. Each
        topic by itself: a tool may have written one after the other. Files that are compressed as such are not looked
        into. DamagedBagError: it ends here.
        """
        newest: dict[str, int] = {}
        found = ("", 0)
        for part in self._parts:
            try:
                for topic, log_ns in part.order():
                    found = max(found, (topic, newest.get(topic, log_ns) - log_ns), key=lambda fall: fall[1])
                    newest[topic] = max(newest.get(topic, log_ns), log_ns)
            except BROKEN as error:
                raise DamagedBagError(f"{part.files[0]}: damaged: {error}") from error
        return found if found[1] else None

    def contents(self, topics: set[str]) -> Iterator[tuple[Raw, Any]]:
        """``messages`` with what ``deserialize`` makes of each; what has bad data is left out: ``unreadable``."""
        for raw in self.messages(topics):
            try:
                yield raw, self.deserialize(raw)
            except UnreadableMessageError as error:
                self.unreadable[raw.topic, raw.log_ns] = str(error)

    def deserialize(self, raw: Raw) -> Any:
        """The message as an object with the fields of its type.

        Raises:
            UnreadableMessageError: its data is bad.
            BagError: the definition of its type is nowhere.
        """
        try:
            return self._store.deserialize_cdr(raw.data, raw.type)
        except KeyError as error:
            raise BagError(
                f"{self.path}: {raw.topic}: the definition of {error.args[0]} is neither in the bag nor in a sourced "
                "workspace (AMENT_PREFIX_PATH)"
            ) from None
        except BROKEN as error:
            raise UnreadableMessageError(f"{raw.topic}: cannot be read as {raw.type}: {error}") from None


class _Indexed:
    """A folder or file that rosbags can read."""

    def __init__(self, path: Path):
        with Reader(path) as reader:
            wrong = {c.ext.serialization_format for c in reader.connections} - {"cdr"}
            if wrong:
                raise BagError(f"{path}: messages are serialized as {', '.join(sorted(wrong))}; only cdr is ROS 2")
            self.topics = {
                name: TopicSummary(found.msgtype or found.connections[0].msgtype, found.msgcount)
                for name, found in reader.topics.items()
            }
            self.definitions = [(c.msgtype, c.msgdef) for c in reader.connections]
            self.start_ns, self.end_ns = reader.start_time, max(reader.start_time, reader.end_time - 1)
        self.path = path
        self.files = sorted(file for file in path.iterdir() if _is_storage(file)) if path.is_dir() else [path]

    def messages(self, topics: set[str]) -> Iterator[Raw]:
        with Reader(self.path) as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            if connections:
                for connection, log_ns, data in reader.messages(connections):
                    yield Raw(connection.topic, connection.msgtype, log_ns, data)

    def order(self) -> Iterator[tuple[str, int]]:
        """(topic, time) of every message, in the order in which the files hold them."""
        for file in sorted(self.files, key=_natural):
            if file.suffix == ".mcap":
                with open(file, "rb") as stream:
                    for _, channel, message in make_reader(stream).iter_messages(log_time_order=False):
                        yield channel.topic, message.log_time
            elif file.suffix == ".db3":
                with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as storage:
                    yield from storage.execute(
                        "SELECT name, timestamp FROM messages JOIN topics ON topics.id = topic_id ORDER BY messages.id"
                    )


class _Salvaged:
    """An MCAP file without a valid end or with damaged chunks, read from its beginning as far as it goes."""

    def __init__(self, path: Path):
        self.files = [path]
        self.loss = ""
        counts: Counter[str] = Counter()
        types: dict[str, str] = {}
        self.definitions: list[tuple[str, MessageDefinition]] = []
        times: list[int] = []
        self._damaged = self._undeclared = 0
        for record in self._records():
            if isinstance(record, Schema):
                kind = MessageDefinitionFormat.MSG if record.encoding == "ros2msg" else MessageDefinitionFormat.IDL
                self.definitions.append((record.name, MessageDefinition(kind, record.data.decode())))
            elif isinstance(record, tuple):
                topic, schema, message = record
                counts[topic] += 1
                types[topic] = schema
                times = [min([message.log_time, *times[:1]]), max([message.log_time, *times[1:]])]
        self.topics = {topic: TopicSummary(types[topic], count) for topic, count in counts.items()}
        self.start_ns, self.end_ns = times or (0, 0)

    def messages(self, topics: set[str]) -> Iterator[Raw]:
        for record in self._records():
            if isinstance(record, tuple) and record[0] in topics:
                topic, schema, message = record
                yield Raw(topic, schema, message.log_time, message.data)

    def order(self) -> Iterator[tuple[str, int]]:
        """(topic, time) of every message, in the order in which the file holds them."""
        for record in self._records():
            if isinstance(record, tuple):
                yield record[0], record[2].log_time

    def _records(self) -> Iterator[Schema | tuple[str, str, Message]]:
        """Schemas, and (topic, type, message), up to where the file makes no more sense."""
        self._damaged = self._undeclared = 0
        # Writers declare a channel once, before its first message: where that chunk is damaged, the summary knows it.
        schemas, channels = _declared(self.files[0])
        yield from list(schemas.values())
        end = None
        with open(self.files[0], "rb") as stream:
            records = StreamReader(stream, emit_chunks=True, record_size_limit=os.path.getsize(self.files[0])).records
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    break
                except BROKEN as error:
                    end = f"cut off after {stream.tell()} bytes ({type(error).__name__})"
                    break
                for inner in self._inside(record) if isinstance(record, Chunk) else [record]:
                    if isinstance(inner, Schema):
                        schemas[inner.id] = inner
                        yield inner
                    elif isinstance(inner, Channel):
                        channels[inner.id] = inner
                    elif isinstance(inner, Message):
                        channel = channels.get(inner.channel_id)
                        if channel is None or channel.schema_id not in schemas:
                            self._undeclared += 1
                            continue
                        yield channel.topic, schemas[channel.schema_id].name, inner
        damaged = f"{self._damaged} damaged chunks left out" if self._damaged else None
        lost = f"{self._undeclared} messages lost whose topic was declared in what is damaged" * bool(self._undeclared)
        losses = [loss for loss in (end, damaged, lost) if loss]
        self.loss = f"{self.files[0].name}: {'; '.join(losses)}" if losses else ""

    def _inside(self, chunk: Chunk) -> list[Any]:
        try:
            return breakup_chunk(chunk, validate_crc=True)
        except BROKEN:  # the next chunk may be whole
            self._damaged += 1
            return []


def _declared(file: Path) -> tuple[dict[int, Schema], dict[int, Channel]]:
    """Schemas and channels by number, as the summary at the end of an MCAP has them; none where it has no end."""
    try:
        with open(file, "rb") as stream:
            summary = make_reader(stream).get_summary()
    except BROKEN:
        summary = None
    return (dict(summary.schemas), dict(summary.channels)) if summary else ({}, {})


def _open(path: Path, salvage: bool, lost: list[str]) -> list[_Indexed | _Salvaged]:
    if not path.exists():
        raise BagError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix == ".bag":
        raise BagError(f"{path}: a ROS 1 bag; convert it first: rosbags-convert --src {path} --dst {path.stem}")
    if path.is_file() and path.name == "metadata.yaml":
        path = path.parent
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if _is_storage(file)), key=_natural)
        if not files:
            lerobot = "; a LeRobotDataset is read with tc-mmwm convert --from lerobot"
            hint = lerobot if (path / "meta" / "info.json").exists() else ""
            raise NoBagError(f"{path}: not a bag: the folder holds neither .mcap nor .db3 files{hint}")
        if (path / "metadata.yaml").exists() and not salvage:
            try:
                return [_Indexed(path)]
            except BROKEN as error:
                if all(file.suffix != ".mcap" for file in files):
                    raise BagError(f"{path}: {error}") from None
    elif _is_storage(path):
        files = [path]
    else:
        raise NoBagError(f"{path}: not a bag: a rosbag2 folder or a {' or '.join(STORAGE)} file is needed")
    parts: list[_Indexed | _Salvaged] = []
    for file in files:
        why = "damaged"
        if not (salvage and file.suffix == ".mcap"):
            try:
                parts.append(_Indexed(file))
                continue
            except BagError:
                raise
            except BROKEN as error:
                why = str(error)
        if file.suffix != ".mcap":
            raise BagError(f"{file}: {why}")
        part = _Salvaged(file)
        lost.append(part.loss or f"{file.name}: {why}")
        if part.topics:
            parts.append(part)
    if not parts:
        raise BagError(f"{path}: the bag is empty: no messages on any topic ({'; '.join(lost)})")
    return parts


def _is_storage(file: Path) -> bool:
    return file.suffix in STORAGE or file.name.endswith((".mcap.zstd", ".db3.zstd"))


def _natural(file: Path) -> list[int | str]:
    """Sorts bag_10.mcap after bag_9.mcap."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _typestore(definitions: list[tuple[str, MessageDefinition]], topics: dict[str, TopicSummary]) -> Any:
    """Types by the bag's own definitions, else by a sourced workspace's, else by those of ROS 2's common packages."""
    standard = get_typestore(Stores.LATEST).fielddefs
    recorded: dict = {}
    for name, definition in definitions:
        try:
            if definition.format == MessageDefinitionFormat.MSG:
                recorded |= get_types_from_msg(definition.data, name)
            elif definition.format == MessageDefinitionFormat.IDL:
                for text in re.split(r"^=+\nIDL: .*\n", definition.data, flags=re.MULTILINE):
                    recorded |= get_types_from_idl(text) if text.strip() else {}
        except TypesysError:
            continue  # an unreadable definition of a topic that may not matter; deserialize says so if it does
    sourced: dict = {}
    queue = [topic.type for topic in topics.values()]
    while queue:
        name = queue.pop()
        if name in recorded or name in standard or name in sourced:
            continue
        if (file := _definition_file(name)) is not None:
            sourced |= get_types_from_msg(file.read_text(encoding="utf-8"), name)
            queue += _references(sourced[name])
    store = get_typestore(Stores.EMPTY)
    store.register({**standard, **sourced, **recorded})
    return store


def _definition_file(name: str) -> Path | None:
    package, _, message = name.split("/")
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    places = [prefix / "share" / package / "msg" / f"{message}.msg" for prefix in prefixes]
    return next((place for place in places if place.is_file()), None)


def _references(definition: tuple) -> list[str]:
    nodes = [node[1][0] if node[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else node for _, node in definition[1]]
    return [detail for kind, detail in nodes if kind == Nodetype.NAME]
