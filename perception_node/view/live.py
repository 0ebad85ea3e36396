"""The topics of running nodes, as they come, as entities; needs ROS."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

from perception_node.dds import use_image_profile
from perception_node.errors import BadImage
from perception_node.messages import MessageFactory
from perception_node.topics import LABEL_INFO, TF_STATIC
from perception_node.view.entities import Entities
from perception_node.view.messages import cameras_of, nodes_of, take, wanted

_LOOK_EVERY_S = 1.0
_LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def show_live(entities: Entities, camera: str | None, node: str | None) -> Iterator[None]:
    """Subscribes to what there is, and to what comes, and shows it until interrupted; one message a step, or none.

    What nobody else subscribes to is computed for this. The overlay is not subscribed to: the viewer lays maps over the
    image by itself.
    """
    use_image_profile()
    rclpy.init()
    viewer = Node("perception_view")
    subscribed: set[str] = set()
    said = False
    looked = 0.0

    def show(topic: str, message_type: str, message: Any) -> None:
        try:
            take(entities, topic, message_type, message)
        except BadImage as error:
            print(f"{topic}: left out: {error}", file=sys.stderr)

    try:
        while True:
            if time.monotonic() - looked > _LOOK_EVERY_S:
                looked = time.monotonic()
                topics = {name: types[0] for name, types in viewer.get_topic_names_and_types()}
                if (camera is None or camera in topics) and (node is None or "/" + node.strip("/") in nodes_of(topics)):
                    for topic, message_type in wanted(topics, camera, node).items():
                        is_known = topic in subscribed or message_type.endswith("CompressedImage")
                        if is_known or topic.endswith("/overlay"):
                            continue
                        subscribed.add(topic)
                        message_class = MessageFactory.rclpy().message_class(message_type)
                        is_latched = topic == TF_STATIC or topic.endswith(f"/{LABEL_INFO}")
                        qos = _LATCHED if is_latched else qos_profile_sensor_data
                        viewer.create_subscription(message_class, topic, partial(show, topic, message_type), qos)
                if not said and not (cameras_of(topics) or nodes_of(topics)):
                    print("no camera and no perception node yet; is ROS_DOMAIN_ID theirs?", file=sys.stderr)
                    said = True
            rclpy.spin_once(viewer, timeout_sec=0.1)
            yield
    finally:
        viewer.destroy_node()
        rclpy.try_shutdown()
