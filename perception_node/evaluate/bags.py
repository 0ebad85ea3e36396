"""Frames of bags: the node's topics against /truth/..., matched by their stamps."""

import struct
from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.bags import header_stamp_ns, open_bag
from perception_node.errors import BadImage, SourceError
from perception_node.evaluate.pairs import FramePair, Pairs
from perception_node.labels import known_category
from perception_node.messages import camera_image
from perception_node.metrics import FrameLabels, Grid, PanopticMap
from perception_node.panoptic import UNLABELLED
from perception_node.sources import read_message
from perception_node.taxonomy import Taxonomy
from perception_node.topics import LABEL_INFO

TRUTH = "/truth"
NEEDED = ("class_map", "instance_map")
OPTIONAL = ("confidence", "drivable_area", "drivable_grid", "objects")
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True, slots=True)
class _Read:
    """Labels that came out of a bag."""

    where: str
    labels: FrameLabels

    def read(self) -> FrameLabels:
        return self.labels


@dataclass(frozen=True, slots=True)
class _Message:
    """One message, not yet deserialized."""

    cdr: bytes
    type: str

    def read(self) -> Any:
        return read_message(self.cdr, self.type)


class _Side:
    """The topics PREFIX/class_map and so on of a bag, and its images.

    Attributes:
        path: of the bag.
        prefix: of the topics.
        parts: stamp, ns -> names of the topics that have a message of that stamp.
        names: class id -> name; empty without PREFIX/label_info.
    """

    def __init__(self, path: Path, prefix: str, remedy: str):
        self.path, self.prefix = path, prefix
        self.names: dict[int, str] = {}
        self._topics = {f"{prefix}/{name}": name for name in (*NEEDED, *OPTIONAL)}
        parts: dict[int, set[str]] = defaultdict(set)
        images: dict[str, set[int]] = defaultdict(set)
        with open_bag(path) as bag:
            for name in NEEDED:
                if f"{prefix}/{name}" not in bag.topics:
                    raise SourceError(f"{path}: has no topic {prefix}/{name}; {remedy}")
            cameras = {name for name, topic in bag.topics.items() if topic.type in _IMAGE_TYPES and not _is_label(name)}
            wanted = {*self._topics, *cameras, f"{prefix}/{LABEL_INFO}"}
            for connection, _, cdr in bag.messages(wanted):
                if connection.topic in cameras:
                    images[connection.topic].add(_stamp_ns(path, connection.topic, cdr))
                elif connection.topic in self._topics:
                    parts[_stamp_ns(path, connection.topic, cdr)].add(self._topics[connection.topic])
                else:
                    info = bag.deserialize(cdr, connection.msgtype)
                    self.names = {entry.class_id: entry.class_name for entry in info.class_map}
        self.parts = {stamp: names for stamp, names in parts.items() if names.issuperset(NEEDED)}
        camera = max(images, key=lambda topic: len(images[topic] & self.parts.keys()), default=None)
        if camera:
            self._topics[camera] = "image"
            for stamp in images[camera] & self.parts.keys():
                self.parts[stamp].add("image")

    def frames(self, stamps: Set[int]) -> Iterator[tuple[int, dict[str, _Message]]]:
        """The messages of each of the stamps, by the topic's name, as soon as all are there."""
        waiting: dict[int, dict[str, _Message]] = defaultdict(dict)
        left = set(stamps)
        with open_bag(self.path) as bag:
            for connection, _, cdr in bag.messages(self._topics):
                stamp = header_stamp_ns(cdr)
                if stamp in left:
                    waiting[stamp][self._topics[connection.topic]] = _Message(cdr, connection.msgtype)
                    if waiting[stamp].keys() == self.parts[stamp]:
                        left.remove(stamp)  # what repeats it is left out
                        yield stamp, waiting.pop(stamp)

    def labels(self, stamp: int, messages: dict[str, _Message], taxonomy: Taxonomy, class_of: np.ndarray) -> _Read:
        """What the messages of a stamp say.

        Args:
            class_of: uint8 (256,), values of the class map -> class ids of the taxonomy.
        """
        where = f"{self.path}: {self.prefix} at {stamp} ns"
        try:
            read = {name: message.read() for name, message in messages.items() if name != "image"}
            maps = {name: _pixels(name, read[name]) for name in (*NEEDED, *OPTIONAL[:2]) if name in read}
        except BadImage as error:
            raise SourceError(f"{where}: {error}") from error
        shapes = {name: pixels.shape for name, pixels in maps.items()}
        if len(set(shapes.values())) > 1:
            raise SourceError(f"{where}: the maps differ in size: {shapes}; record those of one frame")
        panoptic = PanopticMap.from_maps(class_of[maps["class_map"]], maps["instance_map"], taxonomy)
        drivable = maps["drivable_area"] > 0 if "drivable_area" in maps else None
        return _Read(
            where,
            FrameLabels(
                panoptic,
                maps.get("confidence"),
                drivable,
                _grid(where, read["drivable_grid"]) if "drivable_grid" in read else None,
                _distances(where, read["objects"]) if "objects" in read else None,
            ),
        )


def pair_bags(predicted_path: Path, truth_path: Path, taxonomy: Taxonomy | None, node: str | None) -> Pairs:
    """Of one bag, or of two; frames are matched by their stamps, classes by their names.

    Args:
        predicted_path, truth_path: the bags.
        taxonomy, node: see evaluate.

    Raises:
        SourceError: naming the bag, the topic and the remedy.
    """
    truth = _Side(truth_path, TRUTH, "expected: a bag with the truth's topics, see docs/evaluation.md")
    prefix = _prefix(predicted_path, node)
    predicted = _Side(predicted_path, prefix, "record it too, or make a bag with `perception replay`")
    classes = _classes(truth, taxonomy)
    if not predicted.names and taxonomy is None:
        raise SourceError(f"{predicted_path}: has no {prefix}/{LABEL_INFO}; record it too, or pass --taxonomy")
    names = predicted.names or {category.id: category.name for category in taxonomy or ()}
    stamps = truth.parts.keys() & predicted.parts.keys()
    if not stamps:
        raise SourceError(
            f"{predicted_path}: none of the {len(predicted.parts)} frames of {prefix} has the stamp of one of the "
            f"{len(truth.parts)} of {truth_path}; stamps must be those of the images"
        )
    by_name = {category.name: category.id for category in classes}
    strangers = sorted(name for name in names.values() if name not in by_name)
    notes = [f"classes that the truth lacks, unlabelled here: {', '.join(strangers)}"] if strangers else []

    def frames() -> Iterator[FramePair]:
        class_of_truth = _table(truth.names or {c.id: c.name for c in classes}, by_name)
        class_of_predicted = _table(names, by_name)
        answers = predicted.frames(stamps)
        waiting: dict[int, dict[str, _Message]] = {}
        for stamp, known in truth.frames(stamps):
            while stamp not in waiting:
                other, messages = next(answers)
                waiting[other] = messages
            seen = waiting.pop(stamp)
            yield FramePair(
                str(stamp),
                "",
                truth.labels(stamp, known, classes, class_of_truth),
                predicted.labels(stamp, seen, classes, class_of_predicted),
                partial(_image, known.get("image") or seen.get("image")),
            )

    missing, unused = (len(side.parts) - len(stamps) for side in (truth, predicted))
    return Pairs(classes, frames, len(stamps), missing, unused, True, notes)


def _is_label(topic: str) -> bool:
    """Whether a topic of images is the truth's, or one of a node's outputs."""
    return topic.startswith(f"{TRUTH}/") or topic.rpartition("/")[2] in (*NEEDED, *OPTIONAL, "overlay")


def _prefix(path: Path, node: str | None) -> str:
    """What is before /class_map in the predicted topics."""
    with open_bag(path) as bag:
        found = sorted(topic.removesuffix("/class_map") for topic in bag.topics if topic.endswith("/class_map"))
    found = [prefix for prefix in found if prefix != TRUTH]
    if node is not None:
        return "/" + node.strip("/")
    if len(found) != 1:
        raise SourceError(
            f"{path}: has {len(found)} topics .../class_map of nodes ({', '.join(found) or 'none'}); "
            + ("name one with --node" if found else "record the node's topics, or make a bag with `perception replay`")
        )
    return found[0]


def _classes(truth: _Side, taxonomy: Taxonomy | None) -> Taxonomy:
    if not truth.names:
        if taxonomy is None:
            raise SourceError(f"{truth.path}: has no {truth.prefix}/{LABEL_INFO}; record it too, or pass --taxonomy")
        return taxonomy
    return Taxonomy([known_category(i, name, taxonomy) for i, (_, name) in enumerate(sorted(truth.names.items()))])


def _table(names: dict[int, str], by_name: dict[str, int]) -> np.ndarray:
    """uint8 (256,): class map value -> class id of that name."""
    table = np.full(256, UNLABELLED, np.uint8)
    for value, name in names.items():
        if 0 <= value < UNLABELLED and name in by_name:
            table[value] = by_name[name]
    return table


def _stamp_ns(path: Path, topic: str, cdr: bytes | memoryview) -> int:
    try:
        return header_stamp_ns(cdr)
    except (struct.error, IndexError) as error:
        raise SourceError(f"{path}: {topic}: a message of {len(cdr)} bytes has no header; record it anew") from error


def _pixels(name: str, message: Any) -> np.ndarray:
    """(H, W), uint16 of an instance map, uint8 of the others. Raises BadImage."""
    depth, encodings = (2, ("16UC1", "mono16")) if name == "instance_map" else (1, ("mono8", "8UC1"))
    if message.encoding not in encodings:
        raise BadImage(name, f"encoding {message.encoding!r}; expected: {' or '.join(encodings)}")
    data = np.frombuffer(message.data, np.uint8)
    height, width, step = message.height, message.width, message.step
    if step < width * depth or data.size != height * step or not data.size:
        raise BadImage(name, f"{data.size} bytes, {width}x{height} pixels in steps of {step} do not fit each other")
    rows = np.ascontiguousarray(data.reshape(height, step)[:, : width * depth])
    return rows.view(f"{'>' if message.is_bigendian else '<'}u{depth}").astype(np.uint16 if depth == 2 else np.uint8)


def _grid(where: str, message: Any) -> Grid:
    info = message.info
    cells = np.asarray(message.data).view(np.int8)
    turned = max(abs(info.origin.orientation.x), abs(info.origin.orientation.y), abs(info.origin.orientation.z))
    if cells.size != info.height * info.width or not info.resolution > 0 or turned > 1e-6:
        raise SourceError(
            f"{where}: drivable_grid: {cells.size} cells, {info.width}x{info.height} of {info.resolution} m, turned by "
            f"{turned}; expected: as many cells as that, not turned against the base frame"
        )
    origin = info.origin.position
    return Grid(cells.reshape(info.height, info.width), float(info.resolution), (float(origin.x), float(origin.y)))


def _distances(where: str, message: Any) -> dict[int, float]:
    try:
        return {int(detection.id): object_distance(detection) for detection in message.detections}
    except ValueError as error:
        raise SourceError(f"{where}: objects: {error}; expected: ids of the instance map") from error


def object_distance(detection: Any) -> float:
    """From the origin of the base frame to a vision_msgs/Detection3D on the ground, in metres.

    That is to its first result's pose, where it stands; without results to the nearest point of its box, which is
    upright and turned around z.
    """
    if detection.results:
        position = detection.results[0].pose.pose.position
        return float(np.hypot(position.x, position.y))
    box = detection.bbox
    center, turn = box.center.position, box.center.orientation
    yaw = np.arctan2(2 * (turn.w * turn.z + turn.x * turn.y), 1 - 2 * (turn.y**2 + turn.z**2))
    cos, sin = np.cos(yaw), np.sin(yaw)
    origin = np.array([-center.x * cos - center.y * sin, center.x * sin - center.y * cos])  # as the box sees it
    half = np.array([box.size.x, box.size.y]) / 2
    return float(np.hypot(*(origin - np.clip(origin, -half, half))))


def _image(message: _Message | None) -> np.ndarray | None:
    """BGR; None where there is none that can be read."""
    try:
        return camera_image(message.read()).bgr() if message else None
    except BadImage:
        return None
