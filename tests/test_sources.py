import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from perception_node.bags import BagWriter, header_stamp_ns, open_bag, typestore
from perception_node.errors import SourceError
from perception_node.messages import MessageFactory
from perception_node.sources import open_source

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
    assert [int(frame.max()) for _, frame in source.frames()] == [10, 20, 30]


def test_images_of_the_same_stem_keep_names_of_their_own(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    cv2.imwrite(str(tmp_path / "a.bmp"), picture(2))
    assert len({name for name, _ in open_source(tmp_path).frames()}) == 2


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
            ("/front/image_raw", 200, image(2, 21)),
        ],
        plugin,
    )
    path = bag if whole_folder else next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    source = open_source(path)
    assert source.n_frames == 2
    assert [(item.topic, item.time_ns, item.message.header.stamp.nanosec) for item in source] == [
        ("image", 100, 11),
        ("camera_info", 101, 11),
        ("image", 200, 21),
    ]


def test_compressed_images_in_a_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/image/compressed", 1, compressed(90, 5))])
    (item,) = open_source(bag)
    assert (item.message.encoding, item.message.header.stamp.nanosec) == ("bgr8", 5)
    assert [int(frame.max()) for _, frame in open_source(bag).frames()] == [90]


def test_a_damaged_compressed_image_is_named(tmp_path):
    broken = compressed(90, 5)
    broken.data = broken.data[:10]
    bag = write_bag(tmp_path / "bag", [("/cam/image/compressed", 1, broken)])
    with pytest.raises(SourceError, match="message 0 of /cam/image/compressed: data: not a JPEG or PNG"):
        list(open_source(bag))


def test_several_cameras_must_be_chosen_from(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/left/image", 1, image(1, 1)), ("/right/image", 2, image(2, 2))])
    with pytest.raises(SourceError, match=r"2 image topics \(/left/image, /right/image\); name one with --topic"):
        open_source(bag)
    with pytest.raises(SourceError, match=r"no image topic '/rear/image'; its image topics: /left/image, /right/image"):
        open_source(bag, "/rear/image")
    assert [int(frame.max()) for _, frame in open_source(bag, "/right/image").frames()] == [2]


def test_a_bag_without_images(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam/camera_info", 1, camera_info(1))])
    with pytest.raises(SourceError, match=r"0 image topics .*record a sensor_msgs/Image topic"):
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


def test_a_bag_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out"
    cdr = typestore().serialize_cdr(image(3, 7 * 10**9 + 8), IMAGE)
    with BagWriter(path) as bag:
        bag.write("/image", IMAGE, 5, cdr)
        assert not path.exists()
    with open_bag(path) as reader:
        ((connection, time_ns, read),) = reader.messages()
    assert (connection.topic, connection.msgtype, time_ns, bytes(read)) == ("/image", IMAGE, 5, bytes(cdr))
    assert header_stamp_ns(read) == 7 * 10**9 + 8
    assert sorted(p.name for p in path.iterdir()) == ["metadata.yaml", "out.mcap"]


def test_an_old_bag_stays_if_writing_fails(tmp_path):
    path = write_bag(tmp_path / "out", [("/image", 1, image(1, 1))])
    with pytest.raises(RuntimeError), BagWriter(path) as bag:  # noqa: PT012
        bag.write("/image", IMAGE, 5, b"\0" * 8)
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert open_source(path).n_frames == 1


def test_a_folder_that_is_no_bag_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(SourceError, match="exists and is no bag"):
        BagWriter(tmp_path)


def test_other_libraries_read_the_bag(tmp_path):
    from mcap.reader import make_reader

    with BagWriter(tmp_path / "out") as bag:
        bag.write("/image", IMAGE, 5, typestore().serialize_cdr(image(3, 7), IMAGE))
    with (tmp_path / "out" / "out.mcap").open("rb") as file:
        ((schema, channel, message),) = make_reader(file).iter_messages()
    assert (schema.name, channel.topic, message.log_time) == (IMAGE, "/image", 5)
