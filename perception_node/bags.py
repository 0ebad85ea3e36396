"""Recordings, rosbag2 (mcap or sqlite3) and ROS 1, read and written without ROS through the rosbags library."""

import shlex
import shutil
import struct
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from heapq import merge
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import yaml
import zstandard
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, ReaderError, StoragePlugin, Writer
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception_node.errors import SourceError, one_line
from perception_node.mcap_storage import McapStorage

_FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    False,
)
ROS1_SUFFIX = ".bag"
_METADATA = "metadata.yaml"
_COMPRESSED_SUFFIX = ".zstd"
_STORAGE_SUFFIXES = (".mcap", ".db3", f".mcap{_COMPRESSED_SUFFIX}", f".db3{_COMPRESSED_SUFFIX}")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""What is compressed begins with it; CDR begins with a zero."""
_LOG_SUFFIX = "-wal"
"""Of the file in which SQLite keeps what it has yet to write to the database."""
_RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}
"""Types of ROS 1 whose fields are those of another."""
_VISION_MSGS = Path(__file__).parent / "interfaces" / "vision_msgs" / "msg"


@cache
def typestore() -> Typestore:
    """The message types of ROS 2 and vision_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for path in sorted(_VISION_MSGS.glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"vision_msgs/msg/{path.stem}"))
    store.register(types)
    return store


def is_bag(path: Path) -> bool:
    """Whether `path` is a recording: a rosbag2's folder, one of its .mcap or .db3 files, or ROS 1's .bag."""
    if path.is_dir():
        return (path / _METADATA).is_file() or bool(_storage_files(path))
    return path.name.endswith((*_STORAGE_SUFFIXES, ROS1_SUFFIX))


def _storage_files(path: Path) -> list[Path]:
    """A file itself; those in a folder, but not the compressed ones that lie there unpacked, too."""
    if not path.is_dir():
        return [path]
    files = {file for file in path.iterdir() if file.name.endswith(_STORAGE_SUFFIXES)}
    return sorted(file for file in files if file.suffix != _COMPRESSED_SUFFIX or file.with_suffix("") not in files)


class _DirectoryReader(DirectoryReader):
    STORAGE_PLUGINS: ClassVar = {**DirectoryReader.STORAGE_PLUGINS, "mcap": McapStorage}


class _Reader(Reader):
    STORAGE_PLUGINS: ClassVar = {**Reader.STORAGE_PLUGINS, "dir": _DirectoryReader, ".mcap": McapStorage}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a recording.

    Attributes:
        type: of its messages.
        count: how many there are, as far as the recording says.
    """

    type: str
    count: int


class Bag:
    """A recording for reading; use it in a `with`. Made by `open_bag`.

    Message definitions in it do not count, and so cannot be wrong: types that are not of ROS 2 or vision_msgs are left
    to others, as is what is not CDR. The library's errors become SourceErrors. What a caller does with the bag open is
    not its affair.

    Args:
        path: what the user named.
        files: what is read: `path`, or the storage files in it.

    Attributes:
        topics: by name; those whose messages are CDR, or can be made that.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        self._path, self._files = path, files
        self.topics: dict[str, Topic] = {}

    def __enter__(self) -> "Bag":
        with self._blamed(), ExitStack() as stack:
            files = [_unpacked(file, stack) for file in self._files]
            open_ = [stack.enter_context((Ros1Reader if _is_ros1(file) else _Reader)(file)) for file in files]
            self._readers: list[Reader | Ros1Reader] = open_
            connections = [connection for reader in open_ for connection in reader.connections]
            for connection in connections:
                if _is_readable(connection):
                    count = connection.msgcount + getattr(self.topics.get(connection.topic), "count", 0)
                    self.topics[connection.topic] = Topic(_type(connection), count)
            if connections and not self.topics and not _is_ros1(self._path):
                raise ReaderError(f"None of its {len(connections)} topics is in CDR")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def messages(self, topics: Container[str] | None = None) -> Iterator[tuple[Connection, int, bytes | memoryview]]:
        """In the order in which they were recorded: the library's connection (topic, msgtype), time in ns, CDR.

        Args:
            topics: of which; None: of all.
        """
        with self._blamed():
            yield from merge(*(_messages(reader, topics) for reader in self._readers), key=itemgetter(1))

    def deserialize(self, cdr: bytes | memoryview, message_type: str) -> Any:
        """A message as the library has it."""
        with self._blamed():
            return typestore().deserialize_cdr(cdr, message_type)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # many kinds, from the library's own to struct.error, on damaged files
            is_ros1 = _is_ros1(self._path)
            raise SourceError(
                f"{self._path}: cannot be read as a {'ROS 1 bag' if is_ros1 else 'rosbag2'}: {one_line(error)}; "
                + ("try `rosbag reindex`" if is_ros1 else _remedy(error, self._path))
            ) from error


def _remedy(error: Exception, path: Path) -> str:
    if isinstance(error, KeyError) and any(".db3" in file.suffixes for file in _storage_files(path)):
        # It says so where what its messages are is told in a way that the library does not know.
        return "make an mcap of it with `ros2 bag convert`, where that does not matter"
    if str(error).startswith("Profile"):
        return "make one with `ros2 bag convert`, or pass the ROS 1 .bag that it was made of"
    if str(error).startswith("None of its"):
        return "make one with `ros2 bag record`, or pass the ROS 1 .bag that it was made of"
    if str(error).startswith("Serialization"):
        return "pass its .mcap or .db3 file itself: what is not CDR is left out then"
    return "if the recording was cut off, try `ros2 bag reindex` or `mcap recover`"


def _is_ros1(path: Path) -> bool:
    return path.suffix == ROS1_SUFFIX


def _unpacked(file: Path, stack: ExitStack) -> Path:
    """A storage file; of a compressed one what is in it, which goes with the stack."""
    if file.suffix != _COMPRESSED_SUFFIX:
        return file
    unpacked = Path(stack.enter_context(TemporaryDirectory())) / file.stem
    with zstandard.open(file, "rb") as source, unpacked.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return unpacked


def _is_readable(connection: Connection) -> bool:
    """Whether its messages are CDR, or of a type that can be converted."""
    if isinstance(connection.ext, ConnectionExtRosbag2):
        return connection.ext.serialization_format == "cdr"
    return _type(connection) in typestore().fielddefs


def _type(connection: Connection) -> str:
    """Of its messages, by ROS 2's name."""
    return _RENAMED.get(connection.msgtype, connection.msgtype)


def _messages(
    reader: Reader | Ros1Reader, topics: Container[str] | None
) -> Iterator[tuple[Connection, int, bytes | memoryview]]:
    # From the storages themselves: the library's reader of folders takes connections that metadata.yaml names for
    # others if their QoS profiles are, which people edit for `ros2 bag play`, and which may change from file to file.
    for storage in getattr(getattr(reader, "storage", None), "storages", [reader]):
        connections = [
            connection
            for connection in storage.connections
            if (topics is None or connection.topic in topics) and _is_readable(connection)
        ]
        renamed = {connection.id: connection._replace(msgtype=_type(connection)) for connection in connections}
        if connections:  # none would mean all
            for connection, time_ns, data in storage.messages(connections):
                connection = renamed[connection.id]
                yield connection, time_ns, _cdr(data, connection.msgtype, isinstance(reader, Ros1Reader))


def _cdr(data: bytes, message_type: str, is_ros1: bool) -> bytes | memoryview:
    """A message as CDR; a damaged one as it is, for whoever reads it to find."""
    try:
        if is_ros1:
            return typestore().ros1_to_cdr(data, message_type)
        return zstandard.decompress(data) if data.startswith(_ZSTD_MAGIC) else data
    except (SerdeError, zstandard.ZstdError):
        return data


def open_bag(path: Path) -> Bag:
    """A recording for reading, to be opened by `with`: a rosbag2, or ROS 1's .bag.

    Raises:
        SourceError: it is missing, damaged or in a format that cannot be read; raised too where it is read.
    """
    files = _storage_files(path)
    is_whole = (path / _METADATA).is_file()  # that of a recording that was cut off is not there yet
    if not files and not is_whole:
        raise SourceError(f"{path}: holds no rosbag2: no {_METADATA}, and no .mcap or .db3 file")
    for file in files:
        log = file.with_name(file.name + _LOG_SUFFIX)
        if log.is_file() and log.stat().st_size:
            raise SourceError(
                f"{file}: was cut off, its last messages are in {log.name}; "
                f"bring them together with `sqlite3 {shlex.quote(str(file))} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )
    return Bag(path, [path] if is_whole else files)


def _is_nothing_but_a_bag(path: Path) -> bool:
    """Whether all that would be lost with `path` is a bag: metadata.yaml and the storage files that it names."""
    try:
        information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        names = {"metadata.yaml", *(Path(name).name for name in information["relative_file_paths"])}
        return all(file.name in names and file.is_file() for file in path.iterdir())
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return False


class BagWriter:
    """Writes a rosbag2 (mcap, zstd) that appears under its name only when it is complete.

    Args:
        path: the bag's folder; replaced if it is a bag, and nothing else, already.

    Raises:
        SourceError: `path` exists and is something else.

    Example:
        with BagWriter(Path("out/bag")) as bag:
            bag.write("/image", "sensor_msgs/msg/Image", stamp_ns, cdr)
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        if self.path.exists() and not _is_nothing_but_a_bag(self.path):
            raise SourceError(
                f"{path}: exists and is no bag, or a folder with other things in it too; name another place"
            )
        self._connections: dict[str, Any] = {}

    def write(
        self, topic: str, message_type: str, time_ns: int, cdr: bytes | memoryview, latched: bool = False
    ) -> None:
        """Adds one serialized message. One that is `latched`, in its topic the first, is played to late joiners too."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=typestore(), offered_qos_profiles=[LATCHED] if latched else []
            )
        self._writer.write(self._connections[topic], time_ns, cdr)

    def __enter__(self) -> "BagWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own it has its name from the start: the library names the storage file after the bag.
        self._part = TemporaryDirectory(prefix=f"{self.path.name}.part-", dir=self.path.parent)
        self._writer = Writer(Path(self._part.name) / self.path.name, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        with self._part:
            if error_type is not None:
                self._writer.abort()
                return
            self._writer.close()
            if self.path.exists():
                self.path.rename(Path(self._part.name) / f"{self.path.name}.old")
            self._writer.path.rename(self.path)


def header_stamp_ns(cdr: bytes | memoryview) -> int:
    """The stamp of a serialized message that begins with a std_msgs/Header, without deserializing the rest."""
    seconds, nanoseconds = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return seconds * 10**9 + nanoseconds
