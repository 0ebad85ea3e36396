"""The node under load: what frames leave behind, and cameras that have gone mad. In order and number, not in time."""

import gc
from itertools import islice
from types import FrameType

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

from mad_camera import mad_camera_infos, mad_images, mad_pictures  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from test_lifecycle import GREY, MAKE, counts, make_node, send, settle, start  # noqa: E402, F401

from perception_node.device.cpu import CpuDevice  # noqa: E402
from perception_node.topics import ALL_OUTPUTS, Scene  # noqa: E402
from perception_node.worker import Workers  # noqa: E402

pytestmark = pytest.mark.ros
EVERY_OUTPUT = dict.fromkeys(ALL_OUTPUTS, 1)


def camera_info(focal):
    matrix = [focal, 0.0, 4.0, 0.0, focal, 4.0, 0.0, 0.0, 1.0]
    return CameraInfo(width=8, height=8, distortion_model="plumb_bob", d=[0.0] * 5, k=matrix)


@pytest.mark.parametrize(
    ("parameters", "info", "wrong"),
    [
        ({}, None, {}),
        ({}, camera_info(8.0), {}),
        ({"mounting_height": 1.5}, camera_info(float("nan")), {}),
        ({"mounting_height": 1.5}, camera_info(8.0), {}),
        ({}, None, {"step": 7}),
    ],
    ids=["no calibration", "no mounting", "wrong calibration", "in metres", "refused"],
)
def test_an_image_leaves_nothing_to_the_garbage_collector(make_node, parameters, info, wrong):  # noqa: F811
    """It is off while the node runs. What it would have to find is there until a worker rests, images too."""
    node = make_node(**parameters)
    start(node, **EVERY_OUTPUT)
    if info is not None:
        node._calibration.take_camera_info(info)
    message = MAKE.image(MAKE.header(0, "camera"), GREY, "bgr8")
    for field, value in wrong.items():
        setattr(message, field, value)

    def images(n):
        for _ in range(n):
            node._on_image(message)
            settle(node)
        node._publish_diagnostics()

    images(3)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        images(10)
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, (BaseException, FrameType, Scene, np.ndarray))] == []
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


@pytest.mark.parametrize(
    ("transport", "mad", "images"), [("raw", mad_images, 200), ("compressed", mad_pictures, 80)]
)
def test_a_camera_gone_mad_stalls_no_other(make_node, transport, mad, images, capfd):  # noqa: F811
    workers = Workers()
    front = make_node(workers, namespace="front")
    rear = make_node(workers, namespace="rear", image_transport=transport, mounting_height=1.5)
    outputs = start(front)
    start(rear, **EVERY_OUTPUT)
    told = []
    for node in (front, rear):
        node._send = lambda publisher, message, send=node._send: (
            told.append(message.status[0]) if publisher.topic_name == "/diagnostics" else send(publisher, message)
        )
    infos, messages = mad_camera_infos(MAKE), mad(MAKE)
    for stamp in range(images // 2):
        for message in islice(messages, 2):
            rear._calibration.take_camera_info(next(infos))
            rear._on_image(message)
        send(front, stamp)
        settle(front)
    settle(rear)
    assert outputs["class_map"].stamps() == list(range(images // 2))
    assert counts(front) == {"received": images // 2, "processed": images // 2}
    found = counts(rear)
    assert found.pop("received") == images == sum(found.values())
    assert found.keys() >= {"processed", "refused"}
    assert "failed" not in found  # all of it was foreseen

    for node in (front, rear):
        node._publish_diagnostics()
    good, bad = told
    assert (good.name, good.level, good.message) == ("/front/perception_node: perception", b"\0", "ok")
    assert (bad.name, bad.level) == ("/rear/perception_node: perception", b"\1")
    assert "images refused or lost, the last: " in bad.message
    said = capfd.readouterr().err
    assert "image refused: " in said
    assert "Traceback" not in said
    # Not once an image: in rclpy's words, throttled.
    assert said.count("no outputs in metres") < 10


def test_after_too_little_memory_for_an_image_the_next_one_is_perceived(make_node, monkeypatch, capfd):  # noqa: F811
    node = make_node()
    outputs = start(node)

    def refuse(*_):
        raise MemoryError("Unable to allocate 9 GiB")

    large = np.zeros((20, 30, 3), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(CpuDevice, "empty", refuse)
        send(node, 1, large)
        settle(node)
    for stamp, pixels in enumerate((large, GREY), start=2):
        send(node, stamp, pixels)
        settle(node)
    assert outputs["class_map"].stamps() == [2, 3]
    assert [(m.height, m.width) for m in outputs["class_map"].messages.queue] == [(20, 30), (8, 8)]
    assert counts(node) == {"received": 3, "processed": 2, "failed": 1}
    assert "image lost: MemoryError: Unable to allocate 9 GiB" in capfd.readouterr().err
