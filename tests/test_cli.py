import importlib.util
import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from test_sources import compressed, image, write_bag

from perception_node.bags import open_bag
from perception_node.cli import main
from perception_node.messages import camera_image


def perception(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_teaches():
    assert "perception segment drive.mp4 --out" in perception("--help").output
    assert "R + 256 G + 65536 B" in perception("segment", "--help").output
    assert "rosbag2" in perception("replay", "--help").output


def test_segment_prints_json_alone(tiny_model, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    result = perception("segment", tmp_path / "a.png", "--out", tmp_path / "out", "--model", tiny_model, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["instances"]) == (1, 1)
    assert set(summary["stages_ms"]) == {"preprocess", "network", "fusion"}


def test_replay_gives_every_image_its_answers(tiny_model, tmp_path):
    broken = image(3, 30)
    broken.step = 1
    bag = write_bag(
        tmp_path / "bag",
        [("/cam", 1, image(1, 10)), ("/cam", 2, image(2, 20, "rgb8")), ("/cam", 3, broken), ("/cam", 4, image(4, 40))],
    )
    result = perception("replay", bag, "--out", tmp_path / "out", "--model", tiny_model, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["warnings"][0].startswith("images that could not be used: 1, at first frame_000002: step: 1 bytes")
    assert (summary["frames"], summary["refused"], summary["instances"]) == (3, 1, 3)
    with open_bag(tmp_path / "out") as reader:
        messages = {}
        for connection, time_ns, cdr in reader.messages():
            message = reader.deserialize(cdr, connection.msgtype)
            messages.setdefault(connection.topic.rpartition("/")[2], []).append((time_ns, message))
    assert {name: len(found) for name, found in messages.items()} == {
        "label_info": 1,
        "class_map": 3,
        "instance_map": 3,
        "confidence": 3,
        "instances": 3,
        "tracks": 3,
        "drivable_area": 3,
    }
    assert [(time_ns, m.header.stamp.nanosec, m.header.frame_id) for time_ns, m in messages["instances"]] == [
        (1, 10, "front"),
        (2, 20, "front"),
        (4, 40, "front"),
    ]
    ids = np.frombuffer(messages["instance_map"][0][1].data, np.uint16)
    assert {int(d.id) for d in messages["instances"][0][1].detections} == set(np.unique(ids)) - {0}
    if importlib.util.find_spec("scipy"):
        assert [m.width for _, m in messages["tracks"]] == [1, 1, 1]
    assert [c.class_name for c in messages["label_info"][0][1].class_map] == ["road", "sky", "car"]


def test_replay_leaves_out_what_is_damaged(tiny_model, tmp_path):
    broken = compressed(2, 20)
    broken.data = broken.data[:0]
    bag = write_bag(
        tmp_path / "bag", [("/cam", 1, compressed(1, 10)), ("/cam", 2, broken), ("/cam", 3, compressed(3, 30))]
    )
    result = perception("replay", bag, "--out", tmp_path / "out", "--model", tiny_model, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert "1, at first frame_000001: data: not a JPEG or PNG image" in summary["warnings"][0]
    assert (summary["frames"], summary["refused"], summary["missing"]) == (2, 1, 0)
    with open_bag(tmp_path / "out") as reader:
        assert [t for c, t, _ in reader.messages() if c.topic.endswith("class_map")] == [1, 3]


def test_replay_does_not_replace_what_it_reads(tiny_model, tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam", 1, image(1, 10))])
    before = {path: path.read_bytes() for path in bag.iterdir()}
    for out in (bag, bag / "out"):
        result = perception("replay", bag, "--out", out, "--model", tiny_model)
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert f"the input {bag}" in result.output
    assert {path: path.read_bytes() for path in bag.iterdir()} == before


def test_replay_writes_overlays_if_asked(tiny_model, tmp_path):
    bag = write_bag(tmp_path / "bag", [("/cam", 1, image(1, 10))])
    perception("replay", bag, "--out", tmp_path / "out", "--model", tiny_model, "--overlay")
    with open_bag(tmp_path / "out") as reader:
        overlays = [
            reader.deserialize(cdr, c.msgtype) for c, _, cdr in reader.messages() if c.topic.endswith("overlay")
        ]
    assert camera_image(overlays[0]).bgr().shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "{tmp}/none.mp4", "--out", "{tmp}/out"], "none.mp4: does not exist"),
        (["segment", "{tmp}", "--out", "{tmp}/out", "--model", "nosuch"], "holds no images"),
        (["segment", "{tmp}/a.png", "--out", "{tmp}/out", "--model", "nosuch"], "model 'nosuch': no such folder"),
        (["segment", "{tmp}/a.png", "--out", "{tmp}/out", "--device", "tpu"], "device 'tpu': this version runs on cpu"),
        (["segment", "{tmp}/a.png", "--out", "{tmp}/out", "--engine", "tvm"], "engine 'tvm': device cpu has no such"),
        (["replay", "{tmp}/a.png", "--out", "{tmp}/notes.txt"], "notes.txt: exists and is no bag"),
        (["replay", "{tmp}/a.png", "--out", "{tmp}/a.png"], "a.png: would overwrite the input"),
        (["replay", "{tmp}/a.png", "--out", "{tmp}"], "would overwrite the input"),
    ],
)
def test_errors_are_one_line_and_a_status(tmp_path, arguments, message):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    if "holds no images" in message:
        (tmp_path / "a.png").unlink()
    result = perception(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
