"""The topics of running nodes and cameras, as they come; needs ROS."""

import sys
import time
from collections import deque
from collections.abc import Iterator

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions

from perception_node.dds import use_image_profile
from perception_node.messages import MessageFactory
from perception_node.topics import LABEL_INFO, TF_STATIC
from perception_node.view.messages import TopicMessage
from perception_node.view.selection import Selection, cameras_of, nodes_of, plain_name

_LOOK_EVERY_S = 1.0
_FOUND_WITHIN_S = 3.0
_LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def live(selection: Selection) -> Iterator[TopicMessage]:
    """Subscribes to what there is, and to what comes, and never ends.

    What nobody else subscribes to nodes compute for this. Where the viewer is slower than they are, messages are lost.
    """
    use_image_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays Python's
    viewer = Node("perception_view")
    make = MessageFactory.rclpy()
    found, subscribed = {}, set()
    came: deque[TopicMessage] = deque()
    said, started, looked = "", time.monotonic(), 0.0

    def subscribe(topic: str, type_: str) -> None:
        if not make.knows(type_):
            print(f"{topic}: left out: {type_.partition('/')[0]} is not installed here", file=sys.stderr)
            return
        is_latched = topic == TF_STATIC or topic.endswith(f"/{LABEL_INFO}")
        viewer.create_subscription(
            make.message_class(type_),
            topic,
            lambda message: came.append(TopicMessage(topic, type_, lambda: message)),
            _LATCHED if is_latched else qos_profile_sensor_data,
        )

    try:
        while True:
            if time.monotonic() - looked > _LOOK_EVERY_S:
                looked = time.monotonic()
                # Only those that were there the last time too: what is sent both ways is not discovered at once.
                before, found = found, dict(viewer.get_topic_names_and_types())
                topics = {name: found[name][0] for name in found.keys() & before if viewer.count_publishers(name)}
                missing = _missing(selection, topics)
                if looked - started > _FOUND_WITHIN_S and missing != said:
                    said = missing
                    print(f"{missing}; is ROS_DOMAIN_ID theirs?" if missing else "found", file=sys.stderr)
                for topic, type_ in {} if missing else selection.among(topics).items():
                    if plain_name(topic) not in subscribed:
                        subscribed.add(plain_name(topic))
                        subscribe(topic, type_)
            rclpy.spin_once(viewer, timeout_sec=0.1)
            while came:
                yield came.popleft()
    finally:
        viewer.destroy_node()
        rclpy.try_shutdown()


def _missing(selection: Selection, topics: dict[str, str]) -> str:
    """What is not there yet and so cannot be shown, in words."""
    if selection.camera and plain_name(selection.camera) not in map(plain_name, topics):
        return f"no topic {selection.camera} yet"
    if selection.node and "/" + selection.node.strip("/") not in nodes_of(topics):
        return f"no node {selection.node} yet"
    return "" if cameras_of(topics) or nodes_of(topics) else "no camera and no perception node yet"
