"""Which of the topics that there are is shown."""

import pytest

from perception_node.errors import SourceError
from perception_node.view.selection import Selection, cameras_of, nodes_of

IMAGE, JPEG = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, BOXES = "sensor_msgs/msg/CameraInfo", "vision_msgs/msg/Detection2DArray"
CAMERA = {"/a/image": IMAGE, "/a/camera_info": INFO}
NODE = {"/n/class_map": IMAGE, "/n/overlay": IMAGE, "/n/instances": BOXES}


def test_topics_are_nodes_or_cameras():
    topics = CAMERA | {"/b/image_raw": IMAGE}
    assert nodes_of(topics) == set()
    assert cameras_of(topics) == ["/a/image"]
    assert nodes_of(topics | {"/front/node/class_map": IMAGE, "/front/node/confidence": IMAGE}) == {"/front/node"}
    assert nodes_of({"/node/class_map/compressed": JPEG}) == {"/node"}
    assert cameras_of(topics | {"/front/node/class_map": IMAGE}) == ["/a/image"]


@pytest.mark.parametrize(
    "topics",
    [
        {"/tracker/tracks": "autoware_perception_msgs/msg/TrackedObjects"},
        {"/lidar/points": "sensor_msgs/msg/PointCloud2"},
        {"/lidar/objects": "vision_msgs/msg/Detection3DArray"},
        {"/a/image/compressedDepth": JPEG},
    ],
    ids=lambda topics: next(iter(topics)),
)
def test_what_has_a_nodes_name_but_is_something_else_is_neither(topics):
    assert nodes_of(topics) == set()
    assert cameras_of(topics) == []
    assert Selection().among(topics) == {}


def test_tf_diagnostics_and_camera_info_are_shown_and_the_rest_is_not():
    diagnostics = {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
    transforms = {"/tf": "tf2_msgs/msg/TFMessage", "/tf_static": "tf2_msgs/msg/TFMessage"}
    other = {"/other": "tf2_msgs/msg/TFMessage", "/n/markers": "visualization_msgs/msg/MarkerArray", "/x": "std/msg/X"}
    assert Selection().among(CAMERA | diagnostics | transforms | other) == CAMERA | diagnostics | transforms


@pytest.mark.parametrize(
    ("compressed", "there", "shown"),
    [
        (False, {"/a/image"}, {"/a/image"}),
        (True, {"/a/image"}, {"/a/image"}),
        (False, {"/a/image/compressed"}, {"/a/image/compressed"}),
        (False, {"/a/image", "/a/image/compressed"}, {"/a/image"}),
        (True, {"/a/image", "/a/image/compressed"}, {"/a/image/compressed"}),
        (True, {"/n/class_map", "/n/class_map/compressed"}, {"/n/class_map/compressed"}),
    ],
)
def test_images_are_taken_as_they_are_sent_and_where_they_are_sent_both_ways_as_the_user_wants(
    compressed, there, shown
):
    topics = {topic: JPEG if topic.endswith("/compressed") else IMAGE for topic in there}
    assert Selection(compressed=compressed).among(topics).keys() == shown
    if "/n" not in str(there):
        assert Selection("/a/image", compressed=compressed).among(topics).keys() == shown
        assert Selection("/a/image/compressed", compressed=compressed).among(topics).keys() == shown


def test_an_overlay_is_shown_only_where_the_viewer_has_nothing_to_lay_over_the_image():
    assert Selection().among(NODE).keys() == {"/n/class_map", "/n/instances"}
    assert Selection().among({"/n/overlay/compressed": JPEG}).keys() == {"/n/overlay/compressed"}


def test_one_camera_and_one_node_of_several():
    topics = CAMERA | NODE | {"/b/image": IMAGE, "/m/class_map": IMAGE}
    assert Selection("/b/image", "m").among(topics).keys() == {"/b/image", "/a/camera_info", "/m/class_map"}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("/nope"), "--topic /nope: no image topic; there are: /a/image"),
        (Selection(node="nope"), "--node /nope: no such node; there are: /n"),
    ],
)
def test_a_name_that_is_not_there_is_said_with_those_that_are(selection, expected):
    with pytest.raises(SourceError, match=expected):
        selection.among(CAMERA | NODE)
