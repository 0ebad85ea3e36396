"""Footage: a video, an image, a folder of images or a rosbag2, all read as the ROS messages a camera would send."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.typesys.store import Typestore
from tqdm import tqdm

from perception_node.bags import is_bag, open_bag, typestore
from perception_node.compressed import decode
from perception_node.errors import BadImage, SourceError, one_line
from perception_node.image import CameraImage, picture_or_none
from perception_node.messages import MessageFactory, camera_image
from perception_node.topics import CAMERA_INFO, IMAGE, TF, TF_STATIC, camera_info_beside

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FOLDER_FPS = 10.0
FRAME_ID = "camera"
_IMAGE_TYPE, _COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class SourceMessage:
    """One message of the footage.

    Attributes:
        topic: "image", "camera_info" or "/tf".
        time_ns: when it was recorded, or is due; nanoseconds since the epoch.
        name: of the frame, unique in its source, fit for a file name.
        read: makes `message`.
    """

    topic: str
    time_ns: int
    name: str
    read: Callable[[], Any]

    @cached_property
    def message(self) -> Any:
        """The rosbags library's sensor_msgs/Image, CameraInfo or tf2_msgs/TFMessage; made when it is asked for, so that
        one damaged message does not end the footage.

        Raises:
            BadImage: the message is damaged.
        """
        return self.read()


class Source:
    """Footage of one camera. Iterating gives its SourceMessages in order of time.

    Attributes:
        path: where it lies.
        n_frames: how many images it holds, as far as its container says.
    """

    path: Path
    n_frames: int

    def __iter__(self) -> Iterator[SourceMessage]:
        raise NotImplementedError

    def file_name(self, name: str) -> str:
        """Of the image file that the frame `name` is; where frames have no files of their own, `name`."""
        return name

    def static_transforms(self) -> Iterator[Any]:
        """What was said on /tf_static at any time: tf2_msgs/TFMessage of the rosbags library."""
        return iter(())

    def missing(self, n_read: int) -> int:
        """How many images the container holds beyond the `n_read` that could be read.

        0 for the few by which a video's own count, often reckoned from its duration, is wrong.
        """
        missing = self.n_frames - n_read
        return missing if missing > 2 + self.n_frames // 50 else 0

    def frames(self) -> Iterator[tuple[str, CameraImage]]:
        """The images by their names.

        Raises:
            SourceError: an image is damaged, or of an encoding that is not known.
        """
        for item in self:
            if item.topic == IMAGE:
                try:
                    yield item.name, camera_image(item.message)
                except BadImage as error:
                    raise SourceError(f"{self.path}: {item.name}: {error}") from error


def open_source(path: Path, topic: str | None = None, fps: float | None = None, start_ns: int = 0) -> Source:
    """The footage at `path`.

    Args:
        path: a video, an image, a folder of images, a rosbag2 (its folder or its .mcap or .db3 file), or a simulated
            drive, e.g. street:7 (see perception_node.simulation.recording.street_source).
        topic: of the images in a bag; without it, the only image topic, or the only one with a camera_info beside it.
        fps: of a folder of images, 10 if not given; of a video, its own if not given.
        start_ns: the first frame's stamp, for footage that has none of its own.

    Raises:
        SourceError: nothing is there, or nothing that can be read.
    """
    if not path.exists() and str(path).startswith("street:"):
        from perception_node.simulation.recording import street_source  # needs what the others do not

        return street_source(str(path), fps, start_ns)
    if not path.exists():
        raise SourceError(f"{path}: does not exist; pass a video, an image, a folder of images or a rosbag2")
    if fps is not None and fps <= 0:
        raise SourceError(f"fps {fps}: must be above 0")
    if is_bag(path):
        return BagSource(path, topic)
    if path.is_dir():
        return ImageSource(path, sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), fps, start_ns)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource(path, [path], fps, start_ns)
    return VideoSource(path, fps, start_ns)


def check_apart(source: Path, out: Path) -> None:
    """Before `out` is written or replaced.

    Raises:
        SourceError: it is `source`, holds it or lies in it.
    """
    check_outside(source, out)
    if out.resolve().is_relative_to(source.resolve()):
        raise SourceError(f"{out}: lies in the input {source}; name a place outside of it")


def check_outside(source: Path, out: Path) -> None:
    """Raises SourceError if `out`, about to be written, is `source` or holds it."""
    if source.resolve().is_relative_to(out.resolve()):
        raise SourceError(f"{out}: would overwrite the input {source}; name another place")


class _StamplessSource(Source):
    """Pictures without stamps: they get them from the frame rate."""

    def __init__(self, path: Path, fps: float, start_ns: int):
        self.path, self._period_ns, self._start_ns = path, 1e9 / fps, start_ns
        self._make = MessageFactory.rosbags(typestore())

    def _message(self, index: int, name: str, image: np.ndarray) -> SourceMessage:
        time_ns = self._start_ns + round(index * self._period_ns)
        header = self._make.header(time_ns, FRAME_ID)
        return SourceMessage(IMAGE, time_ns, name, partial(self._make.image, header, image, "bgr8"))


class ImageSource(_StamplessSource):
    """Image files, in the order of their names."""

    def __init__(self, path: Path, files: list[Path], fps: float | None, start_ns: int):
        if not files:
            raise SourceError(f"{path}: holds no images ({', '.join(IMAGE_SUFFIXES)}) and no rosbag2")
        super().__init__(path, fps or FOLDER_FPS, start_ns)
        self._files = dict(zip(_unique_names(files), files, strict=True))
        self.n_frames = len(files)

    def file_name(self, name: str) -> str:
        return self._files[name].name

    def __iter__(self) -> Iterator[SourceMessage]:
        for index, (name, file) in enumerate(self._files.items()):
            image = picture_or_none(cv2.imread, str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceError(f"{file}: cannot be read as an image; repair or remove it")
            yield self._message(index, name, image)


def _unique_names(files: list[Path]) -> list[str]:
    """Each file's stem; where several have the same, the file's whole name, its dots replaced."""
    stems = Counter(file.stem for file in files)
    taken = {stem for stem, count in stems.items() if count == 1}
    names = []
    for file in files:
        name = file.stem
        if stems[name] > 1:
            name = file.name.replace(".", "_")
            while name in taken:
                name += "_"
            taken.add(name)
        names.append(name)
    return names


class VideoSource(_StamplessSource):
    """A video file, whatever OpenCV decodes."""

    def __init__(self, path: Path, fps: float | None, start_ns: int):
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise SourceError(f"{path}: cannot be read as a video, an image or a rosbag2")
        self.n_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        super().__init__(path, fps or capture.get(cv2.CAP_PROP_FPS) or 25.0, start_ns)
        capture.release()

    def __iter__(self) -> Iterator[SourceMessage]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            index = 0
            while (image := capture.read()[1]) is not None:
                yield self._message(index, f"{self.path.stem}_{index:06d}", image)
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise SourceError(f"{self.path}: holds no frame that can be decoded")
        if self.missing(index):
            # Not print, which would end up in the middle of a progress bar.
            tqdm.write(
                f"{self.path}: ends after {index} of {self.n_frames} frames; cut off or damaged there?", file=sys.stderr
            )


class BagSource(Source):
    """One camera of a rosbag2, with its camera_info and /tf where the bag has them.

    Raises:
        SourceError: the bag cannot be read, or it is not clear which images are meant.
    """

    def __init__(self, path: Path, topic: str | None):
        self.path = path
        with open_bag(path) as reader:
            cameras = {
                connection.topic: connection
                for connection in reader.connections
                if connection.msgtype in (_IMAGE_TYPE, _COMPRESSED_TYPE)
            }
            info_topics = {
                connection.topic for connection in reader.connections if connection.msgtype == _CAMERA_INFO_TYPE
            }
            other = len(reader.connections) - len(cameras)
        names = ", ".join(sorted(cameras)) or f"none; the {other} topics there are of other types"
        info_of = {name: camera_info_beside(name) for name in cameras}
        calibrated = [name for name in cameras if info_of[name] in info_topics]
        if topic is None and len(cameras) > 1 and len(calibrated) == 1:
            topic = calibrated[0]  # the others are masks, depth and the like
        if topic is None and len(cameras) != 1:
            raise SourceError(
                f"{path}: has {len(cameras)} image topics ({names}); "
                + ("name one with --topic" if cameras else "record a sensor_msgs/Image topic")
            )
        if topic is not None and topic not in cameras:
            raise SourceError(f"{path}: has no image topic {topic!r}; its image topics: {names}")
        self.topic = topic or next(iter(cameras))
        self.n_frames = cameras[self.topic].msgcount
        self._info_topic = info_of[self.topic] if self.topic in calibrated else None

    def static_transforms(self) -> Iterator[Any]:
        with open_bag(self.path) as reader:
            connections = [c for c in reader.connections if c.topic == TF_STATIC]
            for connection, _, cdr in reader.messages(connections) if connections else ():
                yield read_message(reader.typestore, cdr, connection.msgtype)

    def __iter__(self) -> Iterator[SourceMessage]:
        with open_bag(self.path) as reader:
            connections = [c for c in reader.connections if c.topic in (self.topic, self._info_topic, TF)]
            index = 0
            for connection, time_ns, cdr in reader.messages(connections):
                read = partial(read_message, reader.typestore, cdr, connection.msgtype)
                if connection.topic == TF:
                    yield SourceMessage(TF, time_ns, f"tf_{index:06d}", read)
                elif connection.topic == self._info_topic:
                    yield SourceMessage(CAMERA_INFO, time_ns, f"camera_info_{index:06d}", read)
                else:
                    yield SourceMessage(IMAGE, time_ns, f"frame_{index:06d}", read)
                    index += 1


def deserialize(types: Typestore, cdr: bytes | memoryview, message_type: str) -> Any:
    """A message of a bag, whose message types are `types`. Raises BadImage if it is damaged."""
    try:
        return types.deserialize_cdr(cdr, message_type)
    except Exception as error:  # many kinds on damaged messages
        raise BadImage("message", f"{len(cdr)} bytes are no {message_type}: {one_line(error)}") from error


def read_message(types: Typestore, cdr: bytes | memoryview, message_type: str) -> Any:
    """The same; a compressed image as the image that it holds."""
    message = deserialize(types, cdr, message_type)
    if message_type != _COMPRESSED_TYPE:
        return message
    return MessageFactory.rosbags(typestore()).image(message.header, decode(message.data), "bgr8")
