"""mcap files for the rosbags library's readers. Its own storage wants ROS's profile and ROS's schemas in all of a file,
but others write to it too: their tools name no profile, and protobuf's schemas are no text.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.summary import Summary
from mcap.writer import MCAP0_MAGIC
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos

_QOS = "offered_qos_profiles"
"""In the metadata of a channel that ROS wrote."""


class McapStorage:
    """One file. Definitions of messages are left out.

    Attributes:
        connections: of whatever is in it, while it is open.
    """

    def __init__(self, path: Path):
        self._path = path
        self.connections: list[Connection] = []

    def open(self) -> None:
        self._file = self._path.open("rb")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._reader = SeekingReader(self._file, validate_crcs=True)
        if self._reader.get_header().profile not in ("", "ros2"):
            raise ReaderError("Profile is not ros2.")
        self._check_end()
        summary = self._reader.get_summary() or Summary()
        counts = _counts(summary) or self._scan(summary)
        self._is_indexed = bool(summary.chunk_indexes)
        self.connections += [
            Connection(
                id=channel.id,
                topic=channel.topic,
                msgtype=summary.schemas[channel.schema_id].name if channel.schema_id else "",
                msgdef=MessageDefinition(MessageDefinitionFormat.NONE, ""),
                digest="",
                msgcount=counts.get(channel.id, 0),
                ext=ConnectionExtRosbag2(channel.message_encoding, parse_qos(channel.metadata.get(_QOS, ""))),
                owner=self,
            )
            for channel in summary.channels.values()
        ]

    def close(self) -> None:
        self.connections.clear()
        self._file.close()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """In order of time: connection, time in ns, data.

        Args:
            connections: of which.
            start, stop: from when, and before when, in ns.

        Raises:
            ReaderError: they are not in order, and the file has no index.
        """
        wanted = {connection.id: connection for connection in connections}
        topics = {connection.topic for connection in connections}
        reader = self._reader
        if not self._is_indexed:  # of such a one this reader would read all before it could sort it
            self._file.seek(0)
            reader = NonSeekingReader(self._file, validate_crcs=True)
        before = 0
        for _, channel, message in reader.iter_messages(topics, start, stop, log_time_order=self._is_indexed):
            if channel.id not in wanted:
                continue
            if message.log_time < before:
                raise ReaderError("Unindexed MCAP messages are not in timestamp order. Use an indexed file.")
            before = message.log_time
            yield wanted[channel.id], message.log_time, message.data

    def _check_end(self) -> None:
        """The library does not, and would take what lies there instead for records."""
        self._file.seek(-len(MCAP0_MAGIC), 2)
        if self._file.read() != MCAP0_MAGIC:
            raise ReaderError("The end of the file is missing.")

    def _scan(self, summary: Summary) -> Counter[int]:
        """Reads all of the file, and completes its summary, which the reader goes by.

        Returns:
            How many messages each channel has.
        """
        counts = Counter()
        self._file.seek(0)
        for record in StreamReader(self._file, validate_crcs=True).records:
            if isinstance(record, Schema):
                summary.schemas[record.id] = record
            elif isinstance(record, Channel):
                summary.channels[record.id] = record
            elif isinstance(record, Message):
                counts[record.channel_id] += 1
        return counts


def _counts(summary: Summary) -> dict[int, int] | None:
    """How many messages each channel has; None if the summary lacks that, a channel or a schema: all are optional."""
    if summary.statistics is None:
        return None
    counts = summary.statistics.channel_message_counts
    is_complete = (
        sum(counts.values()) == summary.statistics.message_count
        and counts.keys() <= summary.channels.keys()
        and {channel.schema_id for channel in summary.channels.values()} <= {0, *summary.schemas}
    )
    return counts if is_complete else None
