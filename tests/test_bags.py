from pathlib import Path

import pytest
from test_sources import IMAGE, image, write_bag

from perception_node.bags import BagWriter, header_stamp_ns, open_bag, typestore
from perception_node.errors import SourceError
from perception_node.sources import open_source


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


def test_an_old_bag_is_replaced(tmp_path):
    path = write_bag(tmp_path / "out", [("/old", 1, image(1, 1))])
    with BagWriter(path) as bag:
        bag.write("/new", IMAGE, 5, typestore().serialize_cdr(image(3, 7), IMAGE))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with open_bag(path) as reader:
        assert list(reader.topics) == ["/new"]


def _empty(path):
    path.mkdir()


def _file(path):
    path.write_text("x")


def _folder_with_a_recording(path):
    path.mkdir()
    (path / "drive.mcap").write_text("x")
    (path / "thesis.txt").write_text("x")


def _bag_with_notes(path):
    write_bag(path, [("/image", 1, image(1, 1))])
    (path / "notes.txt").write_text("x")


def _bag_with_another_recording(path):
    write_bag(path, [("/image", 1, image(1, 1))])
    (path / "other.mcap").write_text("x")


def _other_metadata(path):
    path.mkdir()
    (path / "metadata.yaml").write_text("album: holidays")


def _binary_metadata(path):
    path.mkdir()
    (path / "metadata.yaml").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    "make",
    [
        _empty,
        _file,
        _folder_with_a_recording,
        _bag_with_notes,
        _bag_with_another_recording,
        _other_metadata,
        _binary_metadata,
    ],
)
@pytest.mark.parametrize("name", ["out", "out.mcap"])
def test_what_is_not_just_a_bag_is_not_overwritten(tmp_path, make, name):
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceError, match=f"{name}: exists and is no bag"):
        BagWriter(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_that_one_is_in_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"^\.: exists and is no bag"):
        BagWriter(Path())


def test_what_lies_beside_the_bag_stays(tmp_path):
    (tmp_path / "out.part").write_text("x")
    with BagWriter(tmp_path / "out"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.part"]


def test_errors_of_the_caller_are_not_blamed_on_the_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/image", 1, image(1, 1))])
    with pytest.raises(OSError, match="disk full"), open_bag(bag) as reader:  # noqa: PT012
        for _ in reader.messages():
            raise OSError("disk full")


@pytest.mark.parametrize("metadata", [b"\xff\xfe\x00", b"a: [1\nb: {", b"album: holidays", b""])
def test_damaged_metadata_is_an_error_of_one_line(tmp_path, metadata):
    (tmp_path / "metadata.yaml").write_bytes(metadata)
    with pytest.raises(SourceError, match=f"^{tmp_path}: cannot be read as a rosbag2: ") as caught, open_bag(tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_other_libraries_read_the_bag(tmp_path):
    from mcap.reader import make_reader

    with BagWriter(tmp_path / "out") as bag:
        bag.write("/image", IMAGE, 5, typestore().serialize_cdr(image(3, 7), IMAGE))
    with (tmp_path / "out" / "out.mcap").open("rb") as file:
        ((schema, channel, message),) = make_reader(file).iter_messages()
    assert (schema.name, channel.topic, message.log_time) == (IMAGE, "/image", 5)
