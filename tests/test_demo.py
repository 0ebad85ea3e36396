"""The demo on real footage: player, node and recorder, each a process of its own."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from perception_node.bags import BagWriter, open_bag, typestore
from perception_node.demo.__main__ import _unused_domain, main
from perception_node.diagnostics import DROPPED
from perception_node.errors import UserError
from perception_node.messages import MessageFactory
from perception_node.model import load_model
from perception_node.panoptic import UNLABELLED
from perception_node.simulation import Street
from perception_node.simulation.recording import write_bag
from perception_node.topics import OUTPUTS

pytest.importorskip("rclpy", reason="needs ROS 2")
pytestmark = pytest.mark.ros


def demo(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "perception_node.demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def out(camvid_val, tmp_path_factory):
    """What a demo of 12 real frames, each waited for, leaves."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "images").mkdir()
    for path in sorted((camvid_val / "images").iterdir())[:12]:
        (folder / "images" / path.name).symlink_to(path)
    result = demo(folder / "images", "--out", folder / "out", "--wait", "--fps", 15)
    assert result.returncode == 0, result.stderr
    assert "12 frames in, 12 out, dropped: none\n" in result.stdout
    assert str(folder / "out" / "index.html") in result.stdout
    return folder / "out"


@pytest.fixture(scope="module")
def recorded(out):
    """topic -> messages, in order, of the demo's bag."""
    messages = {}
    with open_bag(out / "bag") as reader:
        for connection, _, cdr in reader.messages():
            messages.setdefault(connection.topic, []).append(reader.deserialize(cdr, connection.msgtype))
    return messages


def test_every_frame_is_answered(out):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == {
        "in": 12,
        "out": 12,
        "dropped": dict.fromkeys(("transport", *DROPPED, "unrecorded"), 0),
    }
    stages = {"wait", "decode", "preprocess", "network", "fusion", "tracking", "drivable", "overlay", "publish"}
    assert set(summary["stages_ms"]) == stages
    for times in (*summary["stages_ms"].values(), summary["latency_ms"]):
        assert 0 <= times["p50"] <= times["p95"] <= times["p99"]
    assert summary["instances_per_frame"]["max"] >= summary["instances_per_frame"]["mean"] > 0


def test_outputs_have_the_stamps_of_the_images(recorded):
    images = recorded["/image"]
    assert len(images) == 12
    for topic in OUTPUTS:
        assert [m.header for m in recorded[f"/perception_node/{topic}"]] == [m.header for m in images], topic


def test_the_three_rules_hold_in_every_frame(recorded):
    taxonomy = load_model().taxonomy
    maps = {
        topic: [np.frombuffer(m.data, dtype).reshape(m.height, m.width) for m in recorded[f"/perception_node/{topic}"]]
        for topic, dtype in (("class_map", np.uint8), ("instance_map", np.uint16), ("drivable_area", np.uint8))
    }
    instances = recorded["/perception_node/instances"]
    for class_map, ids, drivable, message in zip(*maps.values(), instances, strict=True):
        assert set(np.unique(class_map)) <= {*range(len(taxonomy)), UNLABELLED}
        assert ((ids > 0) == taxonomy.table("thing")[class_map]).all()
        pairs = {(int(i), int(c)) for i, c in zip(ids[ids > 0], class_map[ids > 0], strict=True)}
        assert len({i for i, _ in pairs}) == len(pairs)
        assert {(int(d.id), int(d.results[0].hypothesis.class_id)) for d in message.detections} == pairs
        assert taxonomy.table("drivable")[class_map[drivable > 0]].all()
        assert not ids[drivable > 0].any()


def test_the_video_and_the_page_can_be_looked_at(out):
    with av.open(str(out / "annotated.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12
        assert (video.streams.video[0].codec_context.name, video.streams.video[0].width) == ("h264", 480)
    assert cv2.imread(str(out / "preview.jpg")).shape == (720, 1440, 3)
    assert 'src="annotated.mp4"' in (out / "index.html").read_text()


def test_the_demo_can_run_again_on_its_own_bag(out):
    """The bag holds the images it was made of; in real time what is not answered is counted."""
    again = out.parent / "again"
    result = demo(out / "bag", "--out", again, "--topic", "/image", "--rate", "2")
    assert result.returncode == 0, result.stderr
    frames = json.loads((again / "summary.json").read_text())["frames"]
    assert frames["in"] == 12 == frames["out"] + sum(frames["dropped"].values())
    assert min(frames["dropped"].values()) >= 0


def test_a_simulated_drive_is_measured_against_its_truth(tmp_path):
    """All of it: the camera's calibration and place reach the node, and what it says is compared with what is so."""
    pytest.importorskip("embreex", reason="Embree is not installed: pip install 'perception_node[demo]'")
    drive = {"seed": 7, "n_frames": 4, "weather": "day", "reach_m": 60.0}
    write_bag(Street(**drive), tmp_path / "street")
    result = demo(tmp_path / "street", "--out", tmp_path / "out", "--wait")
    assert result.returncode == 0, result.stderr
    assert "against the truth of 4 frames: PQ 0." in result.stdout
    truth = json.loads((tmp_path / "out" / "summary.json").read_text())["truth"]
    assert truth["frames"] == 4
    assert truth["drivable_iou"] > 0.8
    picture = cv2.imread(str(tmp_path / "out" / "truth.jpg"))
    assert picture.shape[0] == 4 * 360
    assert 'src="truth.jpg"' in (tmp_path / "out" / "index.html").read_text()


@pytest.fixture
def handlers():
    """Restores those of the signals that the demo handles as Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_without_footage_it_is_a_simulated_drive(tmp_path, monkeypatch):
    asked = {}

    def cached_drive(**drive):
        asked.update(drive)
        raise UserError("no street today")

    monkeypatch.setattr("perception_node.demo.__main__.cached_drive", cached_drive)
    result = CliRunner().invoke(main, ["--seed", "9", "--out", str(tmp_path / "out")])
    assert "Error: no street today" in result.stderr
    assert asked["seed"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere.mp4"], "Error: /nowhere.mp4: does not exist"),
        (["{tmp}/a.png", "--model", "nosuch"], "Error: model 'nosuch': no such folder"),
        (["{tmp}/out/bag"], "Error: {tmp}/out/bag: would overwrite the input"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, message):
    result = demo(*(argument.format(tmp=tmp_path) for argument in arguments), "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.startswith(message.format(tmp=tmp_path))
    assert result.stderr.count("\n") == 1


def test_every_frame_is_waited_for_though_stamps_repeat(tmp_path, tiny_model):
    """Played as fast as they come, frames of one stamp would take each other's answers for their own."""
    make = MessageFactory.rosbags(typestore())
    image = make.image(make.header(0, "camera"), np.zeros((8, 8, 3), np.uint8), "bgr8")
    with BagWriter(tmp_path / "bag") as bag:
        for time_ns in range(20):
            bag.write("/image", image.__msgtype__, time_ns, typestore().serialize_cdr(image, image.__msgtype__))
    result = demo(tmp_path / "bag", "--out", tmp_path / "out", "--wait", "--model", tiny_model)
    assert "20 frames in, 20 out, dropped: none" in result.stdout, result.stderr


@pytest.mark.parametrize("option", ["--rate", "--fps"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "-1", "1e-320"])
def test_paces_are_numbers_that_can_be_played(option, value):
    result = CliRunner().invoke(main, [".", option, value])
    assert result.exit_code == 2
    assert "is not in the range 0.001<=x<=1000" in result.stderr


def children_of(pid):
    """The Python modules that run as children of the process, as module -> pid."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if folder.name.isdigit() and f"\nPPid:\t{pid}\n" in (folder / "status").read_text():
                found[(folder / "cmdline").read_text().split("\0")[2]] = int(folder.name)
    return found


def wait_until(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < end
    return result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_demo_ends_its_processes(tmp_path, tiny_model, number):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("of an earlier run")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    command = [sys.executable, "-m", "perception_node.demo", tmp_path / "a.png", "--out", tmp_path / "out"]
    process = subprocess.Popen([*command, "--model", tiny_model], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    modules = {"perception_node.main", "perception_node.demo.recorder", "perception_node.demo.player"}
    children = wait_until(lambda: (found := children_of(process.pid)).keys() == modules and found)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 1)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()))
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_player_takes_names_as_every_ros_process_and_ends_well_when_interrupted(tmp_path):
    import rclpy

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    command = [sys.executable, "-m", "perception_node.demo.player", tmp_path / "a.png"]
    names = ["--ros-args", "-r", "__ns:=/car", "-r", "image:=/front/image_raw"]
    rclpy.init()
    try:
        node = rclpy.create_node("engineer")
        process = subprocess.Popen([*command, *names], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: node.count_publishers("/front/image_raw") == node.count_publishers("/car/camera_info") == 1)
        for _ in range(2):  # the terminal's and that of ros2 launch
            process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        rclpy.shutdown()
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_the_demo_keeps_to_itself():
    """A domain is taken when a participant's port is."""
    domain = _unused_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, pytest.MonkeyPatch.context() as patch:
        taken.bind(("127.0.0.1", 7410 + 250 * domain))
        patch.setattr("random.sample", lambda *_: [domain])
        with pytest.raises(UserError, match="all ROS domains from 1 to 101 are in use"):
            _unused_domain()


def test_a_node_that_ends_early_ends_the_demo(tmp_path, tiny_model):
    """The manifest is right, the network in it is not the manifest's: the node finds out when it starts."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    manifest = tiny_model / "model.yaml"
    manifest.write_text(manifest.read_text().replace("tensor: image", "tensor: picture"))
    result = demo(tmp_path / "a.png", "--model", tiny_model, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "no tensor 'picture' there" in result.stderr
    assert "perception_node.main ended early" in result.stderr
