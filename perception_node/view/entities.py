"""ROS messages to the entities of rerun's viewer.

Where an entity lies says what it is of:

    vehicle                          the base frame: x ahead, y left, z up
    vehicle/CAMERA                   the camera's pose and lens; CAMERA is the frame_id of its images
    vehicle/CAMERA/image
    vehicle/CAMERA/NODE/...          what a node says of the image, in pixels: in_pixels.py
    vehicle/NODE/...                 what it says in metres: in_metres.py
    legend/NODE                      its classes and their colours
    timings/NODE/STAGE               milliseconds
    rates/NODE/...                   images a second
    health/NODE                      what it says of itself, when that changes
    no_metres                        why there is nothing in metres

Every entity is at its message's stamp, on one timeline.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import rerun as rr

from perception_node.calibration_input import CalibrationInput, CalibrationOptions
from perception_node.errors import BadCalibration, BadImage
from perception_node.labels import known_category
from perception_node.messages import stamp_ns
from perception_node.topics import LABEL_INFO, camera_info_beside
from perception_node.transforms import Transforms
from perception_node.view import in_metres, in_pixels
from perception_node.view.in_pixels import Drawing, SeenNode
from perception_node.view.selection import (
    CAMERA_INFO_TYPE,
    DIAGNOSTICS_TYPE,
    TRANSFORMS_TYPE,
    node_topic,
    plain_name,
)

TIMELINE = "stamp"
VEHICLE, LEGEND, TIMINGS, RATES, HEALTH, NO_METRES = "vehicle", "legend", "timings", "rates", "health", "no_metres"
_FRUSTUM_M = 2.0
"""How far in front of the camera its image is shown."""
_PLOT_RGB = (
    *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)),
    *((140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207)),
)
"""Easily told apart: matplotlib's."""
_EPOCH_NS = 10**18
"""Stamps before this (2001) count from the start of something, not from 1970."""
_LONGEST_MS = 3.6e6
"""What is older than an hour has its stamp from another clock; it would make the others' lines flat."""
_LEVELS = (rr.TextLogLevel.INFO, rr.TextLogLevel.WARN, rr.TextLogLevel.ERROR, rr.TextLogLevel.ERROR)
"""By diagnostic_msgs/DiagnosticStatus's."""

_REMEDY = "The calibration comes from camera_info and TF, or from files: --camera and --mounting."

_Draw = Callable[[Any, SeenNode], Drawing]
_IN_PIXELS: dict[str, _Draw] = {
    "class_map": in_pixels.class_map,
    "instance_map": in_pixels.instance_map,
    "confidence": in_pixels.confidence,
    "drivable_area": in_pixels.drivable_area,
    "instances": in_pixels.instances,
    "tracks": in_pixels.tracks,
    "overlay": in_pixels.overlay,
}
_IN_METRES: dict[str, _Draw] = {
    "drivable_grid": in_metres.drivable_grid,
    "free_space": in_metres.free_space,
    "objects": in_metres.objects,
    "tracks": in_metres.tracks,
}
_BASE_FRAME_ALONE = _IN_METRES.keys() - _IN_PIXELS.keys()
"""Topics whose header names the base frame, never a camera's; that of tracks names either."""


class Shown(NamedTuple):
    """What there is to lay out, in the order in which it came.

    Attributes:
        cameras: of which there are images.
        in_pixels: (camera, node, topic's name) of what nodes say of images.
        in_metres: nodes.
        legends: (node, how many classes it has).
        timed, rated, healthy: nodes of which there are times, rates and words.
    """

    cameras: tuple[str, ...]
    in_pixels: tuple[tuple[str, str, str], ...]
    in_metres: tuple[str, ...]
    legends: tuple[tuple[str, int], ...]
    timed: tuple[str, ...]
    rated: tuple[str, ...]
    healthy: tuple[str, ...]


class Entities:
    """Logs messages to a recording.

    Args:
        recording: where to.
        calibration: where to look for it, besides the messages.

    Attributes:
        no_metres: why nothing is in metres, if nothing is.

    Example:
        entities = Entities(rr.RecordingStream("perception_node"), CalibrationOptions())
        entities.take("/perception_node/class_map", "sensor_msgs/msg/Image", message)
    """

    def __init__(self, recording: rr.RecordingStream, calibration: CalibrationOptions):
        self._recording = recording
        self._transforms = Transforms()
        self._new_calibration = partial(CalibrationInput, calibration, self._transforms)
        self._calibrations = defaultdict(self._new_calibration)  # by the topic of the camera_info
        self._topic_of: dict[str, str] = {}  # of each camera
        self._camera_of: dict[str, str] = {}  # of each node
        self._nodes: dict[str, SeenNode] = defaultdict(SeenNode)
        self._colors: dict[str, tuple[int, int, int]] = {}  # of plots
        self._health: dict[str, tuple[int, str]] = {}
        self.no_metres = ""
        self._shown: dict[str, dict[Any, None]] = {name: {} for name in Shown._fields}
        self._counts_from_1970: bool | None = None
        recording.log(VEHICLE, rr.ViewCoordinates.FLU, static=True)
        self._say_no_metres("no image yet")

    @property
    def shown(self) -> Shown:
        return Shown(*(tuple(found) for found in self._shown.values()))

    def take(self, topic: str, type_: str, message: Any) -> None:
        """A message of a topic that a Selection chose.

        Raises:
            BadImage: it is not what it should be; of /diagnostics all that is right is shown.
            BadCalibration: it is a transform, and one is left out.
        """
        if type_ == CAMERA_INFO_TYPE:
            self._calibrations[topic].take_camera_info(message)
        elif type_ == TRANSFORMS_TYPE:
            self._transforms.add(message)
        elif type_ == DIAGNOSTICS_TYPE:
            self._show_diagnostics(message)
        elif found := node_topic(topic, type_):
            self._show_nodes(*found, message)
        else:
            self._show_image(plain_name(topic), message)

    def _show_image(self, topic: str, message: Any) -> None:
        """Of several topics with one frame_id the first is shown."""
        camera = _camera(message.header)
        if self._topic_of.setdefault(camera, topic) != topic:
            return
        picture, width, height = in_pixels.image(message)
        self._at(message.header)
        self._place(topic, camera, message.header.frame_id, width, height)
        self._recording.log(f"{VEHICLE}/{camera}/image", picture)
        self._shown["cameras"][camera] = None

    def _show_nodes(self, node_name: str, name: str, message: Any) -> None:
        node, seen = entity_name(node_name), self._nodes[node_name]
        if name == LABEL_INFO:
            seen.categories = {
                entry.class_id: known_category(entry.class_id, entry.class_name) for entry in message.class_map
            }
            self._recording.log(f"{LEGEND}/{node}", in_pixels.legend(seen.categories.values()), static=True)
            self._shown["legends"][node, len(seen.categories)] = None
            return
        self._at(message.header)
        if name in _IN_PIXELS and (camera := self._camera_seen(node, name, message.header)):
            self._log(f"{VEHICLE}/{camera}/{node}/{name}", _IN_PIXELS[name](message, seen))
            self._shown["in_pixels"][camera, node, name] = None
        if name in _IN_METRES:
            self._log(f"{VEHICLE}/{node}/{name}", _IN_METRES[name](message, seen))
            if name in _BASE_FRAME_ALONE:
                self._shown["in_metres"][node] = None

    def _camera_seen(self, node: str, name: str, header: Any) -> str | None:
        """Whose image is meant. The header of tracks can name the base frame: then it is that of the node's others."""
        if name != "tracks":
            self._camera_of[node] = _camera(header)
        elif _camera(header) in self._shown["cameras"]:
            return _camera(header)
        return self._camera_of.get(node)

    def _show_diagnostics(self, message: Any) -> None:
        """Of perception nodes: how long stages took (the medians, where many images are meant), rates, and health.

        They are shown with the newest image: a node's clock can be another than its camera's.

        Raises:
            BadImage: a value is no number; the others are shown.
        """
        wrong = None
        if self._counts_from_1970 is None:
            self._at(message.header)
        for status in message.status:
            name, _, what = status.name.partition(": ")
            if what != "perception":
                continue
            node = entity_name(name)
            for pair in status.values:
                try:
                    self._show_figure(node, pair)
                except BadImage as error:
                    wrong = wrong or error
            level = status.level if isinstance(status.level, int) else status.level[0]
            if status.message and self._health.get(node) != (level, status.message):
                self._health[node] = level, status.message
                self._recording.log(f"{HEALTH}/{node}", rr.TextLog(status.message, level=_LEVELS[min(level, 3)]))
                self._shown["healthy"][node] = None
        if wrong is not None:
            raise wrong

    def _show_figure(self, node: str, pair: Any) -> None:
        if found := re.fullmatch(r"(\w+)(?: p50)? ms", pair.key):
            if _number(pair) <= _LONGEST_MS:
                self._plot(f"{TIMINGS}/{node}/{found[1]}", _number(pair))
                self._shown["timed"][node] = None
        elif found := re.fullmatch(r"(\w+) rate Hz", pair.key):
            self._plot(f"{RATES}/{node}/{found[1]}", _number(pair))
            self._shown["rated"][node] = None

    def _plot(self, entity: str, value: float) -> None:
        if entity not in self._colors:
            color = self._colors[entity] = _PLOT_RGB[len(self._colors) % len(_PLOT_RGB)]
            self._recording.log(entity, rr.SeriesLines(colors=color, names=entity.rpartition("/")[2]), static=True)
        self._recording.log(entity, rr.Scalars(value))

    def _place(self, topic: str, camera: str, frame_id: str, width: int, height: int) -> None:
        """Says where the camera is: with each image, for the server forgets what is old."""
        try:
            lens, mounting = self._calibration_of(topic).calibration(frame_id, width, height)
        except BadCalibration as error:
            self._say_no_metres(str(error))
            return
        self._say_no_metres("the camera is calibrated, but no node says anything in metres")
        self._recording.log(
            f"{VEHICLE}/{camera}",
            rr.Transform3D(translation=mounting.translation, mat3x3=mounting.rotation),
            rr.Pinhole(
                image_from_camera=lens.K,
                resolution=(width, height),
                camera_xyz=rr.ViewCoordinates.RDF,
                image_plane_distance=_FRUSTUM_M,
            ),
        )

    def _calibration_of(self, image_topic: str) -> CalibrationInput:
        """By the camera_info beside the images; that of an only camera may lie elsewhere."""
        beside = camera_info_beside(image_topic)
        if beside not in self._calibrations and len(self._calibrations) == len(self._topic_of) == 1:
            (beside,) = self._calibrations
        return self._calibrations[beside] if beside in self._calibrations else self._new_calibration()

    def _say_no_metres(self, reason: str) -> None:
        if reason != self.no_metres:
            self.no_metres = reason
            self._recording.log(NO_METRES, rr.TextDocument(f"Nothing in metres.\n\n{reason}\n\n{_REMEDY}"), static=True)

    def _at(self, header: Any) -> None:
        ns = stamp_ns(header)
        if self._counts_from_1970 is None:
            self._counts_from_1970 = ns >= _EPOCH_NS
        if self._counts_from_1970:
            self._recording.set_time(TIMELINE, timestamp=np.datetime64(ns, "ns"))
        else:
            self._recording.set_time(TIMELINE, duration=np.timedelta64(ns, "ns"))

    def _log(self, entity: str, drawing: Drawing) -> None:
        for below, drawn in drawing.items():
            self._recording.log(f"{entity}/{below}" if below else entity, drawn)


def entity_name(name: str) -> str:
    """A topic's or a frame's name as one part of an entity's path."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name.strip("/"))


def _number(pair: Any) -> float:
    """The value of a diagnostic_msgs/KeyValue. Raises BadImage if it is none."""
    try:
        return float(pair.value)
    except ValueError as error:
        raise BadImage(pair.key, f"{pair.value!r}; expected: a number") from error


def _camera(header: Any) -> str:
    return entity_name(header.frame_id) or "camera"
