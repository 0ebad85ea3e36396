"""Recordings as other tools write them, or leave them behind: all images are read, or a sentence says what to do."""

import shlex
import shutil
import sqlite3
import struct

import numpy as np
import pytest
import yaml
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_sources import CAMERA_INFO, IMAGE, image

from perception_node.bags import LATCHED, typestore
from perception_node.errors import BadImage, SourceError
from perception_node.mcap_storage import McapStorage
from perception_node.messages import camera_image
from perception_node.sources import open_source

VALUES = [10, 20, 30, 40, 50]
TIMES = [10**18 + 10**8 * k for k in range(5)]
IMAGES = [image(value, time) for value, time in zip(VALUES, TIMES, strict=True)]
ROS1 = get_typestore(Stores.ROS1_NOETIC)
DEFINITION = typestore().generate_msgdef(IMAGE, ros_version=2)[0]


def values(path):
    """The images of a recording by their first pixel; and that their stamps are right."""
    source = open_source(path)
    found = [item.message for item in source if item.topic == "image"]
    assert [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in found] == TIMES[: len(found)]
    assert source.n_frames == len(found)
    return [int(camera_image(message).bgr()[0, 0, 0]) for message in found]


PROTOBUF, JSON = ("protobuf", b"\x0a\xff", "protobuf"), ("jsonschema", b"{}", "json")


def write_mcap(path, profile="ros2", others=(), little_endian=True, encoding="cdr", indices=(0, 1, 2, 3, 4), **options):
    """By the mcap library, as Foxglove's tools do. `others`: (schema's encoding, schema, messages' encoding)."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start(profile, "another library")
        for schema_encoding, schema, other_encoding in others:
            kind = writer.register_schema("my_msgs/msg/Thing", schema_encoding, schema)
            writer.add_message(writer.register_channel("/thing", other_encoding, kind), 5, b"\0\1\0\0", 5)
        schema = writer.register_schema(IMAGE, "ros2msg", DEFINITION.encode())
        channel = writer.register_channel("/cam", encoding, schema)
        for k in indices:
            cdr = bytes(typestore().serialize_cdr(IMAGES[k], IMAGE, little_endian=little_endian))
            writer.add_message(channel, TIMES[k], cdr, TIMES[k], k)
        writer.add_attachment(0, 0, "notes.txt", "text/plain", b"Wednesday")
        writer.finish()
    return path


NO_SUMMARY = {
    "index_types": IndexType.NONE,
    "repeat_channels": False,
    "repeat_schemas": False,
    "use_statistics": False,
    "use_summary_offsets": False,
}


@pytest.mark.parametrize(
    "options",
    [
        *({"compression": compression, "chunk_size": 200} for compression in CompressionType),
        {"use_chunking": False},
        NO_SUMMARY,
        {**NO_SUMMARY, "use_chunking": False},
        {"little_endian": False},
        {"indices": [3, 4, 0, 1, 2], "chunk_size": 100},
        {"others": [("ros2msg", b"int32 n\nNowhere[] found\n", "cdr")]},
        {"others": [("ros2msg", b"no % definition !\n", "cdr")]},
        {"others": [("ros2idl", b"no definition", "cdr")]},
        {"others": [("", b"", "json")]},
        {"others": [JSON, PROTOBUF]},
        {"others": [JSON, PROTOBUF], **NO_SUMMARY},
        {"others": [JSON, PROTOBUF], "repeat_schemas": False},
        {"repeat_schemas": False, "use_statistics": False},
        {"use_statistics": False, "indices": [3, 4, 0, 1, 2], "chunk_size": 100},
        {"repeat_channels": False, "indices": [3, 4, 0, 1, 2], "chunk_size": 100},
        {"repeat_channels": False, "repeat_schemas": False, "index_types": IndexType.CHUNK},
        {"profile": ""},
        {"profile": "", **NO_SUMMARY},
    ],
)
def test_mcap(tmp_path, options):
    assert values(write_mcap(tmp_path / "drive.mcap", **options)) == VALUES


def test_an_mcap_without_an_index_is_not_read_to_be_opened(tmp_path, monkeypatch):
    """As `ros2 bag record --storage-preset-profile fastwrite` writes it."""
    monkeypatch.delattr(McapStorage, "_scan")
    assert values(write_mcap(tmp_path / "drive.mcap", use_chunking=False)) == VALUES


def test_an_mcap_with_a_message_of_no_channel_is_not_to_be_made_an_mcap(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", compression=CompressionType.NONE, enable_crcs=False)
    (length,) = {22 + len(typestore().serialize_cdr(image, IMAGE)) for image in IMAGES}
    start, other = (struct.pack("<BQH", 5, length, channel) for channel in (1, 9))
    data = path.read_bytes()
    assert data.count(start) == 5
    path.write_bytes(data.replace(start, other, 1))
    with pytest.raises(SourceError, match=r"drive\.mcap: cannot be read as a rosbag2: .*`mcap recover`$"):
        values(path)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"profile": "ros1"}, "Profile is not ros2.; make one with `ros2 bag convert`"),
        ({"profile": "", "encoding": "ros1"}, "None of its 1 topics is in CDR; make one with `ros2 bag record`"),
        ({"indices": [1, 0], "use_chunking": False}, "not in timestamp order. Use an indexed file."),
    ],
)
def test_mcap_that_cannot_be_read_has_a_remedy(tmp_path, options, remedy):
    with pytest.raises(SourceError, match=r"drive\.mcap: cannot be read as a rosbag2: ") as caught:
        values(write_mcap(tmp_path / "drive.mcap", **options))
    assert remedy in str(caught.value)


@pytest.mark.parametrize("compression", [None, *Ros1Writer.CompressionFormat])
def test_ros_1(tmp_path, compression):
    """Whose headers have one field more, and are not CDR."""
    types = ROS1.types
    writer = Ros1Writer(tmp_path / "drive.bag")
    if compression:
        writer.set_compression(compression)
    with writer:
        cam = writer.add_connection("/cam/image", IMAGE, typestore=ROS1)
        info = writer.add_connection("/cam/camera_info", CAMERA_INFO, typestore=ROS1)
        for k, (time, ours) in enumerate(zip(TIMES, IMAGES, strict=True)):
            stamp = types["builtin_interfaces/msg/Time"](time // 10**9, time % 10**9)
            header = types["std_msgs/msg/Header"](seq=k, stamp=stamp, frame_id="/front")
            message = types[IMAGE](header, 4, 6, "bgr8", 0, 18, ours.data)
            writer.write(cam, time, ROS1.serialize_ros1(message, IMAGE))
            roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            k9 = np.arange(9.0)
            message = types[CAMERA_INFO](header, 4, 6, "plumb_bob", np.zeros(5), k9, k9, np.zeros(12), 0, 0, roi)
            writer.write(info, time, ROS1.serialize_ros1(message, CAMERA_INFO))
    assert values(tmp_path / "drive.bag") == VALUES
    infos = [item.message for item in open_source(tmp_path / "drive.bag") if item.topic == "camera_info"]
    assert [list(info.k) for info in infos] == [list(range(9))] * 5


def test_transforms_of_ros_1_by_their_old_name(tmp_path):
    ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf/msg/tfMessage"))
    types = ROS1.types
    header = types["std_msgs/msg/Header"](seq=0, stamp=types["builtin_interfaces/msg/Time"](1, 2), frame_id="base_link")
    vector, turn = types["geometry_msgs/msg/Vector3"](1.0, 0.0, 1.5), types["geometry_msgs/msg/Quaternion"](0, 0, 0, 1)
    stamped = types["geometry_msgs/msg/TransformStamped"](
        header, "front", types["geometry_msgs/msg/Transform"](vector, turn)
    )
    image_header = types["std_msgs/msg/Header"](seq=0, stamp=header.stamp, frame_id="front")
    with Ros1Writer(tmp_path / "drive.bag") as writer:
        for topic, message in (
            ("/cam", types[IMAGE](image_header, 4, 6, "bgr8", 0, 18, IMAGES[0].data)),
            ("/tf", types["tf/msg/tfMessage"]([stamped])),
        ):
            connection = writer.add_connection(topic, message.__msgtype__, typestore=ROS1)
            writer.write(connection, 5, ROS1.serialize_ros1(message, message.__msgtype__))
    (found,) = (item.message for item in open_source(tmp_path / "drive.bag") if item.topic == "/tf")
    assert found.__msgtype__ == "tf2_msgs/msg/TFMessage"
    assert [(each.child_frame_id, each.transform.translation.z) for each in found.transforms] == [("front", 1.5)]


def test_ros_1_that_was_cut_off(tmp_path):
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(SourceError, match=r"drive\.bag: cannot be read as a ROS 1 bag: .*; try `rosbag reindex`"):
        open_source(tmp_path / "drive.bag")


def write(path, plugin, compression=None, indices=(0, 1, 2, 3, 4), qos=()):
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/cam", IMAGE, typestore=typestore(), offered_qos_profiles=qos)
        for k in indices:
            writer.write(connection, TIMES[k], typestore().serialize_cdr(IMAGES[k], IMAGE))
    return path


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_files_and_messages(tmp_path, plugin, compression):
    assert values(write(tmp_path / "drive", plugin, compression)) == VALUES


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_files_and_messages_without_metadata(tmp_path, plugin, compression):
    bag = write(tmp_path / "drive", plugin, compression)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    assert values(bag) == values(file) == VALUES


def test_a_compressed_message_that_is_damaged_is_named_and_the_others_are_read(tmp_path):
    bag = write(tmp_path / "drive", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    with sqlite3.connect(bag / "drive.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 20) WHERE id = 1")
    first, *others = open_source(bag)
    with pytest.raises(BadImage, match="message: 20 bytes are no sensor_msgs/msg/Image: "):
        _ = first.message
    assert [int(item.message.data[0]) for item in others] == VALUES[1:]


def test_what_lies_there_packed_and_unpacked_is_read_once(tmp_path):
    """As when somebody unpacked it by hand, or it was cut off while it was being compressed."""
    bag = write(tmp_path / "drive", StoragePlugin.SQLITE3)
    (bag / "metadata.yaml").unlink()
    (bag / "drive.db3.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    assert values(bag) == VALUES


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("keep", [0, 100, -20])
def test_a_compressed_file_that_was_cut_off(tmp_path, plugin, keep):
    bag = write(tmp_path / "drive", plugin, CompressionMode.FILE)
    (file,) = bag.glob("drive.*.zstd")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match=rf"{file.name}: cannot be read as a rosbag2: .*; if .* was cut off"):
        open_source(file)


@pytest.mark.parametrize("is_known", [True, False], ids=["metadata.yaml", "no metadata.yaml"])
def test_messages_that_sqlite_has_yet_to_bring_in_have_a_remedy(tmp_path, is_known):
    """As `ros2 bag record --storage-preset-profile resilient` leaves them when it is killed."""
    bag = write(tmp_path / "drive", StoragePlugin.SQLITE3)
    if not is_known:
        (bag / "metadata.yaml").unlink()
    file, cut_off = bag / "drive.db3", tmp_path / "cut off"
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("DELETE FROM messages WHERE id = 5")
    database.commit()
    shutil.copytree(bag, cut_off)  # before it is closed, which would bring them in
    database.close()
    for path in (cut_off, cut_off / "drive.db3"):
        with pytest.raises(SourceError, match=r"in drive\.db3-wal; bring .* with `sqlite3 .*db3' 'PRAGMA ") as caught:
            open_source(path)
    _, file, remedy = shlex.split(str(caught.value).split("`")[1])
    assert file == str(cut_off / "drive.db3")
    database = sqlite3.connect(file)
    assert database.execute(remedy).fetchone() == (0, 0, 0)
    database.close()
    assert values(cut_off / "drive.db3") == VALUES[:4]


def test_a_definition_that_sqlite_has_of_an_unknown_kind_has_a_remedy(tmp_path):
    bag = write(tmp_path / "drive", StoragePlugin.SQLITE3)
    with sqlite3.connect(bag / "drive.db3") as database:
        database.execute("UPDATE message_definitions SET encoding = 'unknown'")
    with pytest.raises(SourceError, match="make an mcap of it with `ros2 bag convert`"):
        open_source(bag)


def test_metadata_with_a_topic_that_is_not_cdr_has_a_remedy(tmp_path):
    bag = tmp_path / "drive"
    write(bag, StoragePlugin.MCAP)
    write_mcap(bag / "drive.mcap", others=[PROTOBUF])
    change_topic(bag, serialization_format="protobuf")
    with pytest.raises(SourceError, match=r"pass its \.mcap or \.db3 file itself"):
        open_source(bag)
    assert values(bag / "drive.mcap") == VALUES


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("is_known", [True, False], ids=["metadata.yaml", "no metadata.yaml"])
def test_a_recording_in_several_files(tmp_path, plugin, is_known):
    """Of which the second was begun with another QoS profile, as when a publisher joins in between."""
    bag = write(tmp_path / "drive", plugin, indices=[0, 1])
    other = write(tmp_path / "other", plugin, indices=[2, 3, 4], qos=[LATCHED])
    (first,), (second,) = ([file for file in folder.iterdir() if file.suffix != ".yaml"] for folder in (bag, other))
    second.rename(bag / second.name)
    if is_known:
        change(bag, relative_file_paths=[first.name, second.name], files=[])
        change_topic(bag, message_count=5)
    else:
        (bag / "metadata.yaml").unlink()
    assert values(bag) == VALUES


def change(bag, **entries):
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"].update(entries)
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def change_topic(bag, message_count=5, **entries):
    topics = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    (topic,) = topics["topics_with_message_count"]
    topic["message_count"] = message_count
    topic["topic_metadata"].update(entries)
    change(bag, topics_with_message_count=[topic])


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize(
    "entries", [{"offered_qos_profiles": []}, {"type_description_hash": "RIHS01_" + "0" * 64}], ids=["QoS", "hash"]
)
def test_metadata_that_was_edited(tmp_path, plugin, entries):
    """QoS profiles often are, for `ros2 bag play`."""
    bag = write(tmp_path / "drive", plugin, qos=[LATCHED])
    change_topic(bag, **entries)
    assert values(bag) == VALUES
