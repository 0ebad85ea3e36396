"""The node's topics: one table for the node, the recorder and replay."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from perception_node.calibration_input import Calibration
from perception_node.drivable import connected_surface, without_margin
from perception_node.ground import DrivableGrid, FreeSpace, Grounds, GroundSight
from perception_node.ground_messages import (
    detections_3d,
    laser_scan,
    markers,
    occupancy_grid,
    point_cloud,
    pose_in_camera,
)
from perception_node.image import CameraImage
from perception_node.messages import MessageFactory
from perception_node.objects import GroundedObject, grounded_objects, positions_to_follow
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy
from perception_node.timing import StageTimer
from perception_node.tracking import Track, Tracker
from perception_node.tracking_messages import track_cloud
from perception_node.visualize import draw_overlay

NODE = "perception_node"
IMAGE, CAMERA_INFO = "image", "camera_info"
TF, TF_STATIC = "/tf", "/tf_static"
LABEL_INFO, LABEL_INFO_TYPE = "label_info", "vision_msgs/msg/LabelInfo"
DIAGNOSTICS = "/diagnostics"


def camera_info_beside(image_topic: str) -> str:
    """By convention: /front/camera_info of /front/image_raw[/compressed]."""
    return f"{image_topic.removesuffix('/compressed').rpartition('/')[0]}/{CAMERA_INFO}"


@dataclass(frozen=True)
class Scene:
    """One image and all that was perceived in it. What not every topic needs is computed when first asked for.

    Attributes:
        header: the image's std_msgs/Header.
        image: as it came from the camera.
        frame: its segmentation.
        taxonomy: of the frame's classes.
        timer: of the stages that are computed here.
        calibration: of the camera that took the image; None where there is none, or a wrong one.
        grounds: what makes metres of it; None where nothing is wanted in metres.
        tracks: of the frame's instances, in their order; none where they are not tracked.
        tracker: that follows them.
    """

    header: Any
    image: CameraImage
    frame: PanopticFrame
    taxonomy: Taxonomy
    timer: StageTimer = field(default_factory=StageTimer)
    calibration: Calibration | None = None
    grounds: Grounds | None = None
    tracks: tuple[Track, ...] = ()
    tracker: Tracker | None = None

    def tracked(self, tracker: Tracker) -> "Scene":
        """The same with ids that last. Scenes come in the order of their images."""
        stamp = self.header.stamp
        with self.timer("tracking"):
            frame, tracks = tracker(self.frame, stamp.sec * 10**9 + stamp.nanosec)
        return replace(self, frame=frame, tracks=tracks, tracker=tracker)

    @cached_property
    def connected(self) -> np.ndarray:
        """uint8 (H, W), drivable ground that is connected to that ahead; see perception_node.drivable."""
        with self.timer("drivable"):
            return connected_surface(self.frame, self.taxonomy)

    @cached_property
    def drivable(self) -> np.ndarray:
        """uint8 (H, W), 255 drivable, 0 not: without the margin around instances."""
        return without_margin(self.connected, self.frame)

    @cached_property
    def ground(self) -> GroundSight | None:
        """What is seen of the ground, in metres; None without a calibration that shows some."""
        if self.calibration is None or self.grounds is None:
            return None
        connected = self.connected
        with self.timer("ground"):
            ground = self.grounds(self.calibration)
            return ground and ground(self.frame, connected)

    @property
    def ground_z(self) -> float:
        """With a calibration; see perception_node.mounting."""
        return self.calibration.mounting.ground_z

    @cached_property
    def grid(self) -> DrivableGrid:
        """With a ground."""
        with self.timer("grid"):
            return self.ground.grid

    @cached_property
    def free_space(self) -> FreeSpace:
        """With a ground."""
        with self.timer("free_space"):
            return self.ground.free_space

    @cached_property
    def points(self) -> np.ndarray:
        """float32 (H, W, 3), with a ground."""
        with self.timer("points"):
            return self.ground.points

    @cached_property
    def objects(self) -> dict[int, GroundedObject]:
        """Instances that stand on ground that is seen, by id; none without a ground."""
        if self.ground is None:
            return {}
        with self.timer("objects"):
            return grounded_objects(self.ground.ground, self.frame, self.ground.sights)

    @cached_property
    def located(self) -> tuple[Track, ...]:
        """The tracks with what is known of them in metres. To be asked for before the next image is tracked."""
        if self.tracker is None or self.ground is None:
            return self.tracks
        positions = positions_to_follow(self.objects, self.image.width)
        with self.timer("locate"):
            return self.tracker.locate(positions)

    @cached_property
    def overlay(self) -> np.ndarray:
        """uint8 (H, W, 3), BGR; see perception_node.visualize."""
        with self.timer("overlay"):
            return draw_overlay(self.image.bgr(), self.frame, self.drivable, self.taxonomy)


@dataclass(frozen=True, slots=True)
class Output:
    """A topic on which something is published for every image.

    Attributes:
        type: of its messages.
        fill: makes the message; None if there is nothing to say: without a calibration nothing in metres.
        compressed: of an image topic, the one with the same image compressed, `/compressed` under it.
    """

    type: str
    fill: Callable[[MessageFactory, Scene], Any]
    compressed: "Output | None" = None


def _image(encoding: str, pixels: Callable[[Scene], np.ndarray]) -> Output:
    """The topic of an image."""
    compressed = Output(
        "sensor_msgs/msg/CompressedImage",
        lambda make, scene: make.compressed_image(scene.header, pixels(scene), encoding),
    )
    return Output(
        "sensor_msgs/msg/Image", lambda make, scene: make.image(scene.header, pixels(scene), encoding), compressed
    )


def _instances(make: MessageFactory, scene: Scene) -> Any:
    poses = {
        id_: pose_in_camera(make, found, scene.calibration.mounting) for id_, found in scene.objects.items()
    }
    return make.instances(scene.header, scene.frame, scene.tracks, poses)


def _in_metres(fill: Callable[[MessageFactory, Any, Scene], Any]) -> Callable[[MessageFactory, Scene], Any]:
    """With a header in the base frame, if there is a ground."""

    def fill_or_none(make: MessageFactory, scene: Scene) -> Any:
        return None if scene.ground is None else fill(make, _base_header(make, scene), scene)

    return fill_or_none


def _base_header(make: MessageFactory, scene: Scene) -> Any:
    return make.message_class("std_msgs/msg/Header")(stamp=scene.header.stamp, frame_id=scene.grounds.base_frame)


def _tracks(make: MessageFactory, scene: Scene) -> Any:
    """In the base frame where x, y, z can be known, for that is what its readers draw and transform."""
    if scene.ground is None:
        return track_cloud(make, scene.header, scene.frame, scene.tracks)
    return track_cloud(make, _base_header(make, scene), scene.frame, scene.located, scene.ground_z)


OUTPUTS: dict[str, Output] = {
    "class_map": _image("mono8", lambda scene: scene.frame.class_map),
    "instance_map": _image("16UC1", lambda scene: scene.frame.instance_map),
    "confidence": _image("mono8", lambda scene: scene.frame.confidence),
    "instances": Output("vision_msgs/msg/Detection2DArray", _instances),
    "tracks": Output("sensor_msgs/msg/PointCloud2", _tracks),
    "drivable_area": _image("mono8", lambda scene: scene.drivable),
    "overlay": _image("bgr8", lambda scene: scene.overlay),
}
"""By the topic's name under the node's own. In order of publication."""

GROUND_OUTPUTS: dict[str, Output] = {
    "drivable_grid": Output(
        "nav_msgs/msg/OccupancyGrid",
        _in_metres(lambda make, header, s: occupancy_grid(make, header, s.grid, s.ground_z)),
    ),
    "free_space": Output(
        "sensor_msgs/msg/LaserScan", _in_metres(lambda make, header, s: laser_scan(make, header, s.free_space))
    ),
    "points": Output(
        "sensor_msgs/msg/PointCloud2", _in_metres(lambda make, header, s: point_cloud(make, header, s.points))
    ),
    "objects": Output(
        "vision_msgs/msg/Detection3DArray",
        _in_metres(lambda make, header, s: detections_3d(make, header, s.objects.values(), s.ground_z)),
    ),
    "markers": Output(
        "visualization_msgs/msg/MarkerArray",
        _in_metres(
            lambda make, header, s: markers(
                make, header, s.objects.values(), s.located, s.free_space, s.taxonomy, s.ground_z
            )
        ),
    ),
}
"""In metres, in the base frame: for images whose camera is calibrated, and sees ground. After the others."""

ALL_OUTPUTS = OUTPUTS | GROUND_OUTPUTS
