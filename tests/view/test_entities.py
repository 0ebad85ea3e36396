"""Messages as entities: what `perception view --save` writes, read back."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rr = pytest.importorskip("rerun", reason="rerun-sdk is not installed: make setup-view")

import cv2  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from PIL import Image  # noqa: E402
from street import (  # noqa: E402
    CAMERA,
    CAMVID,
    CAR,
    ROAD,
    STAMP_NS,
    K,
    columns,
    maps,
    street_messages,
    times,
    write_mounting,
)

from perception_node.bags import BagWriter, typestore  # noqa: E402
from perception_node.calibration_input import CalibrationOptions  # noqa: E402
from perception_node.cli import main  # noqa: E402
from perception_node.errors import BadImage  # noqa: E402
from perception_node.messages import MessageFactory  # noqa: E402
from perception_node.panoptic import PanopticFrame  # noqa: E402
from perception_node.view import in_metres, in_pixels  # noqa: E402
from perception_node.view.entities import Entities  # noqa: E402
from perception_node.view.in_pixels import SeenNode  # noqa: E402
from perception_node.view.layout import FROM_THE_FIRST, layout  # noqa: E402
from perception_node.visualize import instance_color_bgr  # noqa: E402

IMAGE, NODE = "vehicle/camera/image", "vehicle/camera/perception_node"
MAKE = MessageFactory.rosbags(typestore())


def write_bag(path: Path, messages) -> Path:
    with BagWriter(path) as writer:
        for index, (topic, type_, message) in enumerate(messages):
            writer.write(topic, type_, STAMP_NS + index, typestore().serialize_cdr(message, type_))
    return path


@pytest.fixture
def rrd(tmp_path: Path) -> Path:
    return tmp_path / "drive.rrd"


def saved(rrd: Path, *arguments: object) -> str:
    result = CliRunner().invoke(main, ["view", *map(str, arguments), "--save", str(rrd)])
    assert result.exit_code == 0, result.output
    return result.output


def classes_in(png: list[int]) -> np.ndarray:
    """(H, W) class ids of a picture in their colours; 255 where it is transparent."""
    rgba = np.asarray(Image.open(io.BytesIO(np.uint8(png))).convert("RGBA"))
    class_of = {(*category.color, 255): category.id for category in CAMVID}
    return np.array([[class_of.get(tuple(pixel), 255) for pixel in row] for row in rgba.tolist()])


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_a_bag_is_written_as_entities_that_hold_what_it_holds(compressed, tmp_path, rrd):
    messages = street_messages(5, MAKE, compressed)
    saved(rrd, write_bag(tmp_path / "bag", messages), "--mounting", write_mounting(tmp_path))
    found = columns(rrd)

    assert len(found[IMAGE, "blob"]) == 5
    image = cv2.imdecode(np.asarray(found[IMAGE, "blob"][0][0], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 64, 3)
    assert np.abs(image[10, 10].astype(int) - (255, 0, 255)).max() < 6
    if compressed:  # a camera's JPEG is neither decoded nor encoded again
        (jpeg,) = {bytes(message.data) for topic, _, message in messages if topic == "/camera/image_raw/compressed"}
        assert bytes(found[IMAGE, "blob"][0][0]) == jpeg

    class_map, _ = maps(2)
    np.testing.assert_array_equal(classes_in(found[f"{NODE}/class_map", "blob"][2][0]), class_map)

    assert found[f"{NODE}/instances", "labels"] == [["car 7"]] * 5
    # The outline goes through the middles of the outermost pixels, which are half a pixel from their corners.
    (strip,) = found[f"{NODE}/instance_map", "strips"][0]
    assert np.min(strip, 0).tolist() == [20.5, 20.5]
    assert np.max(strip, 0).tolist() == [35.5, 29.5]
    red, green, blue = instance_color_bgr(7)[::-1]
    assert found[f"{NODE}/instance_map", "colors"][0] == [(red << 24) + (green << 16) + (blue << 8) + 255]

    # Half a second's way from the middle of the box; the tracks' header names the base frame, which camera they are of
    # the other messages'.
    middles = [[[28.0 + index, 25.0]] for index in range(5)]
    assert found[f"{NODE}/tracks/velocity", "origins"] == found[f"{NODE}/instances", "centers"] == middles
    assert found[f"{NODE}/tracks/velocity", "vectors"] == [[[5.0, 0.0]]] * 5
    in_metres_too = "vehicle/perception_node/tracks"
    assert found[in_metres_too, "vectors"] == [[], []] + [[[-2.0, 1.0, 0.0]]] * 3
    assert found[in_metres_too, "origins"][2] == [[8.0, 1.0, pytest.approx(0.05)]]

    grid = np.asarray(found["vehicle/perception_node/drivable_grid", "data"][0][0], np.uint8).reshape(2, 3, 4)
    assert grid[1, :2, :3].argmax(1).tolist() == [1, 0]  # green is free, red occupied, in the lowest row
    assert not grid[0].any()
    assert not grid[1, 2].any()  # the unknown is not drawn
    assert found["vehicle/camera", "translation"] == [[[0.0, 0.0, 1.5]]] * 5  # each time: the server forgets
    assert found["legend/perception_node", "labels"] == [[category.name for category in CAMVID]]


def test_a_drive_and_what_was_made_of_it_are_shown_in_order_of_time(tmp_path, rrd):
    everything = street_messages(3, MAKE)
    for bag, of_drive in ("drive", True), ("replayed", False):
        messages = [item for item in everything if item[0].startswith("/camera") == of_drive]
        write_bag(tmp_path / bag, messages)
    output = saved(rrd, tmp_path / "drive", tmp_path / "replayed", "--mounting", write_mounting(tmp_path))
    assert "left out" not in output
    found = columns(rrd)
    assert len(found[IMAGE, "blob"]) == len(found[f"{NODE}/class_map", "blob"]) == 3


def test_damaged_messages_are_said_and_counted_and_the_others_shown(tmp_path, rrd):
    messages = street_messages(4, MAKE)
    for topic, _, message in messages:
        if topic == "/perception_node/class_map" and message.header.stamp.nanosec:  # not the first
            message.encoding = "rgb8"
    output = saved(rrd, write_bag(tmp_path / "bag", messages))
    assert "/perception_node/class_map: left out: encoding: 'rgb8'; expected: mono8" in output
    assert "/perception_node/class_map: 3 messages left out" in output
    found = columns(rrd)
    assert len(found[f"{NODE}/class_map", "blob"]) == 1
    assert len(found[f"{NODE}/instance_map", "strips"]) == 4


def test_what_other_nodes_say_in_a_way_of_their_own_is_said_and_left_out(tmp_path, rrd):
    """Ids that are no numbers, grids without cells, times that are words, classes that no class map can hold."""
    messages = street_messages(2, MAKE)
    for topic, _, message in messages:
        if topic.endswith("/instances"):
            message.detections[0].id = "a4f0"
        elif topic.endswith("/drivable_grid"):
            message.data = message.data[:5]
        elif topic.endswith("/label_info"):
            message.class_map[0].class_id = 300
    output = saved(rrd, write_bag(tmp_path / "bag", [*messages, times(1, MAKE, network="n/a")]))
    for expected in (
        "instances: left out: id: 'a4f0'; expected: an instance's number",
        "drivable_grid: left out: data: 5 cells; expected: 3x2",
        "/diagnostics: left out: network ms: 'n/a'; expected: a number",
    ):
        assert expected in output
    found = columns(rrd)
    assert len(found[IMAGE, "blob"]) == len(found[f"{NODE}/class_map", "blob"]) == 2


def test_objects_without_a_number_are_refused():
    with pytest.raises(BadImage, match="id: 'car'"):
        in_pixels.colors_of([SimpleNamespace(id="car")])
    np.testing.assert_array_equal(in_pixels.colors_of([SimpleNamespace(id="")]), in_pixels.instance_colors([0]))


def test_without_a_calibration_all_in_pixels_is_shown_and_said_why_nothing_is_in_metres(tmp_path, rrd):
    metric = ("camera_info", "drivable_grid", "free_space")
    messages = [item for item in street_messages(2, MAKE) if not item[0].endswith(metric)]
    output = saved(rrd, write_bag(tmp_path / "bag", messages))
    assert "nothing in metres: camera_info" in output
    found = columns(rrd)
    assert len(found[IMAGE, "blob"]) == 2
    assert ("vehicle/camera", "translation") not in found
    assert "camera_info" in found["no_metres", "text"][-1][0]


def test_a_bag_of_something_else_is_refused_and_nothing_is_written(tmp_path):
    message = MAKE.message_class("std_msgs/msg/String")(data="hello")
    bag = write_bag(tmp_path / "bag", [("/chatter", "std_msgs/msg/String", message)])
    result = CliRunner().invoke(main, ["view", str(bag), "--save", str(tmp_path / "t.rrd")])
    assert result.exit_code == 1
    assert "record a sensor_msgs/Image topic" in result.output
    assert not [*tmp_path.glob("*.rrd*"), *tmp_path.glob(".*part")]


def test_a_folder_that_is_missing_is_made_and_one_that_cannot_be_is_said(tmp_path):
    bag = write_bag(tmp_path / "bag", street_messages(1, MAKE))
    saved(tmp_path / "new" / "drive.rrd", bag)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["drive.rrd"]
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["view", str(bag), "--save", str(tmp_path / "file" / "drive.rrd")])
    assert result.exit_code == 1
    assert f"Error: [Errno 17] File exists: '{tmp_path / 'file'}'" in result.output


class Recorded:
    """Entities, and what they logged."""

    def __init__(self, rrd: Path, **calibration):
        self._rrd, self._recording = rrd, rr.RecordingStream("test")
        self._recording.save(rrd)
        self.entities = Entities(self._recording, CalibrationOptions(**calibration))

    def take(self, messages):
        for message in messages:
            self.entities.take(*message)

    def columns(self):
        self._recording.disconnect()
        return columns(self._rrd)


def test_what_is_shown_decides_what_the_layout_has(rrd):
    recorded = Recorded(rrd, mounting_height=1.5)
    recorded.take(street_messages(1, MAKE))
    shown = recorded.entities.shown
    assert shown.cameras == ("camera",)
    assert {camera for camera, _, _ in shown.in_pixels} == {"camera"}
    assert shown.in_metres == ("perception_node",)
    left, right = layout(shown, FROM_THE_FIRST).root_container.contents
    above, below = left.contents
    assert [view.name for view in above.contents] == ["perception_node (camera)", "classes"]
    assert below.name == "camera"
    assert right.contents[0].name == "perception_node (metres)"


def test_of_several_topics_with_one_frame_the_first_is_shown(rrd):
    recorded = Recorded(rrd)
    _, _, (_, type_, message), *_ = street_messages(1, MAKE)
    recorded.take((topic, type_, message) for topic in ("/camera/image_raw", "/camera/image_rect", "/camera/image_raw"))
    assert len(recorded.columns()[IMAGE, "blob"]) == 2


def test_each_camera_has_its_own_lens(rrd):
    recorded = Recorded(rrd, mounting_height=1.5)
    for name, factor in ("front", 1), ("rear", 2):
        header = MAKE.header(STAMP_NS, name)
        info = CAMERA.message(MAKE, header)
        info.k = info.k * [factor, 1, 1, 1, factor, 1, 1, 1, 1]
        recorded.entities.take(f"/{name}/camera_info", "sensor_msgs/msg/CameraInfo", info)
    for name in "front", "rear", "front":
        image = MAKE.image(MAKE.header(STAMP_NS, name), np.zeros((48, 64, 3), np.uint8), "bgr8")
        recorded.entities.take(f"/{name}/image", "sensor_msgs/msg/Image", image)
    found = recorded.columns()
    assert [matrix[0][0] for matrix in found["vehicle/front", "image_from_camera"]] == [K[0, 0]] * 2
    assert [matrix[0][0] for matrix in found["vehicle/rear", "image_from_camera"]] == [2 * K[0, 0]]


def tracks(n: int) -> list:
    """~/tracks of the first n images."""
    return [message for topic, _, message in street_messages(n, MAKE) if topic.endswith("/tracks")]


def test_a_track_leaves_its_way_of_the_last_seconds_and_none_from_the_future():
    node = SeenNode()
    for message in tracks(24):
        drawn = in_pixels.tracks(message, node)
    (way,) = drawn[""].strips.as_arrow_array().to_pylist()
    assert way == [[28 + index, 25] for index in range(3, 24)]  # two seconds at a pixel each tenth
    again = in_pixels.tracks(tracks(1)[0], node)
    assert [len(way) for way in again[""].strips.as_arrow_array().to_pylist()] == [1]
    (gone,) = tracks(1)
    gone.width, gone.data = 0, gone.data[:0]
    in_pixels.tracks(gone, node)
    assert node.trails == {}


def test_tracks_with_other_fields_are_read_by_name_or_refused():
    (message,) = tracks(1)
    message.fields = [each for each in message.fields if each.name not in ("age", "score")]
    assert in_pixels.tracks_of(message)["u"] == 28
    message.fields[0].name = "range"
    with pytest.raises(BadImage, match="no x; expected: what ~/tracks has"):
        in_pixels.tracks_of(message)
    (message,) = tracks(1)
    message.data = message.data[:-1]
    with pytest.raises(BadImage, match="point_step"):
        in_pixels.tracks_of(message)
    message.fields[0].offset = 2**32 - 4  # where numpy would read, beyond all that is there
    with pytest.raises(BadImage, match="fields: x lies beyond point_step, 72"):
        in_pixels.tracks_of(message)


def test_free_space_has_no_edge_where_no_ground_is_seen():
    nan = np.nan
    scan = SimpleNamespace(ranges=np.float32([nan, 1, 1, nan, 2, nan, 3, 3, 3]), angle_min=0.0, angle_increment=0.0)
    pieces = in_metres.free_space(scan, SeenNode())[""].strips.as_arrow_array().to_pylist()
    assert [[point[0] for point in piece] for piece in pieces] == [[1, 1], [3, 3, 3]]


def test_small_objects_have_no_names_in_the_image():
    class_map, instance_map = np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint16)
    for id_, (left, width) in {1: (0, 3), 2: (10, 4)}.items():
        class_map[:9, left : left + width], instance_map[:9, left : left + width] = CAR, id_
    frame = PanopticFrame.from_maps(class_map, instance_map, np.full((48, 64), 255, np.uint8))
    message = MAKE.instances(MAKE.header(STAMP_NS, "camera"), frame)
    drawn = in_pixels.instances(message, SeenNode({CAR: CAMVID[CAR]}, width=64))[""]
    assert drawn.labels.as_arrow_array().to_pylist() == ["", "car 2"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoding": "rgb8"}, "encoding"),
        ({"step": 63}, "step"),
        ({"data": np.zeros(5, np.uint8)}, "step"),
        ({"width": 0}, "step"),
    ],
    ids=["encoding", "step", "data", "width"],
)
def test_maps_that_are_not_maps_are_refused(changes, expected):
    message = MAKE.image(MAKE.header(STAMP_NS, "camera"), np.full((48, 64), ROAD, np.uint8), "mono8")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(BadImage, match=expected):
        in_pixels.class_map(message, SeenNode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "no PNG"), (b"nothing", "no PNG"), (cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1], "uint16")],
)
def test_compressed_maps_that_are_not_maps_are_refused(data, expected):
    message = SimpleNamespace(format="mono8; png compressed mono8", data=np.frombuffer(data, np.uint8))
    with pytest.raises(BadImage, match=expected):
        in_pixels.class_map(message, SeenNode())


def test_times_rates_and_health_of_diagnostics(rrd):
    def diagnostics(second, level, message, **values):
        pairs = [SimpleNamespace(key=key.replace("_", " "), value=value) for key, value in values.items()]
        ours = SimpleNamespace(name="/front/perception_node: perception", level=level, message=message, values=pairs)
        other = SimpleNamespace(name="motor: current", level=b"\x02", message="hot", values=pairs)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=second, nanosec=0))
        array = SimpleNamespace(header=header, status=[ours, other])
        return "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", array

    recorded = Recorded(rrd)
    figures = {"network_p50_ms": "21.5", "network_p95_ms": "40", "received": "3", "output_rate_Hz": "9.8"}
    figures["age_p50_ms"] = "9e10"  # the camera's clock is another
    recorded.take([diagnostics(5, b"\x00", "active", **figures), diagnostics(6, b"\x00", "active", network_ms="22")])
    recorded.take([diagnostics(7, 2, "no image on /image for 3 s")])
    with pytest.raises(BadImage, match="network ms: 'n/a'"):  # and the others are shown
        recorded.take([diagnostics(8, 1, "slow", network_ms="n/a", fusion_ms="3", output_rate_Hz="9.5")])
    shown, found = recorded.entities.shown, recorded.columns()
    assert shown.timed == shown.rated == shown.healthy == ("front_perception_node",)
    assert found["timings/front_perception_node/network", "scalars"] == [[21.5], [22.0]]
    assert ("timings/front_perception_node/age", "scalars") not in found
    assert found["timings/front_perception_node/fusion", "scalars"] == [[3.0]]
    assert found["rates/front_perception_node/output", "scalars"] == [[9.8], [9.5]]
    assert found["health/front_perception_node", "text"] == [["active"], ["no image on /image for 3 s"], ["slow"]]
    assert found["health/front_perception_node", "level"] == [["INFO"], ["ERROR"], ["WARN"]]


def test_tracks_that_come_first_are_of_no_camera_yet(rrd):
    recorded = Recorded(rrd)
    messages = street_messages(1, MAKE)
    (first,) = (item for item in messages if item[0].endswith("/tracks"))
    recorded.take([first, *messages])
    assert {camera for camera, _, _ in recorded.entities.shown.in_pixels} == {"camera"}
