"""The node in a process of its own, spoken to through real DDS."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from unittest.mock import MagicMock

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically  # noqa: E402
from rclpy.executors import ExternalShutdownException  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from vision_msgs.msg import LabelInfo  # noqa: E402

from perception_node.dds import use_image_profile  # noqa: E402
from perception_node.diagnostics import DROPPED  # noqa: E402
from perception_node.main import RCLError, main, spin  # noqa: E402
from perception_node.messages import MessageFactory, camera_image  # noqa: E402
from perception_node.topics import NODE, OUTPUTS  # noqa: E402

pytestmark = pytest.mark.ros
TIMEOUT_S = 60


def start_node(*parameters):
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    return subprocess.Popen(
        [sys.executable, "-m", "perception_node.main", "--ros-args", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stop_node(process):
    """Interrupts it, as Ctrl-C and ros2 launch do; its status and what it said."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, said


class Camera:
    """Publishes images to the node and collects what it answers, by topic."""

    def __init__(self, topics):
        use_image_profile()
        rclpy.init()
        self.node = rclpy.create_node("camera")
        self.make = MessageFactory.rclpy()
        self.image = self.node.create_publisher(Image, "image", QoSProfile(depth=5))
        self.camera_info = self.node.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=5))
        self.answers = {topic: [] for topic in (*topics, "label_info", "diagnostics")}
        for topic in topics:
            message_class = self.make.message_class(OUTPUTS[topic].type)
            self.node.create_subscription(message_class, f"{NODE}/{topic}", self.answers[topic].append, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(LabelInfo, f"{NODE}/label_info", self.answers["label_info"].append, latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.answers["diagnostics"].append, 10)

    def spin_until(self, condition):
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, {topic: len(found) for topic, found in self.answers.items()}
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def send(self, stamp_ns, pixels, encoding="bgr8", **wrong):
        message = self.make.image(self.make.header(stamp_ns, "cam"), pixels, encoding)
        for field, value in wrong.items():
            setattr(message, field, value)
        self.image.publish(message)

    def ask(self, stamp_ns, pixels, encoding="bgr8"):
        """The answers to one image, by topic. It is sent until every topic answers: until both sides have found each
        other, images and answers are lost."""

        def answered():
            found = {topic: [m for m in self.answers[topic] if m.header.stamp.nanosec == stamp_ns] for topic in OUTPUTS}
            return all(found.values()) and {topic: messages[0] for topic, messages in found.items()}

        def sent_and_answered():
            if self.diagnostic("waiting") == "0":
                self.send(stamp_ns, pixels, encoding)
            return answered()

        self.spin_until(sent_and_answered)
        return answered()

    def diagnostic(self, key):
        """A value of the node's newest diagnostics; None before the first."""
        arrays = self.answers["diagnostics"]
        return {item.key: item.value for item in arrays[-1].status[0].values}[key] if arrays else None

    def close(self):
        self.node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def camera():
    camera = Camera([*OUTPUTS])
    yield camera
    camera.close()


@pytest.fixture
def node(tiny_model):
    process = start_node(f"model:={tiny_model}")
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_every_output_has_the_images_header_and_the_ids_agree(node, camera):
    answers = camera.ask(6, np.zeros((8, 16, 3), np.uint8))
    for topic, message in answers.items():
        header = message.header
        assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (0, 6, "cam"), topic
    encodings = {topic: (m.encoding, m.height, m.width) for topic, m in answers.items() if hasattr(m, "encoding")}
    expected = dict.fromkeys(("class_map", "confidence", "drivable_area"), ("mono8", 8, 16))
    assert encodings == {**expected, "instance_map": ("16UC1", 8, 16), "overlay": ("bgr8", 8, 16)}
    ids = np.frombuffer(answers["instance_map"].data, np.uint16)
    detections = answers["instances"].detections
    assert {int(d.id) for d in detections} == set(np.unique(ids)) - {0} != set()
    class_map = np.frombuffer(answers["class_map"].data, np.uint8)
    assert {int(d.results[0].hypothesis.class_id) for d in detections} == set(np.unique(class_map[ids > 0])) == {2}
    assert camera_image(answers["overlay"]).bgr().any()
    camera.spin_until(lambda: camera.answers["label_info"])
    (label_info,) = camera.answers["label_info"]
    assert [(c.class_id, c.class_name) for c in label_info.class_map] == [(0, "road"), (1, "sky"), (2, "car")]


def test_bad_images_are_refused_and_counted_and_the_node_goes_on(node, camera):
    picture = np.zeros((8, 8, 3), np.uint8)
    camera.ask(1, picture)
    bad = [{"encoding": "32FC1"}, {"step": 7}, {"height": 9}, {"width": 0}]
    for wrong in bad:
        refused = int(camera.diagnostic("refused"))

        def sent_and_refused(wrong=wrong, refused=refused):
            if camera.diagnostic("waiting") == "0":
                camera.send(2, picture, **wrong)
            return int(camera.diagnostic("refused")) > refused

        camera.spin_until(sent_and_refused)
    assert camera.answers["diagnostics"][-1].status[0].level == b"\x02"  # ERROR: not one could be used
    camera.ask(3, picture, "rgb8")
    camera.spin_until(lambda: camera.diagnostic("waiting") == "0")
    counts = {name: int(camera.diagnostic(name)) for name in ("received", "processed", *DROPPED)}
    assert counts["refused"] >= 4
    assert counts["failed"] == 0, stop_node(node)
    assert counts["received"] == counts["processed"] + counts["superseded"] + counts["refused"]
    status, said = stop_node(node)
    assert status == 0, said
    assert "image refused: encoding: '32FC1' is not supported" in said


def test_diagnostics_tell_stage_times_cameras_and_calibration(node, camera):
    camera.spin_until(lambda: camera.diagnostic("cameras") == "1")
    assert camera.diagnostic("camera_info") == "none yet"
    camera.ask(1, np.zeros((8, 8, 3), np.uint8))
    camera.camera_info.publish(CameraInfo())
    camera.spin_until(lambda: camera.diagnostic("camera_info") == "yes" and camera.diagnostic("waiting") == "0")
    for stage in ("preprocess", "network", "fusion", "drivable", "publish"):
        assert float(camera.diagnostic(f"{stage} p50 ms")) >= 0


def test_an_interrupted_node_ends_in_order(node, camera):
    camera.ask(1, np.zeros((8, 8, 3), np.uint8))
    status, said = stop_node(node)
    assert status == 0, said
    assert "Traceback" not in said


def test_a_node_that_was_killed_takes_up_the_stream_when_it_is_started_again(tiny_model, camera):
    picture = np.zeros((8, 8, 3), np.uint8)
    for stamp in (1, 2):
        process = start_node(f"model:={tiny_model}")
        camera.ask(stamp, picture)
        camera.spin_until(lambda n=stamp: len(camera.answers["label_info"]) >= n)  # may come after the answers
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert len(camera.answers["label_info"]) == 2  # latched


def test_a_lifecycle_manager_can_start_and_stop_the_node(tiny_model, camera):
    """By the services that `ros2 lifecycle` and `ros2 param` call."""
    process = start_node(f"model:={tiny_model}", "autostart:=false")

    def call(service_type, name, request):
        """Asks until an answer comes: the first is lost if the node has not found the asker yet."""
        client = camera.node.create_client(service_type, f"{NODE}/{name}")
        camera.spin_until(client.service_is_ready)
        futures = []

        def answered():
            if len(futures) < 20:
                futures.append(client.call_async(request))
                rclpy.spin_until_future_complete(camera.node, futures[-1], timeout_sec=1.0)
            return any(future.done() for future in futures)

        camera.spin_until(answered)
        camera.node.destroy_client(client)
        return next(future.result() for future in futures if future.done())

    def state():
        return call(GetState, "get_state", GetState.Request()).current_state.label

    def change(label):
        """The state that it leads to."""
        call(ChangeState, "change_state", ChangeState.Request(transition=Transition(label=label)))
        return state()

    try:
        assert state() == "unconfigured"
        transitions = call(GetAvailableTransitions, "get_available_transitions", GetAvailableTransitions.Request())
        labels = {found.transition.label for found in transitions.available_transitions}
        assert labels == {"configure", "shutdown"}
        assert [change(label) for label in ("configure", "activate")] == ["inactive", "active"]
        camera.ask(1, np.zeros((8, 8, 3), np.uint8))
        request = SetParametersAtomically.Request(
            parameters=[
                Parameter("min_score", value=0.5).to_parameter_msg(),
                Parameter("model", value="other").to_parameter_msg(),
            ]
        )
        result = call(SetParametersAtomically, "set_parameters_atomically", request).result
        assert not result.successful
        assert "model: can be changed only while unconfigured" in result.reason
        (described,) = call(
            DescribeParameters, "describe_parameters", DescribeParameters.Request(names=["max_age"])
        ).descriptors
        assert described.description
        states = [change(label) for label in ("deactivate", "cleanup", "shutdown")]
        assert states == ["inactive", "unconfigured", "finalized"]
        status, said = stop_node(process)
        assert status == 0, said
    finally:
        process.kill()
        process.communicate()


@contextmanager
def cameras_of(path, cameras, *arguments):
    """A process with a node for each camera of a file."""
    path.write_text(f"cameras:\n{cameras}")
    command = [sys.executable, "-m", "perception_node.main", "--cameras", str(path), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_cameras_of_a_file_are_nodes_of_one_process(tiny_model, tmp_path, camera):
    cameras = "- {name: front, image: /image}\n- {name: rear, parameters: {priority: 3}}\n"
    arguments = ["--namespace", "car", "--ros-args", "-p", f"model:={tiny_model}"]
    with cameras_of(tmp_path / "cameras.yaml", cameras, *arguments) as process:
        names = {f"/car/{name}/{NODE}: perception" for name in ("front", "rear")}
        answers = camera.answers["diagnostics"]
        camera.spin_until(lambda: {array.status[0].name for array in answers} >= names)
        status, said = stop_node(process)
    assert status == 0, said
    assert "Traceback" not in said


def test_of_several_cameras_one_that_cannot_be_started_leaves_the_others(tiny_model, tmp_path, camera):
    cameras = "- {name: front, parameters: {model: nope}}\n- {name: odd, parameters: {min_score: 7.0}}\n- {name: rear}"
    told = {}
    with cameras_of(tmp_path / "cameras.yaml", cameras, "--ros-args", "-p", f"model:={tiny_model}") as process:

        def is_told():
            told.update({array.status[0].name: array.status[0].message for array in camera.answers["diagnostics"]})
            return told.get(f"/rear/{NODE}: perception", "").startswith("no image") and len(told) == 2

        camera.spin_until(is_told)
        status, said = stop_node(process)
    assert told[f"/front/{NODE}: perception"].startswith("cannot become inactive: model 'nope': no such folder")
    assert status == 0, said
    assert "camera odd: " in said
    assert "min_score" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.yaml").unlink(), "has no model.yaml"),
        (lambda folder: (folder / "model.onnx").write_bytes(b""), "model.yaml:2: sha256: "),
    ],
)
def test_a_wrong_model_ends_the_node_with_one_line(tiny_model, change, message):
    change(tiny_model)
    process = start_node(f"model:={tiny_model}")
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "max_age:=1"], "Trying to set parameter 'max_age' to '1' of type 'INTEGER', expecting type 'DOUBLE'"),
        (["-p", "model:=5"], "Trying to set parameter 'model' to '5' of type 'INTEGER', expecting type 'STRING'"),
        (["-p", "device:=true"], "Trying to set parameter 'device' to 'True' of type 'BOOL', expecting type 'STRING'"),
        (["-p", "engine:=tvm"], "engine 'tvm': device cpu has no such; expected: auto, onnxruntime or openvino"),
        (["-p", "threads:=abc"], "expecting type 'INTEGER': threads"),
        (["-p", "threads:=-1"], "Parameter threads out of range. Min: 0, Max: 256, value: -1"),
        (["--params-file", "/nowhere"], "Couldn't parse params file: '--params-file /nowhere'"),
        (["-r", "a:=b:=c"], "Couldn't parse remap rule: '-r a:=b:=c'"),
    ],
)
def test_wrong_arguments_end_the_node_with_a_line(arguments, message, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["perception_node", "--ros-args", *arguments])
    assert main() == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_node_interrupted_while_it_starts_ends_in_order(monkeypatch):
    """The signal's handler shuts the context down; what the constructor does next fails."""

    monkeypatch.setattr(sys, "argv", ["perception_node"])
    monkeypatch.setattr("perception_node.worker.load_model", lambda _: rclpy.shutdown())
    monkeypatch.setattr("perception_node.worker.Pipeline", MagicMock())
    assert main() == 0


def test_an_interrupt_while_python_imports_the_node_ends_it_without_a_word():
    code = """
import importlib.abc, signal, sys

class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "perception_node.node":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from perception_node.__main__ import main
main()
sys.exit("was not interrupted")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_comes_out_of_the_executor_does_not_end_the_node(monkeypatch):
    """Before Kilted rclpy raises where somebody asks for a transition that the state does not allow."""
    node, executor = MagicMock(), MagicMock()
    executor.spin.side_effect = [RCLError("no 'activate' from here"), ZeroDivisionError(), ExternalShutdownException()]
    monkeypatch.setattr("perception_node.main.rclpy.ok", lambda: True)
    spin(node, executor)
    transition, other = (call.args[0] for call in node.get_logger().error.call_args_list)
    assert transition == "no 'activate' from here"
    assert "ZeroDivisionError" in other
    assert executor.spin.call_count == 3


def test_an_interrupt_raises_nothing_in_a_node_that_is_up(monkeypatch):
    """rclpy makes a RuntimeError of a KeyboardInterrupt that comes while it builds a message."""
    ended = []

    def spin(*_):
        signal.raise_signal(signal.SIGINT)
        ended.append("spin")

    monkeypatch.setattr(sys, "argv", ["perception_node"])
    monkeypatch.setattr("perception_node.main.PerceptionNode", MagicMock())
    monkeypatch.setattr("perception_node.main.spin", spin)
    handler = signal.getsignal(signal.SIGINT)
    assert main() == 0
    assert ended == ["spin"]
    assert signal.getsignal(signal.SIGINT) == handler
