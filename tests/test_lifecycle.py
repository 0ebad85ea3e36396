"""The node in this process: its states, its parameters, and what becomes of a frame."""

import contextlib
import os
import queue
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_tiny_model

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from perception_node.errors import BadImage, DeviceError  # noqa: E402
from perception_node.messages import MessageFactory  # noqa: E402
from perception_node.node import PerceptionNode, RCLError  # noqa: E402
from perception_node.parameters import PARAMETERS, PUBLISH  # noqa: E402
from perception_node.pipeline import Pipeline  # noqa: E402
from perception_node.topics import OUTPUTS  # noqa: E402
from perception_node.worker import DEVICE_FAILED, Workers  # noqa: E402

pytestmark = pytest.mark.ros
TIMEOUT_S = 60
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
MAKE = MessageFactory.rclpy()
GREY = np.full((8, 8, 3), 127, np.uint8)


class Publisher:
    """Stands in for one of the node's, and remembers what was published."""

    def __init__(self, subscribers=1):
        self.subscribers, self.topic_name = subscribers, "/topic"
        self.messages = queue.Queue()

    def get_subscription_count(self):
        return self.subscribers

    def publish(self, message):
        self.messages.put(message)

    def stamps(self):
        return [message.header.stamp.nanosec for message in list(self.messages.queue)]


@pytest.fixture
def make_node(tiny_model):
    """Makes nodes, each with parameters and the workers that it shares."""
    rclpy.init()
    nodes = []

    def make(workers=None, namespace=None, words=(), **parameters):
        overrides = [Parameter(name, value=value) for name, value in {"model": str(tiny_model), **parameters}.items()]
        options = {"namespace": namespace, "cli_args": ["--ros-args", *words], "parameter_overrides": overrides}
        nodes.append(PerceptionNode(workers, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def node(make_node):
    return make_node()


def start(node, **subscribers):
    """Activates the node with publishers of ours, by topic: with as many subscribers as is said, else with one, or none
    if the topic is compressed."""
    if node.state == "unconfigured":
        assert node.trigger_configure() == SUCCESS
        topics = [publisher.topic_name.partition("perception_node/")[2] for _, _, publisher in node._outputs]
        for _, _, publisher in node._outputs:
            node.destroy_publisher(publisher)
        ours = {topic: Publisher(subscribers.get(topic, int(topic in OUTPUTS))) for topic in topics}
        node._outputs = [(*found[:2], ours[topic]) for topic, found in zip(topics, node._outputs, strict=True)]
        node.publishers_of_the_test = ours
    assert node.trigger_activate() == SUCCESS
    return node.publishers_of_the_test


def send(node, stamp_ns, pixels=GREY, encoding="bgr8"):
    node._on_image(MAKE.image(MAKE.header(stamp_ns, "camera"), pixels, encoding))


def settle(node):
    """Waits until every image that was sent is dealt with."""
    end = time.monotonic() + TIMEOUT_S
    while node._figures.values()["waiting"]:
        assert time.monotonic() < end, counts(node)
        time.sleep(0.001)


def counts(node):
    return {name: count for name, count in node._figures.counts.items() if count}


def set_parameter(node, name, value):
    """The reason why it was refused, or nothing."""
    (result,) = node.set_parameters([Parameter(name, value=value)])
    return result.reason


# ---- states ----


def test_every_transition(node):
    assert node.state == "unconfigured"
    states = []
    for change in ("configure", "activate", "deactivate", "activate", "deactivate", "cleanup", "configure", "activate"):
        assert getattr(node, f"trigger_{change}")() == SUCCESS
        states.append(node.state)
    assert states == [
        "inactive",
        *("active", "inactive") * 2,
        "unconfigured",
        *("inactive", "active"),
    ]
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


@pytest.mark.parametrize("transition", ["activate", "deactivate", "cleanup"])
def test_what_a_state_does_not_allow_changes_nothing(node, transition):
    with contextlib.suppress(RCLError):  # of ROS before Kilted
        assert getattr(node, f"trigger_{transition}")() == TransitionCallbackReturn.ERROR
    assert node.state == "unconfigured"
    assert node.trigger_configure() == SUCCESS


def test_only_an_active_node_listens(node):
    def topics():
        return {subscription.topic_name for subscription in node.subscriptions} & {"/image", "/camera_info"}

    node.trigger_configure()
    assert topics() == set()
    worker = node._worker
    node.trigger_activate()
    assert topics() == {"/image", "/camera_info"}
    node.trigger_deactivate()
    assert topics() == set()
    assert node._worker is worker  # the engine stays
    node.trigger_cleanup()
    assert node._worker is None
    assert not worker._thread.is_alive()
    assert not {publisher.topic_name for publisher in node.publishers} & {
        f"/perception_node/{name}" for name in OUTPUTS
    }


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "active"])
def test_shutdown_frees_all_from_every_state(make_node, state):
    workers = Workers()
    node = make_node(workers)
    for change in {"unconfigured": (), "inactive": ("configure",), "active": ("configure", "activate")}[state]:
        getattr(node, f"trigger_{change}")()
    assert node.trigger_shutdown() == SUCCESS
    assert (node.state, workers._workers, workers._users) == ("finalized", {}, {})


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda folder: (folder / "model.yaml").unlink(), "has no model.yaml"),
        (lambda folder: (folder / "model.onnx").unlink(), "there is no file"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"corrupt"), "sha256"),
    ],
    ids=["missing", "no network", "corrupt"],
)
def test_a_model_that_cannot_be_loaded_fails_to_configure_and_can_be_mended(
    node, tiny_model, tmp_path, breakage, message, capfd
):
    breakage(tiny_model)
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    said = capfd.readouterr().err
    assert "cannot become inactive, stays unconfigured: " in said
    assert message in said
    assert "Traceback" not in said
    assert set_parameter(node, "model", str(write_tiny_model(tmp_path / "mended"))) == ""
    assert node.trigger_configure() == SUCCESS


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), DeviceError("out of memory")])
def test_no_memory_for_the_engine_fails_to_configure_and_leaves_nothing(node, monkeypatch, error, capfd):
    def warm_up(self):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "warm_up", warm_up)
        assert node.trigger_configure() == FAILURE
    assert (node.state, node._worker, node._workers._workers) == ("unconfigured", None, {})
    assert str(error) in capfd.readouterr().err
    assert node.trigger_configure() == SUCCESS


def test_a_fusion_option_that_is_refused_fails_to_configure_and_leaves_nothing(make_node, capfd):
    workers = Workers()
    node = make_node(workers, **{"fusion.nms_kernel": 4})
    assert node.trigger_configure() == FAILURE
    assert (node.state, node._worker, workers._workers) == ("unconfigured", None, {})
    assert "fusion.nms_kernel" in capfd.readouterr().err


def test_diagnostics_tell_why_a_node_could_not_be_configured(node, tiny_model, monkeypatch):
    told = []
    monkeypatch.setattr(node, "_send", lambda _, array: told.append(array.status[0]))
    (tiny_model / "model.yaml").rename(tiny_model / "away")
    node.trigger_configure()
    node._publish_diagnostics()
    (tiny_model / "away").rename(tiny_model / "model.yaml")
    node.trigger_configure()
    node._publish_diagnostics()
    assert [status.level for status in told] == [b"\2", b"\0"]
    assert told[0].message.startswith("cannot become inactive: ")
    assert "has no model.yaml" in told[0].message


def test_a_camera_that_cannot_be_subscribed_to_leaves_the_node_inactive(node, monkeypatch):
    node.trigger_configure()
    with monkeypatch.context() as patch:
        patch.setattr(node, "create_subscription", lambda *_: 1 / 0)
        assert node.trigger_activate() == FAILURE
    assert node.state == "inactive"
    assert node.trigger_activate() == SUCCESS


def test_an_error_while_deactivating_frees_all_and_is_told(node, monkeypatch):
    start(node)
    worker = node._worker

    def fail_once(_):
        monkeypatch.undo()
        raise RuntimeError("odd")

    monkeypatch.setattr(worker, "stop", fail_once)
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert (node.state, node._worker, node._why_not) == ("unconfigured", None, "cannot become inactive: odd")
    assert not worker._thread.is_alive()
    assert node.trigger_configure() == SUCCESS


# ---- parameters ----


def test_every_parameter_is_described(node):
    node.trigger_configure()
    own = [name for name in node._parameters if name not in ("use_sim_time", "start_type_description_service")]
    assert {"model", "autostart", "max_age", "publish.overlay", "fusion.center_threshold"} <= set(own)
    for descriptor in node.describe_parameters(own):
        assert descriptor.description, descriptor.name
        assert descriptor.type != 0
        assert descriptor.additional_constraints.startswith("can be changed ")
    assert node.describe_parameter("autostart").read_only
    (threads,) = node.describe_parameter("threads").integer_range
    assert (threads.from_value, threads.to_value) == (0, 256)


def row(parameter):
    """Of the table in docs/node.md."""
    default = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
    limits = ", ".join(parameter.choices)
    if parameter.range:
        limits = "{:.9g} to {:.9g}".format(*parameter.range)
    cells = (
        f"`{parameter.name}`",
        "(empty)" if default == "" else default,
        limits,
        parameter.change,
        parameter.description,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def test_the_documentation_has_every_parameter():
    text = Path(__file__).parents[1].joinpath("docs/node.md").read_text()
    rows = [row(parameter) for parameter in PARAMETERS if not parameter.name.startswith(PUBLISH)]
    assert [line for line in rows if line not in text] == []  # these are to be in the table


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("model", "other", "can be changed only while unconfigured, the node is inactive; ros2 lifecycle set"),
        ("autostart", False, "read-only"),
        ("min_score", 1.5, "out of range"),
        ("min_score", float("nan"), ""),
        ("priority", 0, "out of range"),
        ("max_age", 1, "type"),
        ("fusion.nms_kernel", 4, "odd"),
        ("fusion.top_k", 0, "out of range"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(node, name, value, reason):
    node.trigger_configure()
    before = node.get_parameter(name).value
    said = set_parameter(node, name, value)
    assert said
    assert reason in said
    assert node.get_parameter(name).value == node._settings[name] == before


def test_a_grid_that_is_wrong_from_the_start_refuses_no_other_parameter(make_node):
    node = make_node(grid_x_min=60.0)
    assert set_parameter(node, "min_score", 0.5) == ""
    assert "grid_x_max" in set_parameter(node, "grid_x_min", 50.0)


def test_of_several_values_set_at_once_a_wrong_one_refuses_all(node):
    node.trigger_configure()
    good, wrong = Parameter("min_score", value=0.5), Parameter("fusion.nms_kernel", value=2)
    result = node.set_parameters_atomically([good, wrong])
    assert not result.successful
    assert node._settings["min_score"] == 0.0


def test_the_engines_parameters_can_be_changed_while_unconfigured(node):
    node.trigger_configure()
    node.trigger_cleanup()
    assert set_parameter(node, "threads", 1) == ""
    assert "device cpu has no such" in set_parameter(node, "engine", "tensorrt")
    assert "expected: fp32, fp16, int8" in set_parameter(node, "precision", "fp8")
    node.trigger_configure()
    assert node._worker._options.threads == 1


def test_fusion_thresholds_are_the_manifests_and_can_be_changed_while_active(make_node):
    node = make_node(**{"fusion.stuff_area": 5})
    outputs = start(node)
    assert (node._settings["fusion.nms_kernel"], node._settings["fusion.stuff_area"]) == (3, 5)
    send(node, 1)
    assert len(outputs["instances"].messages.get(timeout=TIMEOUT_S).detections) == 1
    assert set_parameter(node, "fusion.center_threshold", 1e6) == ""
    send(node, 2)
    assert outputs["instances"].messages.get(timeout=TIMEOUT_S).detections == []


def test_min_score_leaves_instances_out_of_every_topic(node):
    outputs = start(node)
    assert set_parameter(node, "min_score", 1.0) == ""
    send(node, 1)
    settle(node)
    assert outputs["instances"].messages.get(timeout=TIMEOUT_S).detections == []
    assert not np.any(outputs["instance_map"].messages.get(timeout=TIMEOUT_S).data)
    assert set(outputs["class_map"].messages.get(timeout=TIMEOUT_S).data) == {0, 1, 255}


def test_topics_can_be_switched_off(node):
    outputs = start(node)
    assert set_parameter(node, "publish.confidence", False) == ""
    send(node, 1)
    settle(node)
    assert [name for name, publisher in outputs.items() if publisher.stamps()] == [
        name for name in OUTPUTS if name != "confidence"
    ]


def test_what_is_switched_off_is_not_compressed_either(node):
    outputs = start(node, **{"class_map/compressed": 1, "overlay/compressed": 1})
    set_parameter(node, "publish.class_map", False)
    send(node, 1)
    settle(node)
    assert not outputs["class_map/compressed"].stamps()
    assert outputs["overlay/compressed"].stamps() == [1]


def test_the_transport_of_the_images_can_be_changed_while_inactive(node):
    def topics():
        return {subscription.topic_name for subscription in node.subscriptions if "image" in subscription.topic_name}

    start(node)
    assert topics() == {"/image"}
    assert "ros2 lifecycle set /perception_node deactivate" in set_parameter(node, "image_transport", "compressed")
    node.trigger_deactivate()
    assert "expected: raw, compressed" in set_parameter(node, "image_transport", "h264")
    assert set_parameter(node, "image_transport", "compressed") == ""
    node.trigger_activate()
    assert topics() == {"/image/compressed"}


@pytest.mark.parametrize(
    ("remap", "topic"),
    [
        ("image:=/front/image_raw", "/front/image_raw/compressed"),
        ("image:=/front/image_raw/compressed", "/front/image_raw/compressed"),
        ("image/compressed:=/front/jpeg", "/front/jpeg"),
    ],
)
def test_compressed_images_may_be_remapped_with_or_without_the_transport(make_node, remap, topic):
    node = make_node(words=["-r", remap], image_transport="compressed")
    node.trigger_configure()
    node.trigger_activate()
    assert topic in {subscription.topic_name for subscription in node.subscriptions}
    assert node._image_topic() == topic


@pytest.mark.parametrize(
    ("remaps", "topics"),
    [
        (["~/overlay:=/seen"], {"/seen", "/seen/compressed"}),
        (["~/overlay:=/seen", "~/overlay/compressed:=/jpeg"], {"/seen", "/jpeg"}),
        (["~/overlay/compressed:=/jpeg"], {"/perception_node/overlay", "/jpeg"}),
    ],
)
def test_what_is_remapped_is_remapped_compressed_too(make_node, remaps, topics):
    node = make_node(words=[word for remap in remaps for word in ("-r", remap)])
    node.trigger_configure()
    publishers = {publisher.topic_name for publisher in node.publishers}
    assert topics | {"/perception_node/class_map", "/perception_node/class_map/compressed"} <= publishers


# ---- frames ----


class Stopped(Pipeline):
    """Waits in each frame until it is let go."""

    entered, go = threading.Semaphore(0), threading.Semaphore(0)

    def finish(self):
        Stopped.entered.release()
        assert Stopped.go.acquire(timeout=TIMEOUT_S)
        return super().finish()

    def warm_up(self):
        pass

    compile_all = warm_up


@pytest.fixture
def stopped(monkeypatch):
    """The class of pipelines that are as slow as the test wants."""
    Stopped.entered, Stopped.go = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr("perception_node.worker.Pipeline", Stopped)
    yield Stopped
    Stopped.go.release(100)


def test_newest_frame_wins_and_what_loses_is_counted(node, stopped):
    outputs = start(node)
    send(node, 1)
    assert stopped.entered.acquire(timeout=TIMEOUT_S)
    for stamp in range(2, 32):
        send(node, stamp)
    stopped.go.release(2)
    settle(node)
    assert outputs["class_map"].stamps() == [1, 31]
    assert counts(node) == {"received": 31, "processed": 2, "superseded": 29}


def test_an_image_that_waits_while_the_node_deactivates_is_counted(node, stopped):
    start(node)
    send(node, 1)
    assert stopped.entered.acquire(timeout=TIMEOUT_S)
    send(node, 2)
    stopping = threading.Thread(target=node.trigger_deactivate)
    stopping.start()
    stopped.go.release()
    stopping.join(TIMEOUT_S)
    assert counts(node) == {"received": 2, "processed": 1, "superseded": 1}


def test_images_that_are_too_old_are_dropped(node):
    outputs = start(node)
    assert set_parameter(node, "max_age", 3600.0) == ""
    now = node.get_clock().now().nanoseconds
    send(node, now - 3601 * 10**9)
    settle(node)
    send(node, now)
    settle(node)
    assert outputs["class_map"].stamps() == [now % 10**9]
    assert counts(node) == {"received": 2, "processed": 1, "stale": 1}


def test_more_images_than_max_rate_are_dropped(node, monkeypatch):
    start(node)
    set_parameter(node, "max_rate", 10.0)
    seconds = iter(np.arange(30) / 30 + 1000)
    monkeypatch.setattr("perception_node.node.time.monotonic", lambda: next(seconds))
    accepted = [node._is_due() for _ in range(30)]
    monkeypatch.undo()
    assert 9 <= sum(accepted) <= 11
    set_parameter(node, "max_rate", 0.0)
    assert all(node._is_due() for _ in range(30))


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_images_that_are_too_large_are_refused_before_they_cost_anything(make_node, monkeypatch, transport, capfd):
    node = make_node(image_transport=transport, max_pixels=63)
    outputs = start(node)
    make = MAKE.image if transport == "raw" else MAKE.compressed_image
    message = make(MAKE.header(1, "camera"), GREY, "bgr8")
    with monkeypatch.context() as patch:
        patch.delattr("cv2.imdecode")
        node._on_image(message)
        settle(node)
    assert "63" in capfd.readouterr().err
    assert set_parameter(node, "max_pixels", 64) == ""
    node._on_image(message)
    settle(node)
    assert counts(node) == {"received": 2, "processed": 1, "refused": 1}
    assert outputs["class_map"].stamps() == [1]


def test_another_max_rate_counts_at_once(node):
    start(node)
    set_parameter(node, "max_rate", 0.001)
    assert [node._is_due() for _ in range(3)] == [True, True, False]
    set_parameter(node, "max_rate", 1000.0)
    assert node._is_due()


def test_another_period_of_the_diagnostics_counts_at_once(make_node):
    node = make_node(diagnostics_period=60.0)
    set_parameter(node, "diagnostics_period", 0.1)
    assert node._diagnostics_timer.time_until_next_call() <= 0.1 * 10**9


def test_nothing_is_computed_that_nobody_subscribes_to(node, monkeypatch):
    outputs = start(node, overlay=0, drivable_area=0)
    monkeypatch.delattr("perception_node.image.CameraImage.bgr")
    monkeypatch.delattr("perception_node.topics.connected_surface")
    send(node, 1, np.zeros((4, 6, 2), np.uint8), "uyvy")
    settle(node)
    published = {name for name, publisher in outputs.items() if publisher.stamps()}
    assert published == {*OUTPUTS} - {"overlay", "drivable_area"}
    assert counts(node) == {"received": 1, "processed": 1}


def test_a_message_that_dds_does_not_take_is_warned_of_and_the_others_are_sent(node, capfd):
    outputs = start(node)

    def refuse(_):
        raise RCLError("cannot publish data")

    outputs["class_map"].publish = refuse
    send(node, 1)
    settle(node)
    assert outputs["overlay"].stamps() == [1]
    assert "/topic: not sent: cannot publish data" in capfd.readouterr().err


@pytest.mark.parametrize("codec", [".png", ".jpg"])
def test_compressed_images_are_taken_and_garbage_is_refused(make_node, codec, capfd):
    node = make_node(image_transport="compressed")
    outputs = start(node)
    compressed = MAKE.message_class("sensor_msgs/msg/CompressedImage")
    _, data = cv2.imencode(codec, np.zeros((6, 10, 3), np.uint8))
    for stamp, content in enumerate((data.tobytes(), data.tobytes()[:20], b"", data.tobytes())):
        node._on_image(compressed(header=MAKE.header(stamp, "camera"), format=codec, data=content))
        settle(node)
    assert outputs["class_map"].stamps() == [0, 3]
    assert (outputs["class_map"].messages.get().height, outputs["class_map"].messages.get().width) == (6, 10)
    assert counts(node) == {"received": 4, "processed": 2, "refused": 2}
    assert "image refused: data: not a JPEG or PNG image" in capfd.readouterr().err


def test_compressed_maps_are_the_maps(node):
    maps = ("class_map", "instance_map", "confidence", "drivable_area")
    outputs = start(node, **{f"{name}/compressed": 1 for name in maps})
    send(node, 1)
    settle(node)
    for name in maps:
        raw, compressed = outputs[name].messages.get(), outputs[f"{name}/compressed"].messages.get()
        dtype = np.uint16 if raw.encoding == "16UC1" else np.uint8
        pixels = cv2.imdecode(np.frombuffer(compressed.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == dtype
        np.testing.assert_array_equal(pixels, np.frombuffer(raw.data, dtype).reshape(8, 8), name)
        assert compressed.format == f"{raw.encoding}; png compressed {raw.encoding}"
        assert compressed.header == raw.header


@pytest.mark.parametrize(
    ("error", "reason"), [(BadImage("data", "garbled"), "refused"), (RuntimeError("odd"), "failed")]
)
def test_an_image_that_cannot_be_used_is_counted_and_the_next_one_is(node, monkeypatch, error, reason):
    outputs = start(node)
    with monkeypatch.context() as patch:

        def bad(*_):
            patch.undo()
            raise error

        patch.setattr("perception_node.node.camera_image", bad)
        send(node, 1)
        settle(node)
    send(node, 2)
    settle(node)
    assert outputs["class_map"].stamps() == [2]
    assert counts(node) == {"received": 2, "processed": 1, reason: 1}


def test_a_network_that_fails_costs_an_image_and_no_more(node, monkeypatch, capfd):
    """As where ONNX Runtime gets no memory: another kind of exception than the device's."""
    outputs = start(node)

    def fail(*_):
        monkeypatch.undo()
        raise RuntimeError("Failed to allocate memory")

    monkeypatch.setattr(node._worker._engine._engine, "infer", fail)
    send(node, 1)
    settle(node)
    send(node, 2)
    settle(node)
    assert outputs["class_map"].stamps() == [2]
    assert counts(node) == {"received": 2, "processed": 1, "failed": 1}
    assert "image lost: RuntimeError: Failed to allocate memory" in capfd.readouterr().err
    assert node.trigger_deactivate() == SUCCESS


# ---- a device that fails ----


@pytest.fixture
def failing(node, monkeypatch):
    """An active node whose device fails at the next image."""
    outputs = start(node)

    def fail(*_):
        monkeypatch.undo()
        raise DeviceError("lost")

    monkeypatch.setattr("perception_node.pipeline.start_together", fail)
    return node, outputs


def test_after_the_device_failed_the_pipeline_is_made_anew(failing, capfd):
    node, outputs = failing
    set_parameter(node, "fusion.stuff_area", 6)
    old = node._worker._pipelines[node]
    send(node, 1)
    settle(node)
    send(node, 2)
    assert outputs["class_map"].messages.get(timeout=TIMEOUT_S).header.stamp.nanosec == 2
    new = node._worker._pipelines[node]
    assert new is not old
    assert (new.timer, new.model.fusion["stuff_area"]) == (node.timer, 6)
    settle(node)
    assert counts(node) == {"received": 2, "processed": 1, "failed": 1}
    said = capfd.readouterr().err
    assert "lost; making the pipeline anew" in said
    assert "the pipeline works again" in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # SystemExit, for the process's end
@pytest.mark.parametrize("error", [DeviceError("lost for good"), TypeError("lost for good")])
def test_where_no_new_pipeline_works_the_process_ends(failing, monkeypatch, error, capfd):
    node, _ = failing
    ended = queue.Queue()

    def end(status):
        ended.put(status)
        sys.exit()

    def open_anew(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", end)
        patch.setattr("perception_node.worker.EngineOptions.open", open_anew)
        send(node, 1)
        assert ended.get(timeout=TIMEOUT_S) == DEVICE_FAILED
        node._worker._thread.join(TIMEOUT_S)
    node._worker = node._publishing = None  # in earnest the process has ended
    assert "no pipeline: lost for good; this process ends, start it again (respawn)" in capfd.readouterr().err


# ---- tracking ----


def test_ids_last_and_are_never_given_again(node):
    """The tiny network sees the same car in every image; a bag that loops and a cleanup make it another."""
    pytest.importorskip("scipy", reason="tracking needs scipy")

    def ids(outputs):
        return [int(each.id) for message in list(outputs["instances"].messages.queue) for each in message.detections]

    outputs = start(node)
    for stamp_ns in (10, 20, 30, 5, 6):
        send(node, stamp_ns)
        settle(node)
    assert ids(outputs) == [1, 1, 1, 2, 2]
    assert [message.width for message in list(outputs["tracks"].messages.queue)] == [1] * 5
    assert set_parameter(node, "tracking.min_hits", 3) == ""
    assert node._tracker.options.min_hits == 3
    node.trigger_deactivate()
    node.trigger_cleanup()

    outputs = start(node)
    send(node, 40)
    settle(node)
    assert set_parameter(node, "tracking.enabled", False) == ""
    send(node, 50)
    settle(node)
    assert ids(outputs) == [3, 1]  # the last as fusion numbers it
    assert [message.width for message in list(outputs["tracks"].messages.queue)] == [1, 0]


def test_without_scipy_ids_do_not_last_and_it_is_said(node, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    outputs = start(node)
    for stamp_ns in (20, 10):
        send(node, stamp_ns)
        settle(node)
    assert [message.detections[0].id for message in list(outputs["instances"].messages.queue)] == ["1", "1"]
    assert "ids will not last: tracking needs scipy" in capfd.readouterr().err
