import struct
import zlib

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from perception_node.bags import BagWriter, typestore
from perception_node.errors import BadImage, SourceError
from perception_node.messages import MessageFactory
from perception_node.sources import check_apart, check_outside, open_source

MAKE = MessageFactory.rosbags(typestore())
IMAGE, COMPRESSED, CAMERA_INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))


def picture(value):
    return np.full((4, 6, 3), value, np.uint8)


def write_bag(path, messages, plugin=StoragePlugin.MCAP):
    """`messages`: (topic, time_ns, message)."""
    store = typestore()
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        connections = {}
        for topic, time_ns, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], time_ns, store.serialize_cdr(message, kind))
    return path


def image(value, stamp_ns, encoding="bgr8"):
    return MAKE.image(MAKE.header(stamp_ns, "front"), picture(value), encoding)


def compressed(value, stamp_ns, extension=".png"):
    data = cv2.imencode(extension, picture(value))[1]
    return typestore().types[COMPRESSED](header=MAKE.header(stamp_ns, "front"), format=extension, data=data.ravel())


def camera_info(stamp_ns):
    types = typestore().types
    roi = types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return types[CAMERA_INFO](
        header=MAKE.header(stamp_ns, "front"),
        height=4,
        width=6,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.eye(3).ravel(),
        r=np.eye(3).ravel(),
        p=np.eye(3, 4).ravel(),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def test_a_folder_of_images_in_order_of_names(tmp_path):
    for name, value in (("b.png", 20), ("a.png", 10), ("c.bmp", 30)):
        cv2.imwrite(str(tmp_path / name), picture(value))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(tmp_path, fps=4, start_ns=10**9)
    items = list(source)
    assert source.n_frames == 3
    assert [item.name for item in items] == ["a", "b", "c"]
    assert [item.time_ns for item in items] == [10**9, 10**9 + 250_000_000, 10**9 + 500_000_000]
    assert [(i.message.header.stamp.sec, i.message.header.stamp.nanosec) for i in items][1] == (1, 250_000_000)
    assert [int(frame.bgr().max()) for _, frame in source.frames()] == [10, 20, 30]


def test_images_of_the_same_stem_keep_names_of_their_own(tmp_path):
    for value, name in enumerate(("a.bmp", "a.png", "a_png.jpg", "b.png")):
        cv2.imwrite(str(tmp_path / name), picture(value))
    source = open_source(tmp_path)
    names = [name for name, _ in source.frames()]
    assert names == ["a_bmp", "a_png_", "a_png", "b"]
    assert [source.file_name(name) for name in names] == ["a.bmp", "a.png", "a_png.jpg", "b.png"]


def test_an_image_that_claims_too_many_pixels_is_named(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))
    with pytest.raises(SourceError, match=r"huge\.png: cannot be read as an image"):
        list(open_source(path))


def write_video(path, n_frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for value in range(n_frames):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    return path


def test_a_video_that_was_cut_off_is_told_of(tmp_path, capsys):
    video = write_video(tmp_path / "drive.avi", 40)
    data = video.read_bytes()
    assert len(list(open_source(video))) == 40
    assert capsys.readouterr().err == ""
    video.write_bytes(data[: len(data) // 2])
    source = open_source(video)
    n_read = len(list(source))
    assert 0 < n_read < 20
    assert source.missing(n_read) == 40 - n_read
    assert f"drive.avi: ends after {n_read} of 40 frames" in capsys.readouterr().err


def test_a_video_may_miscount_itself_by_a_few_frames(tmp_path):
    source = open_source(write_video(tmp_path / "drive.avi", 40))
    assert [source.missing(n_read) for n_read in (41, 40, 38, 37)] == [0, 0, 0, 3]


@pytest.mark.parametrize(
    ("source", "out", "is_apart", "is_outside"),
    [
        ("a/bag", "a/out", True, True),
        ("a/bag", "a/bag2", True, True),
        ("a/bag", "a/bag", False, False),
        ("a/bag", "a", False, False),
        ("a/bag", "a/x/../bag", False, False),
        ("a/link", "a/bag", False, False),
        ("a/bag", "a/bag/out", False, True),
    ],
)
def test_results_must_not_overlap_the_source(tmp_path, source, out, is_apart, is_outside):
    (tmp_path / "a" / "bag").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("bag")
    for check, passes in ((check_apart, is_apart), (check_outside, is_outside)):
        if passes:
            check(tmp_path / source, tmp_path / out)
        else:
            with pytest.raises(SourceError, match="the input"):
                check(tmp_path / source, tmp_path / out)


def test_one_image(tmp_path):
    cv2.imwrite(str(tmp_path / "street.png"), picture(7))
    assert [name for name, _ in open_source(tmp_path / "street.png").frames()] == ["street"]


def test_a_video(highway):
    source = open_source(highway)
    items = iter(source)
    first, second = next(items), next(items)
    assert source.n_frames == 221
    assert (first.message.height, first.message.width, first.name) == (540, 960, "highway_000000")
    assert second.time_ns - first.time_ns == 40_000_000


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_bag_with_camera_info(tmp_path, plugin, whole_folder):
    bag = write_bag(
        tmp_path / "bag",
        [
            ("/front/image_raw", 100, image(1, 11)),
            ("/front/camera_info", 101, camera_info(11)),
            ("/other/camera_info", 102, camera_info(12)),
            ("/tf", 150, MAKE.message_class("tf2_msgs/msg/TFMessage")(transforms=[])),
            ("/front/image_raw", 200, image(2, 21)),
        ],
        plugin,
    )
    path = bag if whole_folder else next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    source = open_source(path)
    assert source.n_frames == 2
    items = list(source)
    assert [(item.topic, item.time_ns, item.name) for item in items] == [
        ("image", 100, "frame_000000"),
        ("camera_info", 101, "camera_info_000001"),
        ("/tf", 150, "tf_000001"),
        ("image", 200, "frame_000001"),
    ]
    assert [item.message.header.stamp.nanosec for item in items if item.topic != "/tf"] == [11, 11, 21]


def test_compressed_images_in_a_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/image/compressed", 1, compressed(90, 5))])
    (item,) = open_source(bag)
    assert (item.message.encoding, item.message.header.stamp.nanosec) == ("bgr8", 5)
    assert [int(frame.bgr().max()) for _, frame in open_source(bag).frames()] == [90]


@pytest.mark.parametrize("n_bytes", [0, 10])
def test_a_damaged_compressed_image_is_named_when_it_is_asked_for(tmp_path, n_bytes):
    broken = compressed(90, 5)
    broken.data = broken.data[:n_bytes]
    bag = write_bag(tmp_path / "bag", [("/cam/compressed", 1, broken), ("/cam/compressed", 2, compressed(91, 6))])
    first, second = open_source(bag)
    with pytest.raises(BadImage, match=rf"data: not a JPEG or PNG image \({n_bytes} bytes\)"):
        _ = first.message
    assert int(second.message.data.max()) == 91
    with pytest.raises(SourceError, match="bag: frame_000000: data: not a JPEG or PNG"):
        list(open_source(bag).frames())


def test_a_message_that_is_too_short_is_named_when_it_is_asked_for(tmp_path):
    cdr = typestore().serialize_cdr(image(3, 7), IMAGE)
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/image", IMAGE, 1, cdr[:20])
        bag.write("/image", IMAGE, 2, cdr)
    first, second = open_source(tmp_path / "bag")
    with pytest.raises(BadImage, match="message: 20 bytes are no sensor_msgs/msg/Image: "):
        _ = first.message
    assert int(second.message.data.max()) == 3


def test_several_cameras_must_be_chosen_from(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/left/image", 1, image(1, 1)), ("/right/image", 2, image(2, 2))])
    with pytest.raises(SourceError, match=r"2 image topics \(/left/image, /right/image\); name one with --topic"):
        open_source(bag)
    with pytest.raises(SourceError, match=r"no image topic '/rear/image'; its image topics: /left/image, /right/image"):
        open_source(bag, "/rear/image")
    assert [int(frame.bgr().max()) for _, frame in open_source(bag, "/right/image").frames()] == [2]


def depth(stamp_ns):
    """As image_transport has it: a header of 12 bytes, then a PNG."""
    message = compressed(1, stamp_ns)
    message.format, message.data = "16UC1; compressedDepth png", np.append(np.zeros(12, np.uint8), message.data)
    return message


@pytest.mark.parametrize(
    ("messages", "chosen"),
    [
        ({"/cam": image(1, 1), "/cam/compressed": compressed(1, 1)}, "/cam"),
        ({"/cam/compressed": compressed(1, 1), "/depth/compressedDepth": depth(1)}, "/cam/compressed"),
        ({"/depth/compressedDepth": depth(1)}, "/depth/compressedDepth"),
        ({"/a/mask": image(1, 1), "/b/image": image(1, 1), "/b/camera_info": camera_info(1)}, "/b/image"),
    ],
)
def test_which_images_are_meant(tmp_path, messages, chosen):
    bag = write_bag(tmp_path / "bag", [(name, 1, message) for name, message in messages.items()])
    assert open_source(bag).topic == chosen


def test_a_topic_without_messages_is_not_meant(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/left/image", 1, image(1, 1)), ("/right/image", 2, image(2, 2))])
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"]["topics_with_message_count"][0]["message_count"] = 0
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert open_source(bag).topic == "/right/image"


def test_transforms_that_are_none_are_left_out(tmp_path):
    """A message that is damaged, and a topic of another type."""
    transforms = typestore().types["tf2_msgs/msg/TFMessage"](transforms=[])
    cdr = typestore().serialize_cdr(transforms, transforms.__msgtype__)
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/image", IMAGE, 1, typestore().serialize_cdr(image(3, 7), IMAGE))
        for time_ns, data in ((1, cdr[:5]), (2, cdr)):
            bag.write("/tf_static", transforms.__msgtype__, time_ns, data)
        bag.write("/tf", IMAGE, 3, typestore().serialize_cdr(image(3, 7), IMAGE))
    source = open_source(tmp_path / "bag", "/image")
    assert list(source.static_transforms()) == [transforms]
    assert [item.topic for item in source] == ["image"]


def test_a_folder_of_bags_is_told_of(tmp_path):
    for name in ("a", "b"):
        write_bag(tmp_path / name, [("/image", 1, image(1, 1))])
    with pytest.raises(SourceError, match=rf"is a folder of 2 bags; pass each: {tmp_path}/\*"):
        open_source(tmp_path)


def test_a_bag_counts_to_the_last_image(tmp_path):
    source = open_source(write_bag(tmp_path / "bag", [("/image", k, image(k, k)) for k in range(3)]))
    assert [source.missing(n_read) for n_read in (4, 3, 2)] == [0, 0, 1]


def test_a_bag_without_images(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/camera_info", 1, camera_info(1))])
    with pytest.raises(SourceError, match=r"no image topic, its 1 topics .* record a sensor_msgs/Image topic"):
        open_source(bag)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_truncated_bag_is_an_error_of_one_line(tmp_path, keep):
    bag = write_bag(tmp_path / "bag", [("/image", i, image(i, i)) for i in range(20)])
    file = next(bag.glob("*.mcap"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])
    with pytest.raises(SourceError, match="cannot be read as a rosbag2") as caught:
        list(open_source(bag))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.mp4", "does not exist"),
        (lambda p: p, "holds no images"),
        (lambda p: (p / "a.txt").write_text("x") and p / "a.txt", "cannot be read as a video"),
        (lambda p: (p / "a.png").write_text("x") and p / "a.png", "cannot be read as an image"),
        (lambda p: (p / "a.mcap").write_text("x") and p / "a.mcap", "cannot be read as a rosbag2"),
    ],
)
def test_what_is_no_footage_is_refused(tmp_path, make, message):
    with pytest.raises(SourceError, match=message):
        list(open_source(make(tmp_path)))
