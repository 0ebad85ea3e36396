"""ROS messages: camera images out of them, perception results to messages.

The messages are the same whichever library makes them: rclpy's classes in a running node, the rosbags library's where
bags are read and written without ROS. Both take the fields as keyword arguments and differ in how bytes are held, so
one MessageFactory fills either.
"""

import array
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from perception_node.compressed import MAX_PIXELS, decode
from perception_node.errors import BadImage
from perception_node.image import CameraImage
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy
from perception_node.tracking import Track


def camera_image(message: Any, max_pixels: int = MAX_PIXELS) -> CameraImage:
    """The image in rclpy's or rosbags' sensor_msgs/Image, whose data is not copied, or CompressedImage.

    Raises:
        BadImage: the encoding is not known, width, height, step and data do not fit each other, it has more pixels, or
            what is compressed cannot be decoded; see perception_node.compressed.
    """
    data = np.frombuffer(message.data, np.uint8)
    if hasattr(message, "format"):
        return decode(data, message.format, max_pixels)
    image = CameraImage(data, message.height, message.width, message.step, message.encoding, bool(message.is_bigendian))
    if image.width * image.height > max_pixels:
        raise BadImage("width", f"{image.width}x{image.height} pixels; {max_pixels} are taken at most")
    return image


def stamp_ns(header: Any) -> int:
    """Of a std_msgs/Header, in nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


class MessageFactory:
    """Fills messages, each with the header of the image that it was made from.

    Args:
        message_class: the class of a message type, e.g. of "sensor_msgs/msg/Image".
        sequence: how the classes hold an array of numbers, e.g. uint8[] or float32[]: made of a contiguous array.
    """

    def __init__(self, message_class: Callable[[str], type], sequence: Callable[[np.ndarray], Any]):
        self.message_class = message_class
        self.sequence = sequence

    @classmethod
    def rclpy(cls) -> "MessageFactory":
        """For a running node; needs ROS."""

        def message_class(name: str) -> type:
            package, _, message = name.split("/")
            return getattr(importlib.import_module(f"{package}.msg"), message)

        def sequence(values: np.ndarray) -> array.array:
            held = array.array(values.dtype.char)
            held.frombytes(values.reshape(-1).view(np.uint8).data)  # a hundred times faster than assigning the array
            return held

        return cls(message_class, sequence)

    @classmethod
    def rosbags(cls, typestore: Any) -> "MessageFactory":
        """For reading and writing bags; needs no ROS. Args: a typestore of perception_node.bags.typestore."""
        return cls(typestore.types.__getitem__, lambda values: values.reshape(-1))

    def knows(self, name: str) -> bool:
        """Whether the message type is there: ROS installations can lack a package, or have an old one."""
        try:
            return self.message_class(name) is not None
        except (ImportError, AttributeError, KeyError):
            return False

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """std_msgs/Header from nanoseconds since the epoch."""
        time = self.message_class("builtin_interfaces/msg/Time")(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self.message_class("std_msgs/msg/Header")(stamp=time, frame_id=frame_id)

    def image(self, header: Any, pixels: np.ndarray, encoding: str) -> Any:
        """sensor_msgs/Image of a (H, W) or (H, W, C) array whose dtype is the encoding's."""
        pixels = np.ascontiguousarray(pixels)
        return self.message_class("sensor_msgs/msg/Image")(
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.nbytes // pixels.shape[0],
            data=self.sequence(pixels.reshape(-1).view(np.uint8)),
        )

    def compressed_image(self, header: Any, pixels: np.ndarray, encoding: str) -> Any:
        """sensor_msgs/CompressedImage as image_transport has it: colours as JPEG; all else as PNG, which loses nothing.

        Args: as of `image`; 8 or 16 bits, one channel or BGR.
        """
        if pixels.ndim == 3:
            codec, options = "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 90]
        else:
            # Labels have long runs of equal pixels: what looks for more takes longer and finds little.
            codec, options = "png", [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        _, data = cv2.imencode(f".{codec}", pixels, options)
        return self.message_class("sensor_msgs/msg/CompressedImage")(
            header=header, format=f"{encoding}; {codec} compressed {encoding}", data=self.sequence(data)
        )

    def label_info(self, header: Any, taxonomy: Taxonomy) -> Any:
        """vision_msgs/LabelInfo: what the values of the class map are called."""
        vision_class = self.message_class("vision_msgs/msg/VisionClass")
        return self.message_class("vision_msgs/msg/LabelInfo")(
            header=header,
            threshold=0.0,
            class_map=[vision_class(class_id=category.id, class_name=category.name) for category in taxonomy],
        )

    def instances(
        self,
        header: Any,
        frame: PanopticFrame,
        tracks: Sequence[Track] = (),
        poses: Mapping[int, Any] = MappingProxyType({}),
    ) -> Any:
        """vision_msgs/Detection2DArray: one detection an instance, its id the pixels' value in the instance map.

        `class_id` is the class map's value as a string, to be looked up in LabelInfo, as vision_msgs wants it. What was
        tracked has a result for each class that it was seen as, the class map's first.

        Args:
            header: the image's.
            frame: with the instances.
            tracks: of the instances, where they are tracked.
            poses: geometry_msgs/PoseWithCovariance of instances, by id, in the header's frame. Where one is not known
                its first variance is -1, as in sensor_msgs/Imu.
        """
        scores = {track.id: track.class_scores for track in tracks}
        return self.message_class("vision_msgs/msg/Detection2DArray")(
            header=header,
            detections=[
                self._detection(
                    header,
                    segment,
                    scores.get(segment.id, ((segment.class_id, segment.score),)),
                    poses.get(segment.id),
                )
                for segment in frame.instances
            ],
        )

    def _detection(self, header: Any, segment: Any, class_scores: Sequence[tuple[int, float]], pose: Any) -> Any:
        x0, y0, x1, y1 = segment.box_xyxy
        center = self.message_class("vision_msgs/msg/Pose2D")(
            position=self.message_class("vision_msgs/msg/Point2D")(x=(x0 + x1) / 2, y=(y0 + y1) / 2), theta=0.0
        )
        if pose is None:
            pose = self.message_class("geometry_msgs/msg/PoseWithCovariance")(
                pose=self.message_class("geometry_msgs/msg/Pose")(
                    position=self.message_class("geometry_msgs/msg/Point")(x=0.0, y=0.0, z=0.0),
                    orientation=self.message_class("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=1.0),
                ),
                covariance=np.array([-1.0] + [0.0] * 35),
            )
        hypotheses = [
            self.message_class("vision_msgs/msg/ObjectHypothesis")(class_id=str(class_id), score=score)
            for class_id, score in class_scores
        ]
        return self.message_class("vision_msgs/msg/Detection2D")(
            header=header,
            results=[
                self.message_class("vision_msgs/msg/ObjectHypothesisWithPose")(hypothesis=hypothesis, pose=pose)
                for hypothesis in hypotheses
            ],
            bbox=self.message_class("vision_msgs/msg/BoundingBox2D")(
                center=center, size_x=float(x1 - x0), size_y=float(y1 - y0)
            ),
            id=str(segment.id),
        )
