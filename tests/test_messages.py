import cv2
import numpy as np
import pytest

from perception_node.bags import typestore
from perception_node.errors import BadImage
from perception_node.messages import MessageFactory, camera_image
from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Category, Taxonomy
from perception_node.tracking import Track
from perception_node.tracking_messages import track_cloud

STAMP_NS = 12 * 10**9 + 34
# Four colours, one in each quarter of a 4x4 image, as BGR.
BLUE, GREEN, RED, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)


def factories():
    yield pytest.param(lambda: MessageFactory.rosbags(typestore()), id="rosbags")
    yield pytest.param(
        lambda: pytest.importorskip("rclpy") and MessageFactory.rclpy(), id="rclpy", marks=pytest.mark.ros
    )


@pytest.fixture(params=factories())
def make(request) -> MessageFactory:
    return request.param()


def image_message(make, pixels, encoding, padding=0, big_endian=0):
    """A message of raw bytes (H, row), each row padded."""
    pixels = np.ascontiguousarray(pixels)
    height = pixels.shape[0]
    rows = pixels.reshape(height, -1).view(np.uint8)
    message = make.image(
        make.header(STAMP_NS, "cam"), np.pad(rows, ((0, 0), (0, padding)), constant_values=77), encoding
    )
    message.width = pixels.shape[1]
    message.is_bigendian = big_endian
    return message


def quarters():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2], image[:2, 2:], image[2:, :2], image[2:, 2:] = BLUE, GREEN, RED, GREY
    return image


def test_image_fields(make):
    message = make.image(make.header(STAMP_NS, "cam"), np.array([[1, 2], [3, 65535]], np.uint16), "16UC1")
    assert (message.height, message.width, message.step, message.encoding) == (2, 2, 4, "16UC1")
    assert bytes(message.data) == bytes([1, 0, 2, 0, 3, 0, 255, 255])
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 34, "cam")


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("encoding", "order"), [("bgr8", [0, 1, 2]), ("rgb8", [2, 1, 0])])
def test_colour_round_trip(make, encoding, order, padding):
    message = image_message(make, quarters()[..., order], encoding, padding)
    np.testing.assert_array_equal(camera_image(message).bgr(), quarters())


@pytest.mark.parametrize(("encoding", "order"), [("bgra8", [0, 1, 2, 3]), ("rgba8", [2, 1, 0, 3])])
def test_alpha_is_dropped(make, encoding, order):
    with_alpha = np.dstack([quarters(), np.full((4, 4), 200, np.uint8)])
    np.testing.assert_array_equal(camera_image(image_message(make, with_alpha[..., order], encoding)).bgr(), quarters())


def test_mono_becomes_grey(make):
    mono = np.array([[0, 100], [200, 255]], np.uint8)
    np.testing.assert_array_equal(camera_image(image_message(make, mono, "mono8", 5)).bgr(), np.dstack([mono] * 3))


@pytest.mark.parametrize(
    ("encoding", "cell"),
    [
        # Two pixels: luma 150 each, chroma of a blue: U 200, V 100.
        ("yuv422", [200, 150, 100, 150]),
        ("uyvy", [200, 150, 100, 150]),
        ("yuv422_yuy2", [150, 200, 150, 100]),
        ("yuyv", [150, 200, 150, 100]),
    ],
)
def test_yuv422(make, encoding, cell):
    pixels = np.array([[cell]], np.uint8).reshape(1, 2, 2)
    # 1.164 (Y - 16) + 2.018 (U - 128), - 0.391 (U - 128) - 0.813 (V - 128), + 1.596 (V - 128)
    np.testing.assert_allclose(
        camera_image(image_message(make, pixels, encoding)).bgr(), [[[255, 151, 111]] * 2], atol=2
    )


@pytest.mark.parametrize(
    ("pattern", "colour"),
    [
        ("rggb", RED),
        ("bggr", BLUE),
        ("gbrg", BLUE),
        ("grbg", RED),
    ],
)
@pytest.mark.parametrize("depth", [8, 16])
def test_bayer(make, pattern, colour, depth):
    """Light of one colour falls on the cells of that colour alone and must come back as it."""
    letter = "r" if colour == RED else "b"
    cell = np.array([255 * (name == letter) for name in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(cell, (4, 4))
    if depth == 16:
        mosaic = mosaic.astype("<u2") << 8
    decoded = camera_image(image_message(make, mosaic, f"bayer_{pattern}{depth}")).bgr()
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.broadcast_to(colour, (4, 4, 3)))


def test_bayer_16_big_endian(make):
    mosaic = np.full((4, 4), 0x6400, ">u2")
    decoded = camera_image(image_message(make, mosaic, "bayer_rggb16", big_endian=1)).bgr()
    np.testing.assert_array_equal(decoded, np.full((4, 4, 3), 0x64))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("encoding", {"encoding": "32FC1"}),
        ("encoding", {"encoding": ""}),
        ("height", {"height": 0}),
        ("width", {"width": 0}),
        ("step", {"step": 11}),
        ("step", {"width": 2**31}),
        ("data", {"height": 5}),
        ("data", {"height": 3}),
        ("data", {"step": 13}),
        ("width", {"width": 3, "encoding": "yuv422"}),
        ("height", {"height": 1, "encoding": "bayer_rggb8"}),
    ],
)
def test_bad_images_name_the_field(make, field, changes):
    message = image_message(make, quarters(), "bgr8")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(BadImage, match=f"^{field}: ") as caught:
        camera_image(message)
    assert caught.value.field == field


def test_truncated_data(make):
    message = image_message(make, quarters(), "bgr8")
    message.data = message.data[:-1]
    with pytest.raises(BadImage, match=r"data: 47 bytes; step 12 x height 4 is 48"):
        camera_image(message)


def test_instances(make):
    instance_map = np.zeros((4, 6), np.uint16)
    instance_map[1:3, 2:5] = 300
    class_map = np.where(instance_map > 0, 1, 0).astype(np.uint8)
    frame = PanopticFrame.from_maps(class_map, instance_map, np.full((4, 6), 51, np.uint8))
    header = make.header(STAMP_NS, "cam")
    message = make.instances(header, frame)
    assert message.header == header
    (detection,) = message.detections
    assert (detection.id, detection.header) == ("300", header)
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (3.5, 2.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (3.0, 2.0)
    hypothesis = detection.results[0].hypothesis
    assert (hypothesis.class_id, hypothesis.score) == ("1", pytest.approx(0.2))


def test_label_info(make):
    taxonomy = Taxonomy([Category(0, "road", (0, 0, 0)), Category(1, "car", (1, 1, 1), thing=True)])
    message = make.label_info(make.header(STAMP_NS, ""), taxonomy)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "road"), (1, "car")]


@pytest.mark.ros
def test_both_libraries_serialize_alike():
    """What replay writes to a bag is what the node sends, but for the padding, which Fast CDR leaves undefined."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import serialize_message

    instance_map = np.array([[0, 7]], np.uint16)
    frame = PanopticFrame.from_maps(np.array([[0, 1]], np.uint8), instance_map, np.array([[9, 255]], np.uint8))
    ros, bags = MessageFactory.rclpy(), MessageFactory.rosbags(typestore())
    for fill in (
        lambda make: make.instances(make.header(STAMP_NS, "cam"), frame),
        lambda make: make.image(make.header(STAMP_NS, "cam"), instance_map, "16UC1"),
        lambda make: make.label_info(make.header(0, ""), Taxonomy([Category(0, "road", (0, 0, 0))])),
        lambda make: track_cloud(make, make.header(0, ""), frame, [Track(7, ((1, 1.0),), 1, 0.0, None)]),
    ):
        message = fill(bags)
        sent = typestore().deserialize_cdr(serialize_message(fill(ros)), message.__msgtype__)
        expected, got = (bytes(typestore().serialize_cdr(m, m.__msgtype__)) for m in (message, sent))
        assert got == expected


def test_a_tracked_instance_has_its_classes(make):
    instance_map = np.array([[0, 7]], np.uint16)
    frame = PanopticFrame.from_maps(np.array([[0, 1]], np.uint8), instance_map, np.array([[9, 255]], np.uint8))
    tracks = (Track(7, ((1, 0.75), (2, 0.125)), 5, 0.5, (1.0, 2.0)),)
    (detection,) = make.instances(make.header(STAMP_NS, "cam"), frame, tracks).detections
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in detection.results] == [("1", 0.75), ("2", 0.125)]


def test_tracks_are_a_table_of_points(make):
    """Offsets and types as sensor_msgs/PointField has them."""
    instance_map = np.array([[0, 7, 7], [0, 9, 0]], np.uint16)
    frame = PanopticFrame.from_maps((instance_map > 0).astype(np.uint8), instance_map, np.full((2, 3), 255, np.uint8))
    tracks = (
        Track(7, ((1, 0.75),), 1, 0.0, None),
        Track(9, ((1, 0.5),), 3, 0.25, (-8.0, 4.0), (12.5, -3.0), (0.5, -1.5), (2.0, 0.25)),
    )
    message = track_cloud(make, make.header(STAMP_NS, "cam"), frame, tracks)
    assert (message.height, message.width, message.row_step) == (1, 2, 2 * message.point_step)
    names = [field.name for field in message.fields]
    types = {2: "u1", 4: "<u2", 6: "<u4", 7: "<f4"}
    dtype = np.dtype(
        {
            "names": names,
            "formats": [types[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    first, second = np.frombuffer(bytes(message.data), dtype)
    known = {name: first[name].item() for name in names if not np.isnan(first[name])}
    box = {"u": 2.0, "v": 0.5, "width": 2.0, "height": 1.0}
    assert known == {**box, "age": 0.0, "score": 0.75, "hits": 1, "id": 7, "class_id": 1}
    assert [second[name].item() for name in ("x", "y", "z", "vx", "vy")] == [12.5, -3.0, 0.0, 0.5, -1.5]
    assert [second[name].item() for name in ("vx_sigma", "vy_sigma")] == [2.0, 0.25]
    assert [second[name].item() for name in ("u", "v", "du", "dv", "age", "id")] == [1.5, 1.5, -8.0, 4.0, 0.25, 9]
    assert track_cloud(make, make.header(STAMP_NS, "cam"), frame, ()).width == 0  # not tracked


@pytest.mark.parametrize(
    ("pixels", "encoding", "codec"),
    [
        (np.arange(12, dtype=np.uint8).reshape(3, 4), "mono8", "png"),
        (np.arange(0, 60000, 5000, dtype=np.uint16).reshape(3, 4), "16UC1", "png"),
        (np.full((8, 8, 3), 90, np.uint8), "bgr8", "jpeg"),
    ],
)
def test_compressed_images_say_how_and_hold_the_pixels(make, pixels, encoding, codec):
    message = make.compressed_image(make.header(5, "camera"), pixels, encoding)
    assert message.format == f"{encoding}; {codec} compressed {encoding}"
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.dtype == pixels.dtype
    np.testing.assert_allclose(decoded.astype(int), pixels, atol=2 if codec == "jpeg" else 0)
    if encoding == "bgr8":
        np.testing.assert_array_equal(camera_image(message).bgr(), decoded)


def test_a_compressed_image_that_cannot_be_decoded_is_refused(make):
    message = make.compressed_image(make.header(5, "camera"), np.zeros((4, 4), np.uint8), "mono8")
    message.data = message.data[:10]
    with pytest.raises(BadImage, match=r"data: not a JPEG or PNG image \(10 bytes\)"):
        camera_image(message)
