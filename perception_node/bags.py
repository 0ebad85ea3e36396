"""Rosbag2 recordings (mcap or sqlite3), read and written without ROS through the rosbags library."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception_node.errors import SourceError, one_line

_FOREVER = QosTime(9223372036, 854775807)
_LATCHED = Qos(
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
    """Whether `path` is a rosbag2: its folder, or one of its .mcap or .db3 files."""
    return path.suffix in (".mcap", ".db3") or (
        path.is_dir() and ((path / "metadata.yaml").is_file() or any(path.glob("*.mcap")) or any(path.glob("*.db3")))
    )


class _Reader(AnyReader):
    """The library's reader, whose errors become SourceErrors. What a caller does with the bag open is not its affair.

    Args:
        path: what the user named.
        storage: what is read: `path`, or a file in it.
    """

    def __init__(self, path: Path, storage: Path):
        self._path = path
        with self._blamed():
            super().__init__([storage], default_typestore=typestore())

    def open(self) -> None:
        with self._blamed():
            super().open()

    def messages(self, *arguments: Any, **options: Any) -> Iterator[tuple[Any, int, bytes]]:
        with self._blamed():
            yield from super().messages(*arguments, **options)

    def deserialize(self, rawdata: bytes | memoryview, typ: str) -> Any:
        with self._blamed():
            return super().deserialize(rawdata, typ)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # many kinds, from the library's own to struct.error, on damaged files
            raise SourceError(
                f"{self._path}: cannot be read as a rosbag2: {one_line(error)}; "
                "if the recording was cut off, try `ros2 bag reindex` or `mcap recover`"
            ) from error


def open_bag(path: Path) -> AnyReader:
    """A bag for reading, to be opened by `with`.

    Raises:
        SourceError: it is missing, damaged or in a format that cannot be read; raised too where it is read.
    """
    storage = path
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        # A recording that was cut off has no metadata yet; its storage file can be read by itself.
        files = sorted([*path.glob("*.mcap"), *path.glob("*.db3")])
        if len(files) != 1:
            raise SourceError(f"{path}: no metadata.yaml and {len(files)} storage files; run `ros2 bag reindex {path}`")
        storage = files[0]
    return _Reader(path, storage)


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
                topic, message_type, typestore=typestore(), offered_qos_profiles=[_LATCHED] if latched else []
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
