"""ROS messages to the entities of rerun's viewer.

Where an entity lies says what it is of:

    vehicle                          the base frame: x ahead, y left, z up
    vehicle/CAMERA                   the camera's pose and lens; CAMERA is the frame_id of its images
    vehicle/CAMERA/image
    vehicle/CAMERA/NODE/...          what a node says of the image, in pixels
    vehicle/NODE/...                 what it says in metres; tracks are in both
    timings/NODE/STAGE               milliseconds

Every entity is at its message's stamp, on one timeline.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import rerun as rr

from perception_node.calibration_input import Calibration, CalibrationInput, CalibrationOptions
from perception_node.errors import BadCalibration, BadImage
from perception_node.ground_messages import ARROW_S
from perception_node.labels import known_category
from perception_node.messages import camera_image
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Category
from perception_node.topics import LABEL_INFO
from perception_node.tracking_messages import TRACK
from perception_node.visualize import DRIVABLE_BGR

TIMELINE = "stamp"
TRACKS = "tracks"
VEHICLE, TIMINGS = "vehicle", "timings"
_JPEG_QUALITY = 85
_CLASSES_OPACITY, _GRID_OPACITY = 0.4, 0.7
_FRUSTUM_M = 2.0
"""How far in front of the camera its image is shown."""
_ABOVE_M = 0.05
"""How high over the ground, and so over the grid, lines on it are drawn."""
_FLAT_M = 0.1
"""What is drawn of a box's side that is not seen."""
_GRID_RGBA = {0: (60, 200, 90, 255), 100: (200, 70, 60, 255)}
"""Of cells that are free, and occupied; the unknown are not drawn."""
_EPOCH_NS = 10**18
"""Stamps before this (2001) count from the start of something, not from 1970."""


class Shown(NamedTuple):
    """What there is to lay out, in the order in which it came.

    Attributes:
        cameras: of which there are images.
        in_pixels: (camera, node) of what nodes say of images.
        in_metres: nodes.
        timed: nodes of which there are times.
    """

    cameras: tuple[str, ...]
    in_pixels: tuple[tuple[str, str], ...]
    in_metres: tuple[str, ...]
    timed: tuple[str, ...]


class Entities:
    """Logs messages to a recording.

    Args:
        recording: where to.
        calibration: where to look for it, besides the messages.

    Attributes:
        problem: why nothing was in metres of the last image, or None.

    Example:
        entities = Entities(rr.RecordingStream("perception_node"), CalibrationOptions())
        entities.show("/perception_node/class_map", message)
    """

    def __init__(self, recording: rr.RecordingStream, calibration: CalibrationOptions):
        self._recording = recording
        self._calibrations = CalibrationInput(calibration)
        self._calibrated: dict[str, Calibration] = {}
        self._topic_of: dict[str, str] = {}
        self._camera_of: dict[str, str] = {}  # of nodes
        self._categories: dict[str, Mapping[int, Category]] = {}
        self._annotated: dict[str, Mapping[int, Category]] = {}
        self._shown: dict[str, dict[Any, None]] = {name: {} for name in Shown._fields}
        self._counts_from_1970: bool | None = None
        self.problem: BadCalibration | None = None
        recording.log(VEHICLE, rr.ViewCoordinates.FLU, static=True)

    @property
    def shown(self) -> Shown:
        return Shown(*(tuple(found) for found in self._shown.values()))

    def take_camera_info(self, message: Any) -> None:
        self._calibrations.take_camera_info(message)

    def take_transforms(self, message: Any) -> None:
        self._calibrations.take_transforms(message)

    def show_image(self, topic: str, message: Any) -> None:
        """A camera's sensor_msgs/Image. Of several topics with one frame_id the first is shown.

        Raises:
            BadImage: it cannot be used.
        """
        camera = self._camera(message.header)
        if self._topic_of.setdefault(camera, topic) != topic:
            return
        image = camera_image(message)
        self._at(message.header.stamp)
        self._calibrate(camera, message.header.frame_id, image.width, image.height)
        self._log_jpeg(f"{VEHICLE}/{camera}/image", image.bgr())
        self._shown["cameras"][camera] = None

    def show(self, topic: str, message: Any) -> None:
        """A node's message, if it is of a topic in NODE_TOPICS.

        Raises:
            BadImage: its pixels are not what the topic should have.
        """
        node, _, name = topic.rpartition("/")
        node = entity_name(node)
        if name == LABEL_INFO:
            self._categories[node] = {
                entry.class_id: known_category(entry.class_id, entry.class_name) for entry in message.class_map
            }
        elif name == TRACKS:
            self._at(message.header.stamp)
            self._tracks(node, message)
        elif name in _IN_PIXELS:
            camera = self._camera_of[node] = self._camera(message.header)
            self._at(message.header.stamp)
            _IN_PIXELS[name](self, f"{VEHICLE}/{camera}/{node}/{name}", node, message)
            self._shown["in_pixels"][camera, node] = None
        elif name in _IN_METRES:
            self._at(message.header.stamp)
            _IN_METRES[name](self, f"{VEHICLE}/{node}/{name}", node, message)
            self._shown["in_metres"][node] = None

    def show_diagnostics(self, message: Any) -> None:
        """A diagnostic_msgs/DiagnosticArray: the medians of the stages of perception nodes."""
        self._at(message.header.stamp)
        for status in message.status:
            medians = {
                pair.key.removesuffix(" p50 ms"): float(pair.value)
                for pair in status.values
                if pair.key.endswith(" p50 ms")
            }
            self._log_milliseconds(entity_name(status.name.partition(":")[0]), medians)

    def show_milliseconds(self, node: str, header: Any, milliseconds: Mapping[str, float]) -> None:
        """How long each stage of the image with this header took."""
        self._at(header.stamp)
        self._log_milliseconds(entity_name(node), milliseconds)

    # ---- in pixels ----

    def _class_map(self, entity: str, node: str, message: Any) -> None:
        if self._annotated.get(entity) is not self._categories.get(node):
            self._annotated[entity] = self._categories[node]
            classes = [(id_, category.name, category.color) for id_, category in self._categories[node].items()]
            context = rr.AnnotationContext([*classes, (UNLABELLED, "unlabelled", (0, 0, 0, 0))])
            self._recording.log(entity, context, static=True)
        self._recording.log(entity, rr.SegmentationImage(_pixels(message), opacity=_CLASSES_OPACITY))

    def _instance_map(self, entity: str, node: str, message: Any) -> None:
        instance_map = _pixels(message)
        lines, ids = [], []
        for id_ in np.unique(instance_map[instance_map > 0]).tolist():
            mask = (instance_map == id_).view(np.uint8)
            x, y, width, height = cv2.boundingRect(mask)
            outlines, _ = cv2.findContours(
                mask[y : y + height, x : x + width], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
            )
            lines += [_closed(outline) for outline in outlines]
            ids += [id_] * len(outlines)
        self._recording.log(entity, rr.LineStrips2D(lines, class_ids=ids, radii=rr.Radius.ui_points(1.5)))

    def _drivable_area(self, entity: str, node: str, message: Any) -> None:
        outlines, _ = cv2.findContours(_pixels(message), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        strips = [_closed(outline) for outline in outlines]
        self._recording.log(
            entity, rr.LineStrips2D(strips, colors=[DRIVABLE_BGR[::-1]], radii=rr.Radius.ui_points(1.5))
        )

    def _instances(self, entity: str, node: str, message: Any) -> None:
        boxes = [detection.bbox for detection in message.detections]
        self._recording.log(
            entity,
            rr.Boxes2D(
                centers=[(box.center.position.x, box.center.position.y) for box in boxes],
                sizes=[(box.size_x, box.size_y) for box in boxes],
                class_ids=[int(detection.id or 0) for detection in message.detections],
                labels=[self._named(node, detection) for detection in message.detections],
                radii=rr.Radius.ui_points(0.5),
            ),
        )

    def _overlay(self, entity: str, node: str, message: Any) -> None:
        self._log_jpeg(entity, camera_image(message).bgr())

    # ---- in metres ----

    def _drivable_grid(self, entity: str, node: str, message: Any) -> None:
        info = message.info
        cells = np.asarray(message.data).view(np.uint8)
        colors = np.zeros((256, 4), np.uint8)
        for value, rgba in _GRID_RGBA.items():
            colors[value] = rgba
        origin, turn = info.origin.position, info.origin.orientation
        self._recording.log(
            entity,
            rr.GridMap(
                # The first row of an OccupancyGrid is the lowest, that of an image the highest.
                data=colors[cells.reshape(info.height, info.width)[::-1]].tobytes(),
                format=rr.components.ImageFormat(
                    width=info.width, height=info.height, color_model="RGBA", channel_datatype="U8"
                ),
                cell_size=info.resolution,
                translation=(origin.x, origin.y, origin.z),
                quaternion=rr.Quaternion(xyzw=(turn.x, turn.y, turn.z, turn.w)),
                opacity=_GRID_OPACITY,
            ),
        )

    def _free_space(self, entity: str, node: str, message: Any) -> None:
        ranges = np.asarray(message.ranges, np.float32)
        angles = message.angle_min + np.arange(len(ranges)) * message.angle_increment
        edge = np.stack([ranges * np.cos(angles), ranges * np.sin(angles), np.full(len(ranges), _ABOVE_M)], 1)
        edge = edge[np.isfinite(ranges)]
        self._recording.log(entity, rr.LineStrips3D([edge] if len(edge) > 1 else [], colors=[DRIVABLE_BGR[::-1]]))

    def _objects(self, entity: str, node: str, message: Any) -> None:
        boxes = [detection.bbox for detection in message.detections]
        turns = [box.center.orientation for box in boxes]
        names = [self._category(node, detection) for detection in message.detections]
        self._recording.log(
            entity,
            rr.Boxes3D(
                centers=[(box.center.position.x, box.center.position.y, box.center.position.z) for box in boxes],
                sizes=[np.maximum((box.size.x, box.size.y, box.size.z), _FLAT_M) for box in boxes],
                quaternions=[rr.Quaternion(xyzw=(turn.x, turn.y, turn.z, turn.w)) for turn in turns],
                colors=[category.color for category in names],
                labels=[self._named(node, detection) for detection in message.detections],
                fill_mode="transparentfillmajorwireframe",
            ),
        )

    # ---- in both ----

    def _tracks(self, node: str, message: Any) -> None:
        """Where each object's middle is; the view shows the last seconds' too. An arrow is half a second's way."""
        tracks = _points(message)
        # Where they are in metres too, the header names the base frame: of which camera they are, other messages say.
        camera = self._camera_of.get(node, self._camera(message.header))
        if camera in self._shown["cameras"] or node in self._camera_of:
            middles, speeds = _table(tracks, "u", "v") + 0.5, _table(tracks, "du", "dv")
            marks = {"radii": rr.Radius.ui_points(2.5), "show_labels": False}
            entity = f"{VEHICLE}/{camera}/{node}/{TRACKS}"
            self._recording.log(entity, rr.Points2D(middles, class_ids=tracks["id"], **marks))
            self._log_arrows(rr.Arrows2D, entity, middles, speeds, tracks["id"])
            self._shown["in_pixels"][camera, node] = None
        places, speeds = _table(tracks, "x", "y", "z"), _table(tracks, "vx", "vy")
        if np.isfinite(places).any() or node in self._shown["in_metres"]:
            entity = f"{VEHICLE}/{node}/{TRACKS}"
            places[:, 2] += _ABOVE_M
            self._log_arrows(rr.Arrows3D, entity, places, np.pad(speeds, ((0, 0), (0, 1))), tracks["id"])
            self._shown["in_metres"][node] = None

    def _log_arrows(self, archetype: type, entity: str, starts: np.ndarray, speeds: np.ndarray, ids: Any) -> None:
        moves = np.isfinite(speeds).all(1)
        arrows = {"origins": starts[moves], "vectors": speeds[moves] * ARROW_S, "class_ids": ids[moves]}
        radii = rr.Radius.ui_points(1.5)
        self._recording.log(f"{entity}/velocity", archetype(**arrows, radii=radii, show_labels=False))

    # ---- what they have in common ----

    def _at(self, stamp: Any) -> None:
        ns = stamp.sec * 10**9 + stamp.nanosec
        if self._counts_from_1970 is None:
            self._counts_from_1970 = ns >= _EPOCH_NS
        if self._counts_from_1970:
            self._recording.set_time(TIMELINE, timestamp=np.datetime64(ns, "ns"))
        else:
            self._recording.set_time(TIMELINE, duration=np.timedelta64(ns, "ns"))

    def _camera(self, header: Any) -> str:
        return entity_name(header.frame_id) or "camera"

    def _calibrate(self, camera: str, frame_id: str, width: int, height: int) -> None:
        """Says where the camera is, once it is known and when it changes."""
        try:
            calibration = self._calibrations.calibration(frame_id, width, height)
            self.problem = None
        except BadCalibration as error:
            self.problem = error
            return
        if self._calibrated.get(camera) is calibration:
            return
        self._calibrated[camera] = calibration
        lens, mounting = calibration
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

    def _category(self, node: str, detection: Any) -> Category:
        id_ = detection.results[0].hypothesis.class_id if detection.results else ""
        known = self._categories.get(node, {}).get(int(id_)) if id_.isdecimal() else None
        return known or _unnamed(id_)

    def _named(self, node: str, detection: Any) -> str:
        return f"{self._category(node, detection).name} {detection.id}"

    def _log_jpeg(self, entity: str, bgr: np.ndarray) -> None:
        _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        self._recording.log(entity, rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg"))

    def _log_milliseconds(self, node: str, milliseconds: Mapping[str, float]) -> None:
        for stage, value in milliseconds.items():
            self._recording.log(f"{TIMINGS}/{node}/{entity_name(stage)}", rr.Scalars(value))
        if milliseconds:
            self._shown["timed"][node] = None


_Show = Callable[[Entities, str, str, Any], None]
_IN_PIXELS: dict[str, _Show] = {
    "class_map": Entities._class_map,
    "instance_map": Entities._instance_map,
    "drivable_area": Entities._drivable_area,
    "instances": Entities._instances,
    "overlay": Entities._overlay,
}
_IN_METRES: dict[str, _Show] = {
    "drivable_grid": Entities._drivable_grid,
    "free_space": Entities._free_space,
    "objects": Entities._objects,
}
NODE_TOPICS = {LABEL_INFO, TRACKS, *_IN_PIXELS, *_IN_METRES}
"""Names of topics under a node's own that are shown."""


def entity_name(name: str) -> str:
    """A topic's or a frame's name as one part of an entity's path."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name.strip("/"))


def _unnamed(id_: Any) -> Category:
    return known_category(int(id_) if str(id_).isdecimal() else 0, f"class {id_}")


def _pixels(message: Any) -> np.ndarray:
    """(H, W), uint8 or uint16. Raises BadImage."""
    dtype = {"mono8": np.uint8, "8UC1": np.uint8, "16UC1": np.uint16, "mono16": np.uint16}.get(message.encoding)
    if dtype is None:
        raise BadImage("encoding", f"{message.encoding!r}; expected: mono8 or 16UC1")
    data, size = np.frombuffer(message.data, np.uint8), np.dtype(dtype).itemsize
    if message.step < message.width * size or data.size != message.height * message.step or not data.size:
        raise BadImage("step", f"{message.step} bytes do not fit {message.width}x{message.height} in {data.size} bytes")
    rows = np.ascontiguousarray(data.reshape(message.height, message.step)[:, : message.width * size])
    return rows.view(np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")).astype(dtype)


def _points(message: Any) -> np.ndarray:
    """(N,) of TRACK. Raises BadImage."""
    data = np.frombuffer(message.data, np.uint8)
    if message.point_step != TRACK.itemsize or data.size != message.width * TRACK.itemsize:
        raise BadImage(
            "point_step", f"{message.point_step}, {data.size} bytes in all; expected: {TRACK.itemsize} a track"
        )
    return data.view(TRACK)


def _table(tracks: np.ndarray, *names: str) -> np.ndarray:
    """float32 (N, names)."""
    return np.stack([tracks[name] for name in names], 1)


def _closed(outline: np.ndarray) -> np.ndarray:
    points = outline[:, 0] + 0.5
    return np.concatenate([points, points[:1]])
