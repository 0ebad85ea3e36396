"""ROS messages in metres: of the drivable grid, the free space, the pixels' points and where objects stand.

What is on the ground is at z = ground_z of the base frame. A LaserScan has no z: it is in the frame's own plane, z = 0.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from perception_node.ground import BLOCKED, BODY, DOUBTFUL, FOOT, HIDDEN, DrivableGrid, FreeSpace
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting
from perception_node.objects import GroundedObject
from perception_node.taxonomy import Taxonomy
from perception_node.tracking import Track

FLOAT32 = 7
"""sensor_msgs/PointField.FLOAT32."""
ARROW, CUBE, LINE_STRIP, TEXT_VIEW_FACING, ADD, DELETE_ALL = 0, 1, 4, 9, 0, 3
"""Of visualization_msgs/Marker."""
LIMIT, OTHER_GROUND, OBSTACLE, UNSURE = range(4)
"""Intensities of the free space: what is there. LIMIT: nothing, but it cannot be seen farther."""
_INTENSITIES = {BLOCKED: OTHER_GROUND, FOOT: OBSTACLE, BODY: OBSTACLE, HIDDEN: OBSTACLE, DOUBTFUL: UNSURE}
UNKNOWN_ROTATION = np.pi**2
"""Variance of an angle that could be any, square radians."""
MARKER_DEPTH_M, TEXT_M, LINE_M, ARROW_M = 0.1, 0.5, 0.08, 0.15
ARROW_S = 0.5
"""Arrows of speeds are as long as the way in this time."""


def occupancy_grid(make: MessageFactory, header: Any, grid: DrivableGrid, ground_z: float = 0.0) -> Any:
    """nav_msgs/OccupancyGrid."""
    height, width = grid.cells.shape
    info = make.message_class("nav_msgs/msg/MapMetaData")(
        map_load_time=header.stamp,
        resolution=grid.resolution,
        width=width,
        height=height,
        origin=_pose(make, *grid.origin_xy, ground_z),
    )
    return make.message_class("nav_msgs/msg/OccupancyGrid")(header=header, info=info, data=make.sequence(grid.cells))


def laser_scan(make: MessageFactory, header: Any, free: FreeSpace) -> Any:
    """sensor_msgs/LaserScan: the ranges are those of the free space, the intensities say what ends it."""
    intensities = np.zeros(256, np.float32)
    intensities[list(_INTENSITIES)] = list(_INTENSITIES.values())
    first, last = float(free.angles[0]), float(free.angles[-1])
    return make.message_class("sensor_msgs/msg/LaserScan")(
        header=header,
        angle_min=first,
        angle_max=last,
        angle_increment=(last - first) / max(1, len(free.angles) - 1),
        time_increment=0.0,
        scan_time=0.0,
        range_min=0.0,
        range_max=free.range_max,
        ranges=make.sequence(free.ranges),
        intensities=make.sequence(intensities[free.ends]),
    )


def point_cloud(make: MessageFactory, header: Any, points: np.ndarray) -> Any:
    """sensor_msgs/PointCloud2 of float32 (H, W, 3), row by row as the image; NaN where there is none."""
    height, width, _ = points.shape
    field = make.message_class("sensor_msgs/msg/PointField")
    return make.message_class("sensor_msgs/msg/PointCloud2")(
        header=header,
        height=height,
        width=width,
        fields=[field(name=name, offset=4 * i, datatype=FLOAT32, count=1) for i, name in enumerate("xyz")],
        is_bigendian=False,
        point_step=12,
        row_step=12 * width,
        data=make.sequence(points.reshape(-1).view(np.uint8)),
        is_dense=False,
    )


def pose_in_camera(make: MessageFactory, found: GroundedObject, mounting: Mounting) -> Any:
    """geometry_msgs/PoseWithCovariance of an object's foot point in the optical frame."""
    rotation = mounting.rotation
    position = (np.array([*found.position_xy, mounting.ground_z]) - mounting.translation) @ rotation
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = found.covariance
    return _pose_with_covariance(make, position, rotation.T @ covariance @ rotation)


def detections_3d(
    make: MessageFactory, header: Any, objects: Iterable[GroundedObject], ground_z: float = 0.0
) -> Any:
    """vision_msgs/Detection3DArray: ids as in the instance map; results[0].pose is the foot point, with covariance.

    The box is what is seen of the object, upright and across the line of sight; its depth is not seen: 0.
    """
    return make.message_class("vision_msgs/msg/Detection3DArray")(
        header=header, detections=[_detection_3d(make, header, found, ground_z) for found in objects]
    )


def markers(
    make: MessageFactory,
    header: Any,
    objects: Iterable[GroundedObject],
    tracks: Iterable[Track],
    free: FreeSpace,
    taxonomy: Taxonomy,
    ground_z: float = 0.0,
) -> Any:
    """visualization_msgs/MarkerArray: a box, a label and an arrow for each object, a line around the free space."""
    point, at_origin, white = make.message_class("geometry_msgs/msg/Point"), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)
    moving = {track.id: track for track in tracks if track.velocity_m_s}
    # Those of the last image go.
    shown = [_marker(make, header, "all", 0, CUBE, DELETE_ALL, _pose(make, 0.0, 0.0, 0.0), (0, 0, 0), (0, 0, 0, 0))]
    for found in objects:
        category, id_ = taxonomy[found.segment.class_id], found.segment.id
        color = (*(channel / 255 for channel in category.color), 0.7)
        size = MARKER_DEPTH_M, max(MARKER_DEPTH_M, found.width), max(MARKER_DEPTH_M, found.height)
        shown.append(_marker(make, header, "objects", id_, CUBE, ADD, _box_pose(make, found, ground_z), size, color))
        x, y = found.position_xy
        text = f"{category.name} {id_}: {found.distance:.1f} ± {found.sigma:.1f} m"
        if id_ in moving:
            text += f", {np.hypot(*moving[id_].velocity_m_s):.1f} m/s"
        above = _pose(make, x, y, ground_z + found.height + TEXT_M)
        shown.append(_marker(make, header, "labels", id_, TEXT_VIEW_FACING, ADD, above, (0, 0, TEXT_M), white, text))
    for id_, track in moving.items():
        (x, y), (vx, vy) = track.position_m, track.velocity_m_s
        way = [point(x=x, y=y, z=ground_z), point(x=x + ARROW_S * vx, y=y + ARROW_S * vy, z=ground_z)]
        arrow = header, "velocities", id_, ARROW, ADD, _pose(make, *at_origin), (ARROW_M, 2 * ARROW_M, 0), white
        shown.append(_marker(make, *arrow, points=way))
    seen = np.isfinite(free.ranges)
    edge = free.ranges[seen, None] * np.stack([np.cos(free.angles[seen]), np.sin(free.angles[seen])], 1)
    if len(edge) > 1:
        green = 0.2, 0.9, 0.3, 1.0
        points = [point(x=x, y=y, z=ground_z) for x, y in edge.tolist()]
        line = header, "free_space", 0, LINE_STRIP, ADD, _pose(make, *at_origin), (LINE_M, 0, 0), green
        shown.append(_marker(make, *line, points=points))
    return make.message_class("visualization_msgs/msg/MarkerArray")(markers=shown)


def _detection_3d(make: MessageFactory, header: Any, found: GroundedObject, ground_z: float) -> Any:
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = found.covariance
    hypothesis = make.message_class("vision_msgs/msg/ObjectHypothesis")(
        class_id=str(found.segment.class_id), score=found.segment.score
    )
    result = make.message_class("vision_msgs/msg/ObjectHypothesisWithPose")(
        hypothesis=hypothesis, pose=_pose_with_covariance(make, (*found.position_xy, ground_z), covariance)
    )
    size = make.message_class("geometry_msgs/msg/Vector3")(x=0.0, y=found.width, z=found.height)
    return make.message_class("vision_msgs/msg/Detection3D")(
        header=header,
        results=[result],
        bbox=make.message_class("vision_msgs/msg/BoundingBox3D")(center=_box_pose(make, found, ground_z), size=size),
        id=str(found.segment.id),
    )


def _box_pose(make: MessageFactory, found: GroundedObject, ground_z: float) -> Any:
    """The middle of what is seen of the object, turned so that x is the line of sight."""
    return _pose(make, *found.middle_xy, ground_z + found.height / 2, found.bearing)


def _pose(make: MessageFactory, x: float, y: float, z: float, yaw: float = 0.0) -> Any:
    return make.message_class("geometry_msgs/msg/Pose")(
        position=make.message_class("geometry_msgs/msg/Point")(x=float(x), y=float(y), z=float(z)),
        orientation=make.message_class("geometry_msgs/msg/Quaternion")(
            x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2))
        ),
    )


def _pose_with_covariance(make: MessageFactory, position: Any, covariance: np.ndarray) -> Any:
    """Of a position; the orientation is not known."""
    full = np.diag([0.0] * 3 + [UNKNOWN_ROTATION] * 3)
    full[:3, :3] = covariance
    return make.message_class("geometry_msgs/msg/PoseWithCovariance")(
        pose=_pose(make, *position), covariance=full.ravel()
    )


def _marker(
    make: MessageFactory,
    header: Any,
    namespace: str,
    id_: int,
    type_: int,
    action: int,
    pose: Any,
    scale: tuple[float, ...],
    color: tuple[float, ...],
    text: str = "",
    points: Any = (),
) -> Any:
    nothing = make.sequence(np.zeros(0, np.uint8))
    vector, rgba = make.message_class("geometry_msgs/msg/Vector3"), make.message_class("std_msgs/msg/ColorRGBA")
    fields: Mapping[str, Any] = {
        "header": header,
        "ns": namespace,
        "id": id_,
        "type": type_,
        "action": action,
        "pose": pose,
        "scale": vector(**dict(zip("xyz", map(float, scale), strict=True))),
        "color": rgba(**dict(zip("rgba", map(float, color), strict=True))),
        "lifetime": make.message_class("builtin_interfaces/msg/Duration")(sec=0, nanosec=0),
        "frame_locked": False,
        "points": list(points),
        "colors": [],
        "texture_resource": "",
        "texture": make.message_class("sensor_msgs/msg/CompressedImage")(header=header, format="", data=nothing),
        "uv_coordinates": [],
        "text": text,
        "mesh_resource": "",
        "mesh_file": make.message_class("visualization_msgs/msg/MeshFile")(filename="", data=nothing),
        "mesh_use_embedded_materials": False,
    }
    return make.message_class("visualization_msgs/msg/Marker")(**fields)
