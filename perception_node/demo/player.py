"""Publishes footage as a camera would: image and, where a bag has it, camera_info."""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from tqdm import tqdm
from vision_msgs.msg import Detection2DArray

from perception_node.bags import typestore
from perception_node.coco import write_json
from perception_node.dds import use_image_profile
from perception_node.demo.options import FPS, RATE
from perception_node.diagnostics import DROPPED
from perception_node.errors import BadImage, UserError
from perception_node.sources import Source, open_source
from perception_node.topics import CAMERA_INFO, DIAGNOSTICS, IMAGE, NODE, TF, TF_STATIC

START_TIMEOUT_S = 60.0


class Player(Node):
    """A camera made of footage.

    Args:
        subscribers: how many must listen to the images before the first is sent.
        answer_timeout_s: how long to wait for the node's answer, where it is waited for.
    """

    def __init__(self, subscribers: int, answer_timeout_s: float):
        super().__init__("player")
        self._subscribers, self._answer_timeout_s = subscribers, answer_timeout_s
        self._image = self.create_publisher(Image, IMAGE, QoSProfile(depth=10))
        self._camera_info = self.create_publisher(CameraInfo, CAMERA_INFO, QoSProfile(depth=10))
        self._transforms = self._transform_publishers()
        self._answered: tuple[int, int] | None = None
        self._turned_down = 0
        self._idle_at = 0
        self._is_seen = False
        self.create_subscription(Detection2DArray, f"{NODE}/instances", self._on_instances, 10)
        self.create_subscription(DiagnosticArray, DIAGNOSTICS, self._on_diagnostics, 10)

    def play(self, source: Source, rate: float, wait: bool) -> dict[str, int]:
        """Sends all of the footage.

        Args:
            source: the footage.
            rate: of the recorded pace; 1 is real time.
            wait: send an image when the last one is answered, at whatever pace that gives.

        Returns:
            sent: images; unanswered: of those waited for, how many got no answer in time.
        """
        # Both sides must have found each other: a best-effort image sent before the node knows of us is lost.
        self._spin_until(
            lambda: self._image.get_subscription_count() >= self._subscribers and self._is_seen,
            START_TIMEOUT_S,
            f"{NODE} and {self._subscribers} subscribers of {self._image.topic_name}",
        )
        for transforms in source.static_transforms():
            self._publish_transforms(TF_STATIC, transforms)
        sent = unanswered = 0
        first_ns, start = None, time.monotonic()
        with tqdm(total=source.n_frames or None, desc="play", unit="frame") as progress:
            for item in source:
                first_ns = item.time_ns if first_ns is None else first_ns
                if not wait:
                    self._spin_for(start + (item.time_ns - first_ns) / 1e9 / rate - time.monotonic())
                if item.topic == TF:
                    with contextlib.suppress(BadImage):  # a damaged one: another comes
                        self._publish_transforms(TF, item.message)
                    continue
                publisher = self._image if item.topic == IMAGE else self._camera_info
                self._answered = None  # stamps may repeat
                publisher.publish(bytes(typestore().serialize_cdr(item.message, item.message.__msgtype__)))
                if item.topic != IMAGE:
                    continue
                sent += 1
                progress.update()
                if wait and not self._wait_for_answer(item.message.header.stamp):
                    unanswered += 1
                    progress.write(f"{item.name}: no answer in {self._answer_timeout_s} s", file=sys.stderr)
        # Best-effort images may be lost on the way; what has arrived is worked through when the node says it is idle.
        end = self.get_clock().now().nanoseconds
        self._spin_until(lambda: self._idle_at > end, START_TIMEOUT_S, f"{NODE} to finish")
        return {"sent": sent, "unanswered": unanswered}

    def _transform_publishers(self) -> dict[str, Any]:
        """By topic; none where tf2_msgs is missing, for then the node cannot read them either."""
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return {}
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return {
            TF_STATIC: self.create_publisher(TFMessage, TF_STATIC, latched),
            TF: self.create_publisher(TFMessage, TF, QoSProfile(depth=100)),
        }

    def _publish_transforms(self, topic: str, message: Any) -> None:
        if topic in self._transforms:
            self._transforms[topic].publish(bytes(typestore().serialize_cdr(message, message.__msgtype__)))

    def _wait_for_answer(self, stamp: Any) -> bool:
        """Whether instances with this stamp, or word that an image was turned down, came in time."""
        turned_down = self._turned_down
        return self._spin_while(
            lambda: self._answered != (stamp.sec, stamp.nanosec) and self._turned_down == turned_down,
            self._answer_timeout_s,
        )

    def _on_instances(self, message: Detection2DArray) -> None:
        self._answered = message.header.stamp.sec, message.header.stamp.nanosec

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            if "waiting" not in values:
                continue  # somebody else's
            self._is_seen = int(values["cameras"]) > 0
            self._turned_down = sum(int(values[reason]) for reason in DROPPED)
            if values["waiting"] == "0":
                self._idle_at = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec

    def _spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def _spin_while(self, condition: Any, timeout_s: float) -> bool:
        """Spins as long as the condition holds; whether it ended in time."""
        end = time.monotonic() + timeout_s
        while condition():
            if time.monotonic() > end:
                return False
            rclpy.spin_once(self, timeout_sec=0.1)
        return True

    def _spin_until(self, condition: Any, timeout_s: float, what: str) -> None:
        if not self._spin_while(lambda: not condition(), timeout_s):
            raise UserError(f"waited {timeout_s:.0f} s for {what}; is the node running, in the same ROS domain?")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--rate", default=1.0, show_default=True, type=RATE, help="Of the recorded pace.")
@click.option("--wait", is_flag=True, help="Wait for the answer to each image before the next is sent.")
@click.option("--answer-timeout", default=30.0, show_default=True, help="Seconds to wait for one answer.")
@click.option("--topic", help="Image topic of a bag that has several.")
@click.option("--fps", type=FPS, help="Frame rate of footage without stamps.")
@click.option("--subscribers", default=1, show_default=True, help="Start when so many listen to the images.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON file to write: images sent, unanswered.")
def main(
    source: Path,
    rate: float,
    wait: bool,
    answer_timeout: float,
    topic: str | None,
    fps: float | None,
    subscribers: int,
    report: Path | None,
) -> None:
    """Publish SOURCE (a video, a folder of images, a rosbag2) on `image`, and `camera_info` where a bag has it."""
    use_image_profile()
    signal.signal(signal.SIGINT, lambda *_: None)  # after which rclpy's own handler ends it, however often one comes
    rclpy.init()
    try:
        footage = open_source(source, topic, fps, start_ns=time.time_ns())
        result = Player(subscribers, answer_timeout).play(footage, rate, wait)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    except Exception:
        if rclpy.ok():
            raise
        return  # Ctrl-C: whatever was under way lacks its context
    finally:
        rclpy.try_shutdown()
    if report:
        write_json(report, result)
    else:
        click.echo(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main(remove_ros_args(sys.argv)[1:]))
