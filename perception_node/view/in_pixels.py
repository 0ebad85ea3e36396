"""What a node says of an image, as the viewer draws it over the image: a function for each topic.

Each takes the message and what is known of its node, and gives what is drawn, by the name under the topic's entity: ""
is the entity itself. Pixels are as the viewer counts them: the image's corner is (0, 0).
"""

import io
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import rerun as rr
from PIL import Image

from perception_node.errors import BadImage
from perception_node.ground_messages import ARROW_S
from perception_node.image import picture_or_none
from perception_node.labels import known_category
from perception_node.messages import camera_image, stamp_ns
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Category
from perception_node.tracking_messages import TRACK
from perception_node.visualize import DRIVABLE_BGR, instance_color_bgr

Drawing = dict[str, rr.AsComponents]

DRIVABLE_RGB = DRIVABLE_BGR[::-1]
_JPEG_QUALITY = 85
_CLASSES_OPACITY = 0.5
LINE, _THIN_LINE = rr.Radius.ui_points(1.5), rr.Radius.ui_points(0.5)
_NAMED_FROM = 1 / 16
"""Of the image's width. Names of smaller, far objects would hide the scene."""
_TRACK_FIELDS = ("id", "u", "v", "du", "dv", "x", "y", "z", "vx", "vy")
_TRAIL_S = 2.0


@dataclass
class SeenNode:
    """What is known of a node between its messages.

    Attributes:
        categories: by the class map's values; empty before its label_info came.
        width: of the images, pixels; 0 before a map came.
        ground_z: of the base frame, as the grid has it; a LaserScan has none.
        trails: where each track's middle was: nanoseconds, x, y. Of tracks that are there.
    """

    categories: Mapping[int, Category] = field(default_factory=dict)
    width: int = 0
    ground_z: float = 0.0
    trails: dict[int, deque[tuple[int, float, float]]] = field(default_factory=dict)

    def category(self, class_id: int) -> Category:
        return self.categories.get(class_id) or known_category(class_id, f"class {class_id}")

    def category_of(self, detection: Any) -> Category:
        """Of a vision_msgs detection: its first result's."""
        class_id = detection.results[0].hypothesis.class_id if detection.results else ""
        return self.category(int(class_id)) if class_id.isdecimal() else known_category(0, class_id or "?")

    def title(self, detection: Any) -> str:
        return f"{self.category_of(detection).name} {detection.id}"


def image(message: Any) -> tuple[rr.EncodedImage, int, int]:
    """A camera's sensor_msgs/Image or CompressedImage, with its width and height. JPEG stays as it came.

    Raises:
        BadImage: it cannot be used.
    """
    if hasattr(message, "format"):
        data = bytes(message.data)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                if picture.format == "JPEG":
                    return rr.EncodedImage(contents=data, media_type="image/jpeg"), *picture.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            pass  # OpenCV's word counts
    came = camera_image(message)
    return _jpeg(came.bgr()), came.width, came.height


def class_map(message: Any, node: SeenNode) -> Drawing:
    """In the classes' colours; what is unlabelled is transparent. A PNG takes a tenth of the memory of a raw image."""
    palette = np.zeros((256, 3), np.uint8)
    for class_id in node.categories or range(UNLABELLED):
        if class_id < UNLABELLED:
            palette[class_id] = node.category(class_id).color
    pixels = _pixels(message, np.uint8)
    node.width = pixels.shape[1]
    picture = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
    picture.putpalette(palette.tobytes())
    png = io.BytesIO()
    picture.save(png, "png", transparency=UNLABELLED, compress_level=1)
    contents = png.getvalue()
    return {"": rr.EncodedImage(contents=contents, media_type="image/png", opacity=_CLASSES_OPACITY, draw_order=1)}


def confidence(message: Any, node: SeenNode) -> Drawing:
    return {"": _jpeg(_pixels(message, np.uint8))}


def overlay(message: Any, node: SeenNode) -> Drawing:
    return {"": image(message)[0]}


def instance_map(message: Any, node: SeenNode) -> Drawing:
    """Outlines."""
    pixels = _pixels(message, np.uint16)
    node.width = pixels.shape[1]
    lines, ids = [], []
    for id_ in np.unique(pixels[pixels > 0]).tolist():
        mask = (pixels == id_).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        outlines = _outlines(mask[y : y + height, x : x + width], cv2.RETR_EXTERNAL, offset=(x, y))
        lines += outlines
        ids += [id_] * len(outlines)
    return {"": rr.LineStrips2D(lines, colors=instance_colors(ids), radii=LINE)}


def drivable_area(message: Any, node: SeenNode) -> Drawing:
    """Its edge."""
    outlines = _outlines(_pixels(message, np.uint8), cv2.RETR_CCOMP)
    return {"": rr.LineStrips2D(outlines, colors=[DRIVABLE_RGB], radii=LINE)}


def instances(message: Any, node: SeenNode) -> Drawing:
    boxes = [detection.bbox for detection in message.detections]
    return {
        "": rr.Boxes2D(
            centers=[(box.center.position.x, box.center.position.y) for box in boxes],
            sizes=[(box.size_x, box.size_y) for box in boxes],
            colors=colors_of(message.detections),
            labels=[
                node.title(detection) if detection.bbox.size_x >= _NAMED_FROM * node.width else ""
                for detection in message.detections
            ],
            show_labels=True,
            radii=_THIN_LINE,
        )
    }


def tracks(message: Any, node: SeenNode) -> Drawing:
    """The way of each one's middle in the last seconds, and an arrow as long as its way in half a second."""
    points, now = tracks_of(message), stamp_ns(message.header)
    trails = {}
    for id_, u, v in zip(points["id"].tolist(), points["u"].tolist(), points["v"].tolist(), strict=True):
        trail = trails[id_] = node.trails.get(id_, deque())
        if trail and trail[-1][0] >= now:
            trail.clear()  # time ran backwards
        trail.append((now, u, v))
        while now - trail[0][0] > _TRAIL_S * 1e9:
            trail.popleft()
    node.trails = trails
    colors = instance_colors(points["id"])
    speeds = np.stack([points["du"], points["dv"]], 1)
    moves = np.isfinite(speeds).all(1)
    return {
        "": rr.LineStrips2D([[(x, y) for _, x, y in trail] for trail in trails.values()], colors=colors, radii=LINE),
        "velocity": rr.Arrows2D(
            origins=np.stack([points["u"], points["v"]], 1)[moves],
            vectors=speeds[moves] * ARROW_S,
            colors=colors[moves],
            radii=LINE,
        ),
    }


def tracks_of(message: Any) -> np.ndarray:
    """(N,) with the fields of a sensor_msgs/PointCloud2, by their names: older recordings have fewer of TRACK.

    Raises:
        BadImage: it is no ~/tracks.
    """
    fields = {each.name: each for each in message.fields}
    if missing := [name for name in _TRACK_FIELDS if name not in fields]:
        raise BadImage("fields", f"no {', '.join(missing)}; expected: what ~/tracks has")
    for name in _TRACK_FIELDS:
        if fields[name].offset + TRACK[name].itemsize > message.point_step:  # numpy's own check can overflow
            raise BadImage("fields", f"{name} lies beyond point_step, {message.point_step}")
    point = {
        "names": [*_TRACK_FIELDS],
        "formats": [TRACK[name] for name in _TRACK_FIELDS],
        "offsets": [fields[name].offset for name in _TRACK_FIELDS],
        "itemsize": message.point_step,
    }
    try:
        return np.frombuffer(bytes(message.data), np.dtype(point))
    except ValueError as error:
        raise BadImage("point_step", f"{message.point_step}, {len(message.data)} bytes in all: {error}") from error


def instance_colors(ids: Iterable[int]) -> np.ndarray:
    """uint8 (N, 3), RGB: an object's colour is everywhere that of its id."""
    return np.uint8([instance_color_bgr(id_)[::-1] for id_ in ids]).reshape(-1, 3)


def colors_of(detections: Iterable[Any]) -> np.ndarray:
    """The same of vision_msgs' detections; those without an id have 0's. Raises BadImage if an id is no number."""
    ids = [detection.id or "0" for detection in detections]
    for id_ in ids:
        if not re.fullmatch("[0-9]{1,10}", id_):
            raise BadImage("id", f"{id_!r}; expected: an instance's number")
    return instance_colors(map(int, ids))


def legend(categories: Iterable[Category]) -> rr.Points2D:
    """The classes' names and colours, one below the other."""
    categories = list(categories)
    return rr.Points2D(
        [(0, row) for row in range(len(categories))],
        colors=[category.color for category in categories],
        labels=[category.name for category in categories],
        show_labels=True,
        radii=rr.Radius.ui_points(6),
    )


def _pixels(message: Any, dtype: type) -> np.ndarray:
    """(H, W) of the dtype, of a sensor_msgs/Image, or of a CompressedImage that loses nothing.

    Raises:
        BadImage: it is of another type, or damaged.
    """
    data = np.frombuffer(message.data, np.uint8)
    if hasattr(message, "format"):
        pixels = picture_or_none(cv2.imdecode, data, cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim != 2 or pixels.dtype != dtype:
            found = "no PNG" if pixels is None else f"{pixels.dtype} {pixels.shape}"
            raise BadImage("data", f"{found} (format {message.format!r}); expected: a PNG of {np.dtype(dtype)}")
        return pixels
    names = {np.uint8: ("mono8", "8UC1"), np.uint16: ("16UC1", "mono16")}[dtype]
    if message.encoding not in names:
        raise BadImage("encoding", f"{message.encoding!r}; expected: {names[0]}")
    size = np.dtype(dtype).itemsize
    is_empty = not message.width or not data.size
    if is_empty or message.step < message.width * size or data.size != message.height * message.step:
        raise BadImage("step", f"{message.step} bytes do not fit {message.width}x{message.height} in {data.size} bytes")
    rows = np.ascontiguousarray(data.reshape(message.height, message.step)[:, : message.width * size])
    return rows.view(np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")).astype(dtype)


def _outlines(mask: np.ndarray, mode: int, offset: tuple[int, int] = (0, 0)) -> list[np.ndarray]:
    """Closed lines through the middles of the outermost pixels, float (N, 2) each."""
    outlines, _ = cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE, offset=offset)
    return [np.concatenate([outline[:, 0], outline[:1, 0]]) + 0.5 for outline in outlines]


def _jpeg(pixels: np.ndarray) -> rr.EncodedImage:
    _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg")
