"""MCAP files with small chunks, as the recorder writes them."""

from __future__ import annotations

from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer


def rechunk(bag: Path, output: Path, messages_a_chunk: int = 40) -> Path:
    """Copy the MCAP of a rosbag2 folder, flushing every few messages."""
    with open(next(bag.glob("*.mcap")), "rb") as source, open(output, "wb") as target:
        writer = Writer(target, compression=CompressionType.ZSTD)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for index, (schema, channel, message) in enumerate(make_reader(source).iter_messages()):
            if channel.topic not in channels:
                known = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, "cdr", known)
            writer.add_message(channels[channel.topic], message.log_time, message.data, message.log_time)
            if index % messages_a_chunk == 0:
                writer.flush()
        writer.finish()
    return output
