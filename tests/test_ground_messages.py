"""Messages in metres, filled by rclpy's classes and by rosbags'."""

import numpy as np
import pytest

from perception_node.bags import typestore
from perception_node.ground import BLOCKED, FOOT, NO_GROUND, DrivableGrid, FreeSpace
from perception_node.ground_messages import (
    ARROW,
    CUBE,
    DELETE_ALL,
    LIMIT,
    OBSTACLE,
    OTHER_GROUND,
    TEXT_M,
    detections_3d,
    laser_scan,
    markers,
    occupancy_grid,
    point_cloud,
    pose_in_camera,
)
from perception_node.messages import MessageFactory
from perception_node.mounting import Mounting
from perception_node.objects import GroundedObject
from perception_node.panoptic import PanopticFrame, Segment
from perception_node.taxonomy import builtin_taxonomy
from perception_node.tracking import Track

CAMVID = builtin_taxonomy("camvid")
GRID = DrivableGrid(np.array([[0, 100, -1], [-1, 0, 0]], np.int8), 0.5, (1.0, -0.5))
FREE = FreeSpace(
    np.float32([-0.5, 0.0, 0.5]), np.float32([3.0, np.nan, 7.5]), np.uint8([FOOT, NO_GROUND, BLOCKED]), 42.0
)
POINTS = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
POINTS[0, 1] = np.nan
CAR = GroundedObject(
    Segment(7, 8, 0.75, 100, (0, 0, 10, 10), (5, 5)),
    position_xy=(12.0, -2.0),
    covariance=np.array([[0.9, 0.1], [0.1, 0.2]]),
    distance=12.17,
    sigma=0.94,
    bearing=0.0,
    left_right=(1.0, -0.5),
    height=1.4,
)
TRACK = Track(7, ((8, 0.75),), 9, 0.8, None, (12.0, -1.75), (-8.0, 6.0), (0.5, 0.25))
UNSURE = Track(9, ((8, 0.75),), 1, 0.0, None, (12.0, -1.75))
GROUND_Z = -0.25
FILLS = {
    "grid": lambda make, header: occupancy_grid(make, header, GRID, GROUND_Z),
    "scan": lambda make, header: laser_scan(make, header, FREE),
    "points": lambda make, header: point_cloud(make, header, POINTS),
    "objects": lambda make, header: detections_3d(make, header, [CAR], GROUND_Z),
    "markers": lambda make, header: markers(make, header, [CAR], [TRACK, UNSURE], FREE, CAMVID, GROUND_Z),
}


def factories():
    yield pytest.param(lambda: MessageFactory.rosbags(typestore()), id="rosbags")
    yield pytest.param(
        lambda: (
            pytest.importorskip("rclpy")
            and pytest.importorskip("nav_msgs.msg", exc_type=ImportError)
            and pytest.importorskip("visualization_msgs.msg", exc_type=ImportError)
            and MessageFactory.rclpy()
        ),
        id="rclpy",
        marks=pytest.mark.ros,
    )


@pytest.fixture(params=factories())
def make(request) -> MessageFactory:
    return request.param()


@pytest.fixture
def header(make):
    return make.header(12 * 10**9 + 34, "base_link")


def test_occupancy_grid(make, header):
    """Row-major from the corner with the least x and y, as nav_msgs says."""
    message = FILLS["grid"](make, header)
    assert list(message.data) == [0, 100, -1, -1, 0, 0]
    assert (message.info.width, message.info.height, message.info.resolution) == (3, 2, 0.5)
    origin = message.info.origin.position
    assert (origin.x, origin.y, origin.z) == (1.0, -0.5, GROUND_Z)
    assert message.info.origin.orientation.w == 1
    assert (message.header.frame_id, message.header.stamp.nanosec) == ("base_link", 34)


def test_laser_scan(make, header):
    message = FILLS["scan"](make, header)
    assert list(message.ranges)[::2] == [3.0, 7.5]
    assert np.isnan(message.ranges[1])
    assert list(message.intensities) == [OBSTACLE, LIMIT, OTHER_GROUND]
    assert (message.angle_min, message.angle_max, message.angle_increment) == (-0.5, 0.5, 0.5)
    assert message.range_max == 42.0


def test_point_cloud_is_organised_as_the_image(make, header):
    message = FILLS["points"](make, header)
    assert (message.height, message.width, message.point_step, message.row_step) == (2, 3, 12, 36)
    assert [(field.name, field.offset, field.datatype) for field in message.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
    ]
    data = np.frombuffer(bytes(message.data), np.float32).reshape(2, 3, 3)
    np.testing.assert_array_equal(data, POINTS)
    assert not message.is_dense


def test_objects(make, header):
    (detection,) = FILLS["objects"](make, header).detections
    assert detection.id == "7"
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("8", 0.75)
    position = result.pose.pose.position
    assert (position.x, position.y, position.z) == (12.0, -2.0, GROUND_Z)
    covariance = np.array(result.pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(covariance[:3, :3], [[0.9, 0.1, 0], [0.1, 0.2, 0], [0, 0, 0]])
    # From 1 m left of the foot point to 0.5 m right of it.
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (12.0, pytest.approx(-1.75))
    assert detection.bbox.center.position.z == pytest.approx(GROUND_Z + 0.7)
    assert (detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z) == (0, 1.5, 1.4)


def test_markers(make, header):
    first, box, label, arrow, line = FILLS["markers"](make, header).markers
    assert first.action == DELETE_ALL
    assert (box.ns, box.id, box.type, box.scale.y, box.scale.z) == ("objects", 7, CUBE, 1.5, 1.4)
    assert label.text == "car 7: 12.2 ± 0.9 m, 10.0 m/s"
    assert (arrow.ns, arrow.id, arrow.type) == ("velocities", 7, ARROW)
    way = [(p.x, p.y, p.z) for p in arrow.points]
    assert way == [(12.0, -1.75, GROUND_Z), (8.0, 1.25, GROUND_Z)]  # of half a second
    assert (box.pose.position.z, label.pose.position.z) == (pytest.approx(GROUND_Z + 0.7), GROUND_Z + 1.4 + TEXT_M)
    assert {p.z for p in line.points} == {GROUND_Z}
    assert [(round(p.x, 3), round(p.y, 3)) for p in line.points] == [
        (round(3 * np.cos(0.5), 3), round(-3 * np.sin(0.5), 3)),
        (round(7.5 * np.cos(0.5), 3), round(7.5 * np.sin(0.5), 3)),
    ]


def test_the_pose_in_the_camera_is_the_same_point(make):
    """A camera 1.5 m up and 2 m ahead that looks straight ahead: 10 m ahead of it, 1.5 m below, 2 m to the right."""
    pose = pose_in_camera(make, CAR, Mounting.from_angles(1.5, x=2.0, ground_z=GROUND_Z))
    position = pose.pose.position
    assert (position.x, position.y, position.z) == (pytest.approx(2), pytest.approx(1.5), pytest.approx(10))
    # x ahead is z of the camera, y to the left -x.
    covariance = np.array(pose.covariance).reshape(6, 6)[:3, :3]
    np.testing.assert_allclose(covariance, [[0.2, 0, -0.1], [0, 0, 0], [-0.1, 0, 0.9]], atol=1e-12)


def test_an_instance_without_a_pose_says_so(make, header):
    frame = PanopticFrame.from_maps(np.uint8([[8, 8]]), np.uint16([[1, 2]]), np.uint8([[255, 255]]))
    poses = {2: pose_in_camera(make, CAR, Mounting.from_angles(1.5))}
    unknown, known = (detection.results[0].pose for detection in make.instances(header, frame, poses=poses).detections)
    assert unknown.covariance[0] == -1
    assert known.pose.position.z == pytest.approx(12)


@pytest.mark.ros
@pytest.mark.parametrize("name", FILLS)
def test_both_libraries_serialize_alike(name):
    pytest.importorskip("rclpy")
    for package in ("nav_msgs.msg", "visualization_msgs.msg"):
        pytest.importorskip(package, exc_type=ImportError)
    from rclpy.serialization import serialize_message

    ros, bags = MessageFactory.rclpy(), MessageFactory.rosbags(typestore())
    message = FILLS[name](bags, bags.header(12, "base_link"))
    sent = typestore().deserialize_cdr(
        serialize_message(FILLS[name](ros, ros.header(12, "base_link"))), message.__msgtype__
    )
    expected, got = (bytes(typestore().serialize_cdr(m, m.__msgtype__)) for m in (message, sent))
    assert got == expected
