import copy

import numpy as np
import pytest

from perception_node.bag_tests.checks import Checks
from perception_node.bag_tests.differences import differences
from perception_node.bags import typestore
from perception_node.messages import MessageFactory
from perception_node.panoptic import PanopticFrame
from perception_node.tracking import Track
from perception_node.tracking_messages import track_cloud

MAKE = MessageFactory.rosbags(typestore())
HEADER = MAKE.header(7 * 10**9 + 5, "front")
CLASSES = np.array([[1, 1, 1, 1], [1, 2, 2, 1], [0, 2, 2, 0], [0, 0, 0, 0]], np.uint8)
IDS = np.array([[0, 0, 0, 0], [0, 7, 7, 0], [0, 9, 9, 0], [0, 0, 0, 0]], np.uint16)


def found(topic, golden, actual, tolerances=None, names=None):
    return [str(each) for each in differences(topic, golden, actual, Checks(tolerances or {}), names)]


def image(pixels, encoding="mono8"):
    return MAKE.image(HEADER, pixels, encoding)


def with_pixel(pixels, y, x, value):
    changed = pixels.copy()
    changed[y, x] = value
    return changed


def test_what_is_equal_has_no_differences():
    for topic, pixels, encoding in (("class_map", CLASSES, "mono8"), ("instance_map", IDS, "16UC1")):
        assert found(topic, image(pixels, encoding), image(pixels, encoding)) == []


def test_one_pixel_is_named_with_its_class():
    assert found("class_map", image(CLASSES), image(with_pixel(CLASSES, 2, 1, 0)), names={0: "road", 2: "car"}) == [
        "class_map: 1 of 16 pixels differ, first x 1 y 2: golden 2 car, now 0 road"
    ]


def test_several_pixels_have_a_first_and_a_place():
    changed = with_pixel(with_pixel(IDS, 1, 2, 300), 3, 1, 5)
    (difference,) = differences("instance_map", image(IDS, "16UC1"), image(changed, "16UC1"), Checks())
    assert (difference.count, difference.first_xy) == (2, (2, 1))
    assert str(difference) == (
        "instance_map: 2 of 16 pixels differ, first x 2 y 1: golden 7, now 300; all within x 1..2, y 1..3"
    )


def test_pixels_may_be_allowed_to_differ():
    golden, actual = image(CLASSES), image(with_pixel(CLASSES, 2, 1, 0))
    assert found("class_map", golden, actual, {"class_map.pixels": 1 / 16}) == []
    assert len(found("class_map", golden, actual, {"class_map.pixels": 0.9 / 16})) == 1
    assert len(found("class_map", golden, actual, {"confidence.pixels": 1})) == 1


def test_confidence_may_be_off_by_some_levels():
    golden = np.full((2, 3), 254, np.uint8)
    assert found("confidence", image(golden), image(with_pixel(golden, 0, 1, 255)), {"confidence": 1}) == []
    # 254 and 0 are not close, though bytes wrap.
    assert len(found("confidence", image(golden), image(with_pixel(golden, 0, 1, 0)), {"confidence": 2})) == 1


def test_colours_differ_by_pixels_not_by_channels():
    golden = np.zeros((2, 3, 3), np.uint8)
    actual = golden.copy()
    actual[1, 2] = 9
    assert found("overlay", image(golden, "bgr8"), image(actual, "bgr8")) == [
        "overlay: 1 of 6 pixels differ, first x 2 y 1: golden [0 0 0], now [9 9 9]"
    ]


def test_images_of_other_sizes():
    assert found("class_map", image(CLASSES), image(CLASSES[:, :2]))[:2] == [
        "class_map.width: golden 4, now 2",
        "class_map.step: golden 4, now 2",
    ]


def test_a_damaged_image_does_not_hide_in_its_fields():
    damaged = image(CLASSES)
    damaged.data = damaged.data[:-1]
    assert found("class_map", image(CLASSES), damaged) == ["class_map.data: golden has 16 bytes, now 15"]


def test_one_nanosecond_of_a_stamp():
    actual = image(CLASSES)
    actual.header = MAKE.header(7 * 10**9 + 6, "front")
    assert found("class_map", image(CLASSES), actual) == [
        "class_map.header.stamp: golden '7.000000005 s', now '7.000000006 s'"
    ]


@pytest.fixture
def instances():
    frame = PanopticFrame.from_maps(CLASSES, IDS, np.full_like(CLASSES, 200))
    return MAKE.instances(HEADER, frame)


def test_one_id_is_a_missing_object_and_a_new_one(instances):
    changed = copy.deepcopy(instances)
    changed.detections[1].id = "8"
    assert found("instances", instances, changed) == [
        "instances.detections[9]: golden has it, now it is missing",
        "instances.detections[8]: new; golden has it not",
    ]


def test_objects_are_compared_by_their_ids(instances):
    changed = copy.deepcopy(instances)
    changed.detections.reverse()
    assert found("instances", instances, changed) == []
    changed.detections[0].results[0].hypothesis.class_id = "1"
    changed.detections[1].results[0].hypothesis.score += 0.01
    changed.detections[1].bbox.size_x += 0.4
    assert found("instances", instances, changed) == [
        "instances.detections[7].results[0].hypothesis.score: golden 0.784314, now 0.794314; may be off by 0.001",
        "instances.detections[9].results[0].hypothesis.class_id: golden '2', now '1'",
    ]
    assert len(found("instances", instances, changed, {"instances.score": 0.02})) == 1
    assert len(found("instances", instances, changed, {"bbox": 0.3})) == 3


def test_ids_that_are_there_twice_are_compared_in_order(instances):
    instances.detections[1].id = "7"
    changed = copy.deepcopy(instances)
    del changed.detections[1]
    assert found("instances", instances, changed) == ["instances.detections: golden has 2, now 1",
        "instances.detections[1]: golden has it, now it is missing"]  # fmt: skip


def test_tracks_are_compared_by_their_ids():
    def cloud(*tracks):
        frame = PanopticFrame.from_maps(CLASSES, IDS, np.full_like(CLASSES, 200))
        return track_cloud(MAKE, HEADER, frame, tracks)

    def track(id_, speed):
        return Track(id_, ((2, 0.9),), 5, 0.5, (speed, 0.0))

    golden = cloud(track(7, 3.0), track(9, 4.0))
    assert found("tracks", golden, cloud(track(7, 3.2), track(9, 4.0))) == []
    assert found("tracks", golden, cloud(track(7, 3.0), track(9, 5.0))) == [
        "tracks[9].du: golden 4, now 5; may be off by 0.5"
    ]
    assert found("tracks", golden, cloud(track(7, 3.0), track(9, 5.0)), {"du": 2}) == []
    assert found("tracks", golden, cloud(track(7, 3.0), track(8, 4.0))) == [
        "tracks[9]: golden has it, now it is missing",
        "tracks[8]: new; golden has it not",
    ]


def test_ranges_and_cells():
    types = typestore().types
    scan = types["sensor_msgs/msg/LaserScan"](
        header=HEADER,
        angle_min=0.0,
        angle_max=1.0,
        angle_increment=0.1,
        time_increment=0.0,
        scan_time=0.0,
        range_min=0.0,
        range_max=50.0,
        ranges=np.array([1, np.inf, np.nan, 4], np.float32),
        intensities=np.zeros(0, np.float32),
    )
    other = copy.deepcopy(scan)
    assert found("free_space", scan, other) == []
    other.ranges[3] = 4.1
    assert found("free_space", scan, other) == [
        "free_space.ranges: 1 of 4 values differ, first [3]: golden 4.0, now 4.1"
    ]
    assert found("free_space", scan, other, {"pixels": 0.25}) == []
    other.ranges[1] = 30
    assert "2 of 4 values differ, first [1]: golden inf, now 30.0" in found("free_space", scan, other)[0]
