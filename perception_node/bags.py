"""Rosbag2 recordings (mcap or sqlite3), read and written without ROS through the rosbags library."""

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception_node.errors import SourceError

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


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """A bag open for reading.

    Raises:
        SourceError: it is missing, damaged or in a format that cannot be read.
    """
    folder = path
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        # A recording that was cut off has no metadata yet; its storage file can be read by itself.
        files = sorted([*path.glob("*.mcap"), *path.glob("*.db3")])
        if len(files) != 1:
            raise SourceError(f"{path}: no metadata.yaml and {len(files)} storage files; run `ros2 bag reindex {path}`")
        folder = files[0]
    try:
        with AnyReader([folder], default_typestore=typestore()) as reader:
            yield reader
    except SourceError:
        raise
    except Exception as error:  # the library raises many kinds, from its own to struct.error, on damaged files
        if isinstance(error, (KeyboardInterrupt, AnyReaderError, OSError)) or _is_from_rosbags(error):
            raise SourceError(
                f"{path}: cannot be read as a rosbag2: {error or type(error).__name__}; "
                "if the recording was cut off, try `ros2 bag reindex` or `mcap recover`"
            ) from error
        raise


def _is_from_rosbags(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return bool(traceback) and "rosbags" in Path(traceback.tb_frame.f_code.co_filename).parts


class BagWriter:
    """Writes a rosbag2 (mcap, zstd) that appears under its name only when it is complete.

    Args:
        path: the bag's folder; replaced if it is a bag already.

    Raises:
        SourceError: `path` exists and is no bag.

    Example:
        with BagWriter(Path("out/bag")) as bag:
            bag.write("/image", "sensor_msgs/msg/Image", stamp_ns, cdr)
    """

    def __init__(self, path: Path):
        if path.exists() and not is_bag(path):
            raise SourceError(f"{path}: exists and is no bag; name another place")
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._writer = Writer(self._part, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, message_type: str, time_ns: int, cdr: bytes | memoryview) -> None:
        """Adds one serialized message."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, message_type, typestore=typestore())
        self._writer.write(self._connections[topic], time_ns, cdr)

    def __enter__(self) -> "BagWriter":
        self._writer.open()
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is not None:
            self._writer.abort()
            shutil.rmtree(self._part, ignore_errors=True)
            return
        self._writer.close()
        # The library names the storage file after the folder, and the metadata names that file.
        old = f"{self._part.name}.mcap"
        (self._part / old).rename(self._part / f"{self.path.name}.mcap")
        metadata = self._part / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace(old, f"{self.path.name}.mcap"))
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self._part.rename(self.path)


def header_stamp_ns(cdr: bytes | memoryview) -> int:
    """The stamp of a serialized message that begins with a std_msgs/Header, without deserializing the rest."""
    seconds, nanoseconds = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return seconds * 10**9 + nanoseconds
