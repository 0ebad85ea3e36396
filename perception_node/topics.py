"""The node's topics: one table for the node, the recorder and replay."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from perception_node.calibration_input import Calibration
from perception_node.drivable import drivable_area
from perception_node.image import CameraImage
from perception_node.messages import MessageFactory
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
        tracks: of the frame's instances, in their order; none where they are not tracked.
    """

    header: Any
    image: CameraImage
    frame: PanopticFrame
    taxonomy: Taxonomy
    timer: StageTimer = field(default_factory=StageTimer)
    calibration: Calibration | None = None
    tracks: tuple[Track, ...] = ()

    def tracked(self, tracker: Tracker) -> "Scene":
        """The same with ids that last. Scenes come in the order of their images."""
        stamp = self.header.stamp
        with self.timer("tracking"):
            frame, tracks = tracker(self.frame, stamp.sec * 10**9 + stamp.nanosec)
        return replace(self, frame=frame, tracks=tracks)

    @cached_property
    def drivable(self) -> np.ndarray:
        """uint8 (H, W), 255 drivable, 0 not; see perception_node.drivable."""
        with self.timer("drivable"):
            return drivable_area(self.frame, self.taxonomy)

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
        fill: makes the message.
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


OUTPUTS: dict[str, Output] = {
    "class_map": _image("mono8", lambda scene: scene.frame.class_map),
    "instance_map": _image("16UC1", lambda scene: scene.frame.instance_map),
    "confidence": _image("mono8", lambda scene: scene.frame.confidence),
    "instances": Output(
        "vision_msgs/msg/Detection2DArray", lambda make, scene: make.instances(scene.header, scene.frame, scene.tracks)
    ),
    "tracks": Output(
        "sensor_msgs/msg/PointCloud2",
        lambda make, scene: track_cloud(make, scene.header, scene.frame, scene.tracks),
    ),
    "drivable_area": _image("mono8", lambda scene: scene.drivable),
    "overlay": _image("bgr8", lambda scene: scene.overlay),
}
"""By the topic's name under the node's own. In order of publication."""
