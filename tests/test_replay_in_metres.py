"""Replay with a calibration: topics in metres beside the others, which stay as they were."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_tiny_model

from perception_node.bags import BagWriter, open_bag, typestore
from perception_node.camera import Camera
from perception_node.cli import main
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting
from perception_node.topics import GROUND_OUTPUTS, OUTPUTS
from perception_node.tracking_messages import TRACK

MAKE = MessageFactory.rosbags(typestore())
CAMERA = Camera(
    8, 8, "plumb_bob", np.zeros(5), np.array([[8.0, 0, 3.5], [0, 8.0, 3.5], [0, 0, 1]]), np.eye(3), np.zeros((3, 4))
)
MOUNTING = Mounting.from_angles(1.5, np.radians(10.0))


def write_bag(path, with_calibration, moving=()):
    """Two images of 8x8 pixels, and if wanted camera_info and the camera's transform: on /tf_static, or on /tf before
    each image, of these heights."""

    def write(topic, message, time_ns):
        bag.write(topic, message.__msgtype__, time_ns, typestore().serialize_cdr(message, message.__msgtype__))

    with BagWriter(path) as bag:
        if with_calibration and not moving:
            write("/tf_static", transform(), 0)
        for time_ns in (1, 2):
            header = MAKE.header(time_ns, "cam")
            if moving:
                write("/tf", transform(moving[time_ns - 1]), time_ns)
            if with_calibration:
                write("/front/camera_info", CAMERA.message(MAKE, header), time_ns)
            write("/front/image_raw", MAKE.image(header, np.zeros((8, 8, 3), np.uint8), "bgr8"), time_ns)
    return path


def transform(height=1.5):
    """Of the same mounting: 90 degrees about two axes, then 10 down, as a quaternion."""
    trace = np.trace(MOUNTING.rotation)
    w = np.sqrt(1 + trace) / 2
    r = MOUNTING.rotation
    x, y, z = (r[2, 1] - r[1, 2]) / (4 * w), (r[0, 2] - r[2, 0]) / (4 * w), (r[1, 0] - r[0, 1]) / (4 * w)
    geometry = MAKE.message_class("geometry_msgs/msg/Transform")(
        translation=MAKE.message_class("geometry_msgs/msg/Vector3")(x=0.0, y=0.0, z=height),
        rotation=MAKE.message_class("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
    )
    stamped = MAKE.message_class("geometry_msgs/msg/TransformStamped")(
        header=MAKE.header(0, "base_link"), child_frame_id="cam", transform=geometry
    )
    return MAKE.message_class("tf2_msgs/msg/TFMessage")(transforms=[stamped])


def replayed(tmp_path, bag, *options):
    model = tmp_path / "tiny"
    if not model.exists():
        write_tiny_model(model)
    out = tmp_path / "out"
    arguments = ["replay", str(bag), "--out", str(out), "--model", str(model), "--json", *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    messages = {}
    with open_bag(out) as reader:
        for connection, _, cdr in reader.messages():
            name = connection.topic.removeprefix("/perception_node/")
            messages.setdefault(name, []).append(reader.deserialize(cdr, connection.msgtype))
    return json.loads(result.stdout.splitlines()[-1]), messages


def files(tmp_path):
    CAMERA.to_yaml(tmp_path / "camera.yaml")
    MOUNTING.to_yaml(tmp_path / "mounting.yaml")
    return "--camera", str(tmp_path / "camera.yaml"), "--mounting", str(tmp_path / "mounting.yaml")


@pytest.fixture(params=["files", "bag"])
def with_calibration(request, tmp_path):
    bag = write_bag(tmp_path / "in", request.param == "bag")
    return replayed(tmp_path, bag, *(files(tmp_path) if request.param == "files" else ()))


def test_there_are_topics_in_metres(with_calibration):
    summary, messages = with_calibration
    assert (summary["frames"], summary["in_metres"], summary["no_metres"]) == (2, 2, None)
    assert {name: len(messages[name]) for name in (*GROUND_OUTPUTS, *OUTPUTS) if name != "overlay"} == {
        name: 2 for name in (*GROUND_OUTPUTS, *OUTPUTS) if name != "overlay"
    }
    for name in ("drivable_grid", "free_space", "points", "objects", "tracks"):
        header = messages[name][1].header
        assert (header.frame_id, header.stamp.nanosec) == ("base_link", 2), name
    cells = np.array(messages["drivable_grid"][0].data)
    assert {0, -1} <= set(cells.tolist())
    cloud = messages["points"][0]
    assert (cloud.height, cloud.width) == (8, 8)
    points = np.frombuffer(bytes(cloud.data), np.float32).reshape(8, 8, 3)
    assert np.isfinite(points[7]).all()  # road
    assert np.isnan(points[0]).all()  # sky
    (detection,) = messages["instances"][0].detections
    position = detection.results[0].pose.pose.position
    # The car's lowest row is 5, so it stands where row 5.5 looks: 2 of 8 below the axis, which looks 10 degrees down.
    down = np.radians(10) + np.arctan(2 / 8)
    assert position.z == pytest.approx(1.5 / np.sin(down) * np.cos(np.arctan(2 / 8)), rel=0.02)
    (object_,) = messages["objects"][0].detections
    assert object_.id == detection.id
    assert object_.results[0].pose.pose.position.x == pytest.approx(1.5 / np.tan(down), rel=0.02)
    (track,) = np.frombuffer(bytes(messages["tracks"][1].data), TRACK)
    middle = object_.bbox.center.position
    assert (track["x"], track["y"], track["z"]) == (pytest.approx(middle.x), pytest.approx(middle.y), 0)
    assert np.isnan(track["vx"])  # of two images, a nanosecond apart


def test_a_mounting_on_tf_is_that_of_the_time(tmp_path):
    """Twice as high, twice as far."""
    summary, messages = replayed(tmp_path, write_bag(tmp_path / "in", True, moving=(1.5, 3.0)))
    assert (summary["in_metres"], summary["no_metres"]) == (2, None)
    first, second = (message.detections[0].results[0].pose.pose.position.x for message in messages["objects"])
    assert second == pytest.approx(2 * first, rel=1e-4)


def test_the_ground_below_the_base_frame(tmp_path):
    bag = write_bag(tmp_path / "in", False)
    _, plain = replayed(tmp_path, bag, *files(tmp_path))
    _, lower = replayed(tmp_path, bag, *files(tmp_path), "--ground-z", "-0.25")
    points, lower_points = (
        np.frombuffer(bytes(messages["points"][0].data), np.float32).reshape(8, 8, 3) for messages in (plain, lower)
    )
    np.testing.assert_allclose(lower_points, np.add(points, [0, 0, -0.25]), atol=1e-6)
    assert np.frombuffer(bytes(lower["tracks"][0].data), TRACK)["z"].tolist() == [-0.25]
    assert lower["drivable_grid"][0].info.origin.position.z == -0.25
    place, lower_place = (m["objects"][0].detections[0].results[0].pose.pose.position for m in (plain, lower))
    assert (lower_place.x, lower_place.z) == (pytest.approx(place.x), -0.25)
    pose, lower_pose = (m["instances"][0].detections[0].results[0].pose.pose.position for m in (plain, lower))
    assert (lower_pose.x, lower_pose.y, lower_pose.z) == pytest.approx((pose.x, pose.y, pose.z))


def test_image_space_outputs_do_not_depend_on_a_calibration(tmp_path):
    bag = write_bag(tmp_path / "in", False)
    calibrated, plain = replayed(tmp_path, bag, *files(tmp_path))[1], replayed(tmp_path, bag)
    summary, plain = plain
    assert (summary["in_metres"], summary["no_metres"].partition(":")[0]) == (0, "camera_info")
    assert not set(plain) & set(GROUND_OUTPUTS)
    for name in ("class_map", "instance_map", "confidence", "drivable_area"):
        for one, other in zip(plain[name], calibrated[name], strict=True):
            np.testing.assert_array_equal(one.data, other.data, err_msg=name)
    boxes, others = (
        [repr((d.id, d.bbox, d.results[0].hypothesis)) for d in messages["instances"][0].detections]
        for messages in (plain, calibrated)
    )
    assert boxes == others != []
    assert plain["instances"][0].detections[0].results[0].pose.covariance[0] == -1
    tracks = [messages["tracks"][0] for messages in (plain, calibrated)]
    assert [message.header.frame_id for message in tracks] == ["cam", "base_link"]
    (one,), (other,) = (np.frombuffer(bytes(message.data), TRACK) for message in tracks)
    assert all(np.isnan(one[name]) for name in ("x", "y", "z", "vx", "vy"))
    assert [one[name] for name in ("u", "v", "id")] == [other[name] for name in ("u", "v", "id")]


def test_a_camera_that_sees_no_ground_costs_only_the_metres(tmp_path):
    bag = write_bag(tmp_path / "in", False)
    options = files(tmp_path)
    Mounting.from_angles(1.5, np.radians(-60.0)).to_yaml(tmp_path / "mounting.yaml")
    summary, messages = replayed(tmp_path, bag, *options)
    assert summary["in_metres"] == 0
    assert "the camera sees no ground" in summary["no_metres"]
    assert len(messages["class_map"]) == 2
