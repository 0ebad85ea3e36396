"""What the node makes of calibrations: right, wrong, late, changed, or none."""

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from test_camera import camera_info  # noqa: E402
from test_lifecycle import (  # noqa: E402, F401
    TIMEOUT_S,
    Publisher,
    counts,
    make_node,
    send,
    set_parameter,
    settle,
    start,
)

from perception_node.mounting import Mounting  # noqa: E402
from perception_node.node import TF_QOS, TF_STATIC_QOS, Scene  # noqa: E402
from perception_node.topics import OUTPUTS, TF, TF_STATIC  # noqa: E402
from perception_node.tracking_messages import TRACK  # noqa: E402

pytestmark = pytest.mark.ros
INFO = camera_info(width=8, height=8, k=[8.0, 0, 3.5, 0, 8, 3.5, 0, 0, 1], d=[])
OK, WARN = b"\x00", b"\x01"


@pytest.fixture
def calibrations(monkeypatch):
    """Of each image that was perceived."""
    seen = []

    def scene(*arguments):
        seen.append(Scene(*arguments))
        return seen[-1]

    monkeypatch.setattr("perception_node.node.Scene", scene)
    return lambda: [scene.calibration for scene in seen]


def ask(node, stamp_ns):
    send(node, stamp_ns)
    settle(node)


def diagnostics(node):
    """Level, message and values of the status that the node publishes now."""
    node._diagnostics, kept = Publisher(), node._diagnostics
    node._publish_diagnostics()
    (status,) = node._diagnostics.messages.get().status
    node._diagnostics = kept
    return status.level, status.message, {item.key: item.value for item in status.values}


def test_without_a_calibration_all_but_metres_is_there(make_node, calibrations):  # noqa: F811
    node = make_node()
    outputs = start(node)
    ask(node, 1)
    assert calibrations() == [None]
    assert all(outputs[name].stamps() == [1] for name in ("class_map", "instances", "drivable_area", "overlay"))
    level, _, values = diagnostics(node)
    assert level == OK
    assert values["camera_info"] == "none yet"
    assert values["calibration"].startswith("camera_info: none yet; expected: the topic")


def test_who_waits_for_metres_without_a_calibration_is_warned(make_node):  # noqa: F811
    node = make_node()
    outputs = start(node)
    ask(node, 1)
    assert diagnostics(node)[0] == OK
    outputs["drivable_grid"].subscribers = outputs["markers"].subscribers = 1
    level, message, _ = diagnostics(node)
    assert level == WARN
    assert message.startswith("no outputs in metres: camera_info: none yet; expected: ")
    assert message.endswith("; subscribed: ~/drivable_grid, ~/markers")
    set_parameter(node, "publish.markers", False)
    assert diagnostics(node)[1].endswith("; subscribed: ~/drivable_grid")


def test_a_late_and_changing_camera_info(make_node, calibrations):  # noqa: F811
    node = make_node(mounting_height=1.5, mounting_pitch=3.0)
    start(node)
    ask(node, 1)
    node._calibration.take_camera_info(INFO)
    ask(node, 2)
    ask(node, 3)
    node._calibration.take_camera_info(camera_info(width=16, height=16, k=[32.0, 0, 7.5, 0, 32, 7.5, 0, 0, 1], d=[]))
    ask(node, 4)
    none, first, second, third = calibrations()
    assert none is None
    assert first is second
    assert (first.camera.K[0, 0], third.camera.K[0, 0], third.camera.width) == (8, 16, 8)
    assert first.mounting == Mounting.from_angles(1.5, np.radians(3))
    level, _, values = diagnostics(node)
    assert level == OK
    assert values["calibration"] == "plumb_bob 8x8; height 1.50 m, pitch 3.0, roll 0.0, yaw 0.0 degrees"


def test_a_wrong_calibration_is_a_warning_and_images_go_on(make_node, calibrations):  # noqa: F811
    node = make_node(camera_info_url="/nowhere/camera.yaml", mounting_height=1.5)
    outputs = start(node)
    ask(node, 1)
    assert calibrations() == [None]
    assert outputs["class_map"].stamps() == [1]
    level, message, values = diagnostics(node)
    assert level == WARN
    assert message.startswith("no outputs in metres: /nowhere/camera.yaml: No such file")
    assert "/nowhere/camera.yaml" in values["calibration"]
    assert set_parameter(node, "camera_info_url", "") == ""
    node._calibration.take_camera_info(INFO)
    ask(node, 2)
    assert calibrations()[-1].mounting.height_m == 1.5


def test_the_mounting_is_changed_while_the_node_works(make_node, calibrations):  # noqa: F811
    node = make_node(mounting_height=1.5)
    start(node)
    node._calibration.take_camera_info(INFO)
    ask(node, 1)
    assert set_parameter(node, "mounting_height", 2.0) == ""
    assert set_parameter(node, "mounting_pitch", 10.0) == ""
    assert "mounting_pitch" in set_parameter(node, "mounting_pitch", 91.0)
    ask(node, 2)
    assert calibrations()[-1].mounting == Mounting.from_angles(2.0, np.radians(10))


def test_speeds_are_measured_from_when_somebody_wants_them(make_node, monkeypatch):  # noqa: F811
    """Nobody subscribes to what needs the ground in the first image; in the others the same car stands still."""
    pytest.importorskip("scipy", reason="tracking needs scipy")
    node = make_node(mounting_height=1.5, mounting_pitch=10.0)
    outputs = start(node, **dict.fromkeys(OUTPUTS, 0) | {"class_map": 1})
    node._calibration.take_camera_info(INFO)
    with monkeypatch.context() as patch:
        patch.delattr("perception_node.topics.connected_surface")
        ask(node, 0)
    outputs["tracks"].subscribers = outputs["markers"].subscribers = 1
    for index in range(1, 9):
        ask(node, index * 4 * 10**8)
    assert counts(node) == {"received": 9, "processed": 9}
    messages = list(outputs["tracks"].messages.queue)
    assert [message.header.frame_id for message in messages] == ["base_link"] * 8
    tracks = [np.frombuffer(bytes(message.data), TRACK)[0] for message in messages]
    assert np.isfinite([track["x"] for track in tracks]).all()
    assert np.isnan(tracks[0]["vx"])
    assert (tracks[7]["vx"], tracks[7]["vy"], tracks[7]["hits"]) == (0, 0, 9)
    markers = list(outputs["markers"].messages.queue)[7].markers
    assert [marker.ns for marker in markers].count("velocities") == 1


def test_the_mounting_from_tf(make_node, calibrations):  # noqa: F811
    message = pytest.importorskip("tf2_msgs.msg", reason="needs tf2_msgs").TFMessage
    node = make_node()
    start(node)
    node._calibration.take_camera_info(INFO)
    other = rclpy.create_node("robot_state_publisher")
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def transform(parent, child, translation, rotation):
        stamped = TransformStamped(child_frame_id=child)
        stamped.header.frame_id = parent
        stamped.transform = Transform(translation=Vector3(**translation), rotation=Quaternion(**rotation))
        return message(transforms=[stamped])

    fixed = other.create_publisher(message, TF_STATIC, TF_STATIC_QOS)
    fixed.publish(transform("mast", "camera", {}, {"x": -0.5, "y": 0.5, "z": -0.5, "w": 0.5}))
    moving = other.create_publisher(message, TF, TF_QOS)
    end = node.get_clock().now().nanoseconds + TIMEOUT_S * 10**9
    while node._calibration._transforms.lookup("base_link", "camera") is None:
        assert node.get_clock().now().nanoseconds < end
        moving.publish(transform("base_link", "mast", {"x": 1.0, "z": 1.5}, {"w": 1.0}))
        executor.spin_once(timeout_sec=0.05)
    ask(node, 1)
    np.testing.assert_allclose(calibrations()[-1].mounting.translation, [1, 0, 1.5])
    np.testing.assert_allclose(calibrations()[-1].mounting.rotation, Mounting.from_angles(1).rotation, atol=1e-12)

    def topics():
        return {subscription.topic_name for subscription in node.subscriptions} & {TF, TF_STATIC}

    assert topics() == {TF, TF_STATIC}
    set_parameter(node, "mounting_height", 1.0)  # then TF is not listened to
    assert topics() == set()
    set_parameter(node, "mounting_height", 0.0)
    assert topics() == {TF, TF_STATIC}
    node.trigger_deactivate()
    assert topics() == set()
    executor.remove_node(node)
    other.destroy_node()


def test_tf_is_left_alone_once_tf_static_says_where_the_camera_is(make_node, calibrations):  # noqa: F811
    message = pytest.importorskip("tf2_msgs.msg", reason="needs tf2_msgs").TFMessage
    node = make_node()
    start(node)
    node._calibration.take_camera_info(INFO)
    stamped = TransformStamped(child_frame_id="camera")
    stamped.header.frame_id = "base_link"
    stamped.transform = Transform(translation=Vector3(z=1.5), rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5))

    def topics():
        diagnostics(node)
        return {subscription.topic_name for subscription in node.subscriptions} & {TF, TF_STATIC}

    node._calibration.take_transforms(message(transforms=[stamped]))  # of /tf: it may change
    ask(node, 1)
    assert calibrations()[-1] is not None
    assert topics() == {TF, TF_STATIC}
    node._calibration.take_static_transforms(message(transforms=[stamped]))
    assert topics() == {TF_STATIC}
    assert set_parameter(node, "base_frame", "base_footprint") == ""
    assert topics() == {TF, TF_STATIC}


def test_parameters_are_the_options(make_node):  # noqa: F811
    node = make_node(base_frame="base_footprint", rectified=True)
    options = node._settings.calibration_options()
    assert (options.base_frame, options.rectified, options.mounting_url) == ("base_footprint", True, "")
