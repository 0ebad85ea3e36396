"""The view of running nodes and cameras, which are processes of their own, spoken to through real DDS."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

rr = pytest.importorskip("rerun", reason="rerun-sdk is not installed: make setup-view")
rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

import cv2  # noqa: E402
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from street import CAMVID, MAGENTA_BGR, columns, street_messages  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from perception_node.calibration_input import CalibrationOptions  # noqa: E402
from perception_node.dds import use_image_profile  # noqa: E402
from perception_node.messages import MessageFactory  # noqa: E402
from perception_node.topics import TF_STATIC  # noqa: E402
from perception_node.view.entities import Entities  # noqa: E402
from perception_node.view.live import live  # noqa: E402
from perception_node.view.selection import Selection  # noqa: E402

pytestmark = pytest.mark.ros
TIMEOUT_S = 25
LATCHED = {TF_STATIC, "/perception_node/label_info"}
IMAGE, NODE = "vehicle/camera/image", "vehicle/camera/perception_node"


def publish(transport: str) -> None:
    """What this file does as a program: a camera and a node, until it is interrupted. Latched messages go out once."""
    use_image_profile()
    rclpy.init()
    node, make = rclpy.create_node("street"), MessageFactory.rclpy()
    ways = {"raw": [False], "compressed": [True], "both": [False, True]}[transport]
    frame = [item for compressed in ways for item in street_messages(1, make, compressed)]
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publishers = {}
    for topic, type_, message in [*frame, (TF_STATIC, "tf2_msgs/msg/TFMessage", mounting())]:
        if topic not in publishers:
            qos = latched if topic in LATCHED else 5
            publishers[topic] = node.create_publisher(make.message_class(type_), topic, qos)
            if topic in LATCHED:
                publishers[topic].publish(message)
    print("published", flush=True)
    while True:
        for topic, _, message in frame:
            if topic not in LATCHED:
                publishers[topic].publish(message)
        rclpy.spin_once(node, timeout_sec=0.05)


def mounting() -> TFMessage:
    """The camera is 1.5 m above the ground and looks ahead."""
    transform = Transform(translation=Vector3(z=1.5), rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5))
    stamped = TransformStamped(child_frame_id="camera", transform=transform)
    stamped.header.frame_id = "base_link"
    return TFMessage(transforms=[stamped])


@contextmanager
def street(transport: str):
    command = [sys.executable, __file__, transport]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "published\n"
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("transport", "selection", "seen"),
    [
        ("raw", Selection(), "raw"),
        ("compressed", Selection(), "compressed"),
        ("both", Selection(), "raw"),
        ("both", Selection("/camera/image_raw", "perception_node", compressed=True), "compressed"),
    ],
    ids=["raw", "compressed", "both", "both, compressed"],
)
def test_a_running_node_and_its_camera_are_shown(transport, selection, seen, tmp_path: Path):
    rrd, recording = tmp_path / "live.rrd", rr.RecordingStream("test")
    recording.save(rrd)
    entities, end = Entities(recording, CalibrationOptions()), time.monotonic() + TIMEOUT_S
    sent = {topic for topic, _, _ in street_messages(1, MessageFactory.rclpy(), seen == "compressed")} | {TF_STATIC}
    came, after_latched = set(), set()
    with street(transport):
        messages = live(selection)
        while not (came == sent and after_latched == sent - LATCHED and "is calibrated" in entities.no_metres):
            assert time.monotonic() < end, sent - after_latched
            topic, type_, read = next(messages)
            entities.take(topic, type_, read())
            came.add(topic)
            after_latched = after_latched | {topic} if came >= LATCHED and topic not in LATCHED else set()
            assert came <= sent
        messages.close()
    recording.disconnect()

    found = columns(rrd)
    image = cv2.imdecode(np.asarray(found[IMAGE, "blob"][0][0], np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(image.astype(int) - MAGENTA_BGR).max() < 6
    assert found[f"{NODE}/instances", "labels"][-1] == ["car 7"]
    assert found["legend/perception_node", "labels"] == [[category.name for category in CAMVID]]
    assert found["vehicle/camera", "translation"][-1] == [pytest.approx([0, 0, 1.5])]
    assert found["vehicle/perception_node/drivable_grid", "cell_size"][0] == [2.0]


def test_interrupted_it_has_saved_what_came(tmp_path: Path):
    rrd, part = tmp_path / "live.rrd", tmp_path / ".live.rrd.part"
    command = [sys.executable, "-m", "perception_node.cli", "view", "--save", str(rrd)]
    with street("raw"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + TIMEOUT_S
        while not (part.is_file() and part.stat().st_size > 300_000):
            assert process.poll() is None
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert len(columns(rrd)[IMAGE, "blob"]) > 1
    assert not part.exists()


def test_what_is_not_there_yet_is_said(tmp_path: Path):
    save = ["--save", str(tmp_path / "live.rrd")]
    command = [sys.executable, "-m", "perception_node.cli", "view", *save, "--topic", "/nope"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "no topic /nope yet; is ROS_DOMAIN_ID theirs?\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)


if __name__ == "__main__":
    publish(sys.argv[1])
