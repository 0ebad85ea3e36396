"""Records the camera's and the node's topics to a rosbag2 (mcap), as serialized, until it is interrupted."""

import signal
import sys
import time
from pathlib import Path

import click
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

from perception_node.bags import BagWriter
from perception_node.dds import use_image_profile
from perception_node.errors import UserError
from perception_node.messages import MessageFactory
from perception_node.topics import ALL_OUTPUTS, CAMERA_INFO, DIAGNOSTICS, IMAGE, LABEL_INFO, LABEL_INFO_TYPE, NODE

TOPICS = {
    IMAGE: "sensor_msgs/msg/Image",
    CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
    f"{NODE}/{LABEL_INFO}": LABEL_INFO_TYPE,
    **{f"{NODE}/{name}": output.type for name, output in ALL_OUTPUTS.items()},
}
QUIET_S = 1.0
"""When interrupted, it goes on until nothing has come for so long: what was sent before is on its way."""


class Recorder(Node):
    """Writes what arrives on TOPICS. Messages are logged at the time of their publication, so that the bag itself shows
    how long an answer took."""

    def __init__(self, bag: BagWriter):
        super().__init__("recorder")
        factory = MessageFactory.rclpy()
        for topic, message_type in TOPICS.items():
            if not factory.knows(message_type):
                continue  # nor does the node publish it
            durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.endswith(LABEL_INFO) else DurabilityPolicy.VOLATILE
            name = self.resolve_topic_name(topic)

            def write(cdr: bytes, info: dict, name: str = name, message_type: str = message_type) -> None:
                bag.write(name, message_type, info["source_timestamp"], cdr)
                if name != DIAGNOSTICS:  # which never end
                    self.newest = time.monotonic()

            self.create_subscription(
                factory.message_class(message_type),
                topic,
                write,
                QoSProfile(depth=100, durability=durability),
                raw=True,
            )
        self.newest = time.monotonic()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bag", type=click.Path(path_type=Path))
def main(bag: Path) -> None:
    """Record the camera's and the node's topics to BAG until interrupted (Ctrl-C)."""
    use_image_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    interrupted = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.append(time.monotonic()))
    try:
        with BagWriter(bag) as writer:
            recorder = Recorder(writer)
            while not interrupted or time.monotonic() - max(interrupted[0], recorder.newest) < QUIET_S:
                rclpy.spin_once(recorder, timeout_sec=0.1)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
