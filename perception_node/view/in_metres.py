"""What a node says in metres, as the viewer draws it in the base frame: a function for each topic, as in in_pixels."""

from typing import Any

import numpy as np
import rerun as rr

from perception_node.errors import BadImage
from perception_node.ground_messages import ARROW_S
from perception_node.view.in_pixels import DRIVABLE_RGB, LINE, Drawing, SeenNode, colors_of, instance_colors, tracks_of

_GRID_OPACITY = 0.7
_GRID_RGBA = {0: (60, 200, 90, 255), 100: (200, 70, 60, 255)}
"""Of cells that are free, and occupied; the unknown are not drawn."""
_FLAT_M = 0.1
"""What is drawn of a box's side that is not seen."""
_ABOVE_GROUND_M = 0.05
"""How high over the ground, and so over the grid, lines on it are drawn."""


def drivable_grid(message: Any, node: SeenNode) -> Drawing:
    """Its cells. Raises BadImage if there are more or fewer than it says."""
    info = message.info
    cells = np.asarray(message.data, np.int8).view(np.uint8)
    if cells.size != info.width * info.height:
        raise BadImage("data", f"{cells.size} cells; expected: {info.width}x{info.height}")
    colors = np.zeros((256, 4), np.uint8)
    for value, rgba in _GRID_RGBA.items():
        colors[value] = rgba
    origin, turn = info.origin.position, info.origin.orientation
    node.ground_z = origin.z
    return {
        "": rr.GridMap(
            # The first row of an OccupancyGrid is the lowest, that of an image the highest.
            data=colors[cells.reshape(info.height, info.width)[::-1]].tobytes(),
            format=rr.components.ImageFormat(
                width=info.width, height=info.height, color_model="RGBA", channel_datatype="U8"
            ),
            cell_size=info.resolution,
            translation=(origin.x, origin.y, origin.z),
            quaternion=rr.Quaternion(xyzw=(turn.x, turn.y, turn.z, turn.w)),
            opacity=_GRID_OPACITY,
        )
    }


def free_space(message: Any, node: SeenNode) -> Drawing:
    """Its edge, in pieces between which no ground is seen."""
    ranges = np.asarray(message.ranges, np.float32)
    angles = message.angle_min + np.arange(len(ranges)) * message.angle_increment
    level = np.full(len(ranges), node.ground_z + _ABOVE_GROUND_M)
    edge = np.stack([ranges * np.cos(angles), ranges * np.sin(angles), level], 1)
    seen = np.isfinite(ranges)
    pieces = np.split(edge, np.flatnonzero(np.diff(seen)) + 1)[0 if seen[:1].any() else 1 :: 2]
    return {"": rr.LineStrips3D([piece for piece in pieces if len(piece) > 1], colors=[DRIVABLE_RGB])}


def objects(message: Any, node: SeenNode) -> Drawing:
    boxes = [detection.bbox for detection in message.detections]
    turns = [box.center.orientation for box in boxes]
    return {
        "": rr.Boxes3D(
            centers=[(box.center.position.x, box.center.position.y, box.center.position.z) for box in boxes],
            sizes=[np.maximum((box.size.x, box.size.y, box.size.z), _FLAT_M) for box in boxes],
            quaternions=[rr.Quaternion(xyzw=(turn.x, turn.y, turn.z, turn.w)) for turn in turns],
            colors=colors_of(message.detections),
            labels=[node.title(detection) for detection in message.detections],
            fill_mode="transparentfillmajorwireframe",
        )
    }


def tracks(message: Any, node: SeenNode) -> Drawing:
    """An arrow as long as an object's way in half a second, where that is known."""
    points = tracks_of(message)
    points = points[np.isfinite(points["vx"]) & np.isfinite(points["x"])]
    level = np.zeros(len(points))
    return {
        "": rr.Arrows3D(
            origins=np.stack([points["x"], points["y"], points["z"] + _ABOVE_GROUND_M], 1),
            vectors=np.stack([points["vx"], points["vy"], level], 1) * ARROW_S,
            colors=instance_colors(points["id"]),
            radii=LINE,
        )
    }
