"""Recordings as other tools write them, or leave them behind: all images are read, or a sentence says what to do."""

import numpy as np
import pytest
import yaml
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from test_sources import CAMERA_INFO, IMAGE, image

from perception_node.bags import LATCHED, typestore
from perception_node.errors import SourceError
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


def write_mcap(path, profile="ros2", others=(), little_endian=True, indices=(0, 1, 2, 3, 4), **options):
    """By the mcap library, as Foxglove's tools do. `others`: (schema's encoding, schema, messages' encoding)."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start(profile, "another library")
        for schema_encoding, schema, encoding in others:
            kind = writer.register_schema("my_msgs/msg/Thing", schema_encoding, schema)
            writer.add_message(writer.register_channel("/thing", encoding, kind), 5, b"\0\1\0\0", 5)
        channel = writer.register_channel("/cam", "cdr", writer.register_schema(IMAGE, "ros2msg", DEFINITION.encode()))
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
    ],
)
def test_mcap(tmp_path, options):
    assert values(write_mcap(tmp_path / "drive.mcap", **options)) == VALUES


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"others": [("jsonschema", b"{}", "json")]}, "leave them out: `mcap filter -y TOPIC`"),
        ({"others": [("protobuf", b"\x0a\xff", "protobuf")]}, "leave them out: `mcap filter -y TOPIC`"),
        ({"profile": ""}, "Profile is not ros2.; make one with `ros2 bag convert`"),
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
def test_a_compressed_file_without_metadata_is_to_be_unpacked(tmp_path, plugin):
    bag = write(tmp_path / "drive", plugin, CompressionMode.FILE)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    for path in (bag, file):
        with pytest.raises(SourceError, match=f"is compressed, and no metadata.yaml names it; .*`zstd -d {file}`"):
            open_source(path)


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
