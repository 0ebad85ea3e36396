"""Footage: a video, an image, a folder of images or a bag, all read as the ROS messages a camera would send."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from perception_node.bags import Topic, is_bag, open_bag, typestore
from perception_node.compressed import decode
from perception_node.errors import BadImage, SourceError, one_line
from perception_node.image import CameraImage, picture_or_none
from perception_node.messages import MessageFactory, camera_image
from perception_node.topics import CAMERA_INFO, IMAGE, TF, TF_STATIC, camera_info_beside

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FOLDER_FPS = 10.0
FRAME_ID = "camera"
_IMAGE_TYPE, _COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_CAMERA_INFO_TYPE, _TRANSFORMS_TYPE = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"
_COMPRESSED_SUFFIX, _DEPTH_SUFFIX = "/compressed", "/compressedDepth"
"""Of topics, by image_transport's names. Compressed depth is no JPEG or PNG."""


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
        """How many images the container says it holds beyond the `n_read` that could be read."""
        return max(0, self.n_frames - n_read)

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
        path: a video, an image, a folder of images, a rosbag2 (its folder or its .mcap or .db3 file), a ROS 1 .bag, or
            a simulated drive, e.g. street:7 (see perception_node.simulation.recording.street_source).
        topic: of the images in a bag; without it, the only image topic, or the only one with a camera_info beside it.
            Compressed depth does not count, nor do compressed images beside the same ones raw.
        fps: of a folder of images, 10 if not given; of a video, its own if not given.
        start_ns: the first frame's stamp, for footage that has none of its own.

    Raises:
        SourceError: nothing is there, or nothing that can be read.
    """
    if not path.exists() and str(path).startswith("street:"):
        from perception_node.simulation.recording import street_source  # needs what the others do not

        return street_source(str(path), fps, start_ns)
    if not path.exists():
        raise SourceError(f"{path}: does not exist; pass a video, an image, a folder of images or a bag")
    if fps is not None and fps <= 0:
        raise SourceError(f"fps {fps}: must be above 0")
    if is_bag(path):
        return BagSource(path, topic)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        n_bags = sum(is_bag(p) for p in path.iterdir())
        if n_bags and not files:
            raise SourceError(f"{path}: is a folder of {n_bags} bags; pass each: {path}/*")
        return ImageSource(path, files, fps, start_ns)
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
            raise SourceError(f"{path}: holds no images ({', '.join(IMAGE_SUFFIXES)}) and no bag")
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
            raise SourceError(f"{path}: cannot be read as a video, an image or a bag")
        self.n_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        super().__init__(path, fps or capture.get(cv2.CAP_PROP_FPS) or 25.0, start_ns)
        capture.release()

    def missing(self, n_read: int) -> int:
        """0 too for the few by which a video's own count, often reckoned from its duration, is wrong."""
        missing = super().missing(n_read)
        return missing if missing > 2 + self.n_frames // 50 else 0

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
    """One camera of a bag, with its camera_info and /tf where the bag has them.

    Raises:
        SourceError: the bag cannot be read, or it is not clear which images are meant.
    """

    def __init__(self, path: Path, topic: str | None):
        self.path = path
        with open_bag(path) as bag:
            topics = bag.topics
        self.topic = _image_topic(path, topics, topic)
        self.n_frames = topics[self.topic].count
        info_topic = camera_info_beside(self.topic)
        self._info_topic = info_topic if _is_of(_CAMERA_INFO_TYPE, topics, info_topic) else None
        self._transforms = {name for name in (TF, TF_STATIC) if _is_of(_TRANSFORMS_TYPE, topics, name)}

    def static_transforms(self) -> Iterator[Any]:
        with open_bag(self.path) as bag:
            for connection, _, cdr in bag.messages(self._transforms & {TF_STATIC}):
                with contextlib.suppress(BadImage):  # a damaged one: others may do
                    yield read_message(cdr, connection.msgtype)

    def __iter__(self) -> Iterator[SourceMessage]:
        with open_bag(self.path) as bag:
            index = 0
            topics = {self.topic, self._info_topic} | self._transforms - {TF_STATIC}
            for connection, time_ns, cdr in bag.messages(topics):
                read = partial(read_message, cdr, connection.msgtype)
                if connection.topic == TF:
                    yield SourceMessage(TF, time_ns, f"tf_{index:06d}", read)
                elif connection.topic == self._info_topic:
                    yield SourceMessage(CAMERA_INFO, time_ns, f"camera_info_{index:06d}", read)
                else:
                    yield SourceMessage(IMAGE, time_ns, f"frame_{index:06d}", read)
                    index += 1


def _image_topic(path: Path, topics: Mapping[str, Topic], asked: str | None) -> str:
    """The topic of the images that are meant."""
    images = sorted(name for name, topic in topics.items() if topic.type in (_IMAGE_TYPE, _COMPRESSED_TYPE))
    if not images:
        there = f"its {len(topics)} topics are of other types" if topics else "it has no topics"
        raise SourceError(f"{path}: has no image topic, {there}; record a sensor_msgs/Image topic")
    if asked is not None:
        if asked not in images:
            raise SourceError(f"{path}: has no image topic {asked!r}; its image topics: {', '.join(images)}")
        return asked
    left = images
    for is_likely in (
        lambda name: topics[name].count > 0,
        lambda name: not name.endswith(_DEPTH_SUFFIX),
        lambda name: not (name.endswith(_COMPRESSED_SUFFIX) and name.removesuffix(_COMPRESSED_SUFFIX) in images),
        lambda name: _is_of(_CAMERA_INFO_TYPE, topics, camera_info_beside(name)),  # others are masks and the like
    ):
        left = [name for name in left if is_likely(name)] or left
    if len(left) > 1:
        raise SourceError(f"{path}: has {len(left)} image topics ({', '.join(left)}); name one with --topic")
    return left[0]


def _is_of(type_: str, topics: Mapping[str, Topic], name: str) -> bool:
    return name in topics and topics[name].type == type_


def deserialize(cdr: bytes | memoryview, message_type: str) -> Any:
    """A message of a bag. Raises BadImage if it is damaged."""
    try:
        return typestore().deserialize_cdr(cdr, message_type)
    except Exception as error:  # many kinds on damaged messages
        raise BadImage("message", f"{len(cdr)} bytes are no {message_type}: {one_line(error)}") from error


def read_message(cdr: bytes | memoryview, message_type: str) -> Any:
    """The same; a compressed image as the image that it holds."""
    message = deserialize(cdr, message_type)
    if message_type != _COMPRESSED_TYPE:
        return message
    image = decode(message.data, message.format)
    pixels = image.data.reshape(image.height, image.width, -1)
    return MessageFactory.rosbags(typestore()).image(message.header, pixels, image.encoding)
