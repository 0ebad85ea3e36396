"""Several cameras in this process that share one engine: rates, faults, priorities. And time that jumps."""

import threading

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")

from conftest import write_tiny_model  # noqa: E402
from rclpy.clock import ClockType  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.time import Time  # noqa: E402
from test_lifecycle import (  # noqa: E402
    FAILURE,
    GREY,
    MAKE,
    TIMEOUT_S,
    counts,
    make_node,  # noqa: F401
    send,
    settle,
    start,
    stopped,  # noqa: F401
)

import perception_node.pipeline  # noqa: E402
from perception_node.device.cpu import _load  # noqa: E402
from perception_node.errors import DeviceError  # noqa: E402
from perception_node.image import ENCODINGS  # noqa: E402
from perception_node.worker import Workers  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def front_and_rear(make_node):  # noqa: F811
    workers = Workers()
    return make_node(workers, namespace="front"), make_node(workers, namespace="rear")


def test_cameras_share_the_engine_and_nothing_else(front_and_rear):
    front, rear = front_and_rear
    outputs = start(front), start(rear)
    assert front._worker is rear._worker
    pipelines = [front._worker._pipelines[node] for node in front_and_rear]
    assert pipelines[0]._engine is pipelines[1]._engine
    assert pipelines[0]._fusion is not pipelines[1]._fusion
    front.set_parameters([Parameter("fusion.center_threshold", value=1e6)])
    for node, size in ((front, (8, 8)), (rear, (12, 20))):
        send(node, 1, np.zeros((*size, 3), np.uint8))
        settle(node)
    found = [len(topics["instances"].messages.get(timeout=TIMEOUT_S).detections) for topics in outputs]
    assert found == [0, 1]
    sizes = [topics["class_map"].messages.get(timeout=TIMEOUT_S) for topics in outputs]
    assert [(m.height, m.width) for m in sizes] == [(8, 8), (12, 20)]
    assert "network" in front.timer.percentiles()


@pytest.fixture
def at_once(make_node, tmp_path):  # noqa: F811
    """Two cameras whose images are inferred at once; and what sends images so that they wait together."""
    workers, model = Workers(), str(write_tiny_model(tmp_path / "any", batch="n"))
    nodes = [make_node(workers, namespace=name, model=model, max_batch=2) for name in ("front", "rear")]

    def send_to_both(*messages):
        go = threading.Event()
        nodes[0]._worker._scheduler.call(lambda: go.wait(TIMEOUT_S))
        for node, message in zip(nodes, messages, strict=True):
            node._on_image(message)
        go.set()
        for node in nodes:
            settle(node)

    return nodes, send_to_both


def test_images_of_both_cameras_are_inferred_at_once(at_once):
    """Of other sizes and encodings; thresholds, times and faults are each camera's own."""
    nodes, send_to_both = at_once
    outputs = [start(node) for node in nodes]
    nodes[1].set_parameters([Parameter("fusion.center_threshold", value=1e6)])
    header = MAKE.header(1, "camera")
    front = MAKE.image(header, GREY, "bgr8")
    send_to_both(front, MAKE.image(header, np.zeros((12, 20), np.uint8), "mono8"))
    assert list(nodes[0]._worker._batches) == [2]
    maps = [topics["class_map"].messages.get(timeout=TIMEOUT_S) for topics in outputs]
    assert [(m.height, m.width) for m in maps] == [(8, 8), (12, 20)]
    found = [len(topics["instances"].messages.get(timeout=TIMEOUT_S).detections) for topics in outputs]
    assert found == [1, 0]
    assert all(len(node.timer.milliseconds("network")) == 1 for node in nodes)

    garbage = MAKE.image(header, GREY, "bgr8")
    garbage.step = 7
    send_to_both(front, garbage)
    assert list(nodes[0]._worker._batches) == [2, 1]
    assert list(outputs[0]["class_map"].messages.get(timeout=TIMEOUT_S).data) == list(maps[0].data)
    assert [counts(node) for node in nodes] == [
        {"received": 2, "processed": 2},
        {"received": 2, "processed": 1, "refused": 1},
    ]
    assert nodes[0]._worker.about()["images at once"] == 1.5


def test_a_network_for_one_image_is_refused_for_several(make_node, capfd):  # noqa: F811
    node = make_node(max_batch=2)
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    said = capfd.readouterr().err
    assert "max_batch 2: " in said
    assert "takes one image at a time" in said
    node.set_parameters([Parameter("max_batch", value=1)])
    start(node)
    send(node, 1)
    settle(node)
    assert counts(node) == {"received": 1, "processed": 1}


def test_the_engine_stays_until_the_last_camera_has_left(front_and_rear):
    front, rear = front_and_rear
    outputs = start(front), start(rear)
    worker = front._worker
    front.trigger_deactivate()
    front.trigger_cleanup()
    send(rear, 1)
    settle(rear)
    assert outputs[1]["class_map"].stamps() == [1]
    assert worker._thread.is_alive()
    rear.trigger_shutdown()
    assert not worker._thread.is_alive()


def test_cameras_with_other_engines_do_not_share(make_node):  # noqa: F811
    workers = Workers()
    nodes = [make_node(workers, namespace=f"camera{threads}", threads=threads) for threads in (1, 2)]
    for node in nodes:
        start(node)
    assert nodes[0]._worker is not nodes[1]._worker


def test_a_camera_whose_subscribers_are_slow_stalls_no_other(front_and_rear):
    front, rear = front_and_rear
    slow, outputs = start(front), start(rear)
    let_go = threading.Event()

    def publish(message, publish=slow["class_map"].publish):
        assert let_go.wait(TIMEOUT_S)
        publish(message)

    slow["class_map"].publish = publish
    for stamp in range(1, 6):
        send(front, stamp)
        send(rear, stamp)
        settle(rear)
    assert outputs["class_map"].stamps() == [1, 2, 3, 4, 5]
    assert counts(front).get("processed", 0) == 0
    let_go.set()
    settle(front)
    # One at the subscriber, one segmented meanwhile, and the newest.
    assert slow["class_map"].stamps()[0] == 1
    assert slow["class_map"].stamps()[-1] == 5
    assert len(slow["class_map"].stamps()) == counts(front)["processed"] <= 3
    assert counts(front)["processed"] + counts(front)["superseded"] == 5


def test_cameras_of_different_rates_both_get_their_newest(front_and_rear, stopped):  # noqa: F811
    """The fast one sends five images in the time of a frame, the slow one sends one: they take turns."""
    front, rear = front_and_rear
    fast, slow = start(front), start(rear)
    send(front, 0)
    assert stopped.entered.acquire(timeout=TIMEOUT_S)
    for stamp in range(1, 6):
        send(front, stamp)
    send(rear, 100)
    for turn in (5, 10):
        stopped.go.release()  # one ends, the next begins
        assert stopped.entered.acquire(timeout=TIMEOUT_S)
        for stamp in range(turn + 1, turn + 6):
            send(front, stamp)
    stopped.go.release(100)
    settle(front)
    settle(rear)
    assert slow["class_map"].stamps() == [100]
    assert fast["class_map"].stamps()[0] == 0
    assert fast["class_map"].stamps()[-1] == 15
    assert len(fast["class_map"].stamps()) == 3


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (64, 64)])
def test_no_image_waits_for_a_compiler(make_node, size):  # noqa: F811
    """Whatever its encoding and size: else a camera that changes them would hold up the others."""
    _load.cache_clear()
    node = make_node()
    start(node)
    compiled = _load.cache_info().misses
    for encoding, kind in ENCODINGS.items():
        pixels = np.zeros((*size, kind.channels), np.uint8 if kind.depth == 1 else np.uint16)
        send(node, 1, pixels, encoding)
        settle(node)
    assert counts(node) == {"received": len(ENCODINGS), "processed": len(ENCODINGS)}
    assert _load.cache_info().misses == compiled


@pytest.fixture
def one_fails(front_and_rear, monkeypatch):
    """Has something fail in the front camera's turn, and sees that the next turn, of the rear one, goes well."""

    def run(target, name, error):
        front, rear = front_and_rear
        start(front)
        outputs = start(rear)

        def fail(*_):
            monkeypatch.undo()
            raise error

        monkeypatch.setattr(target(front), name, fail)
        for stamp, node in enumerate(front_and_rear):
            send(node, stamp)
            settle(node)
        assert counts(front) == {"received": 1, "failed": 1}
        assert outputs["class_map"].stamps() == [1]

    return run


def test_a_network_that_fails_in_one_cameras_turn_does_not_fail_in_anothers(one_fails):
    one_fails(lambda front: front._worker._engine._engine, "infer", MemoryError())


def test_a_failed_device_is_renewed_for_all_cameras(front_and_rear, one_fails, capfd):
    before = {}

    def started(front):
        before.update(front._worker._pipelines)
        return perception_node.pipeline

    one_fails(started, "start_together", DeviceError("lost"))
    after = front_and_rear[0]._worker._pipelines
    assert all(after[node] is not before[node] for node in front_and_rear)
    assert capfd.readouterr().err.count("the pipeline works again") == 2


# ---- time ----


def test_ages_are_in_the_nodes_time_and_it_may_jump(make_node):  # noqa: F811
    """As when a bag with /clock is played again from its begin, or from later."""
    node = make_node(use_sim_time=True, max_age=1.0)
    outputs = start(node)
    clock = node.get_clock()
    assert clock.ros_time_is_active
    second = 10**9
    for now, stamp in (
        (100.0, 99.5),
        (100.0, 98.0),  # too old
        (10.0, 9.9),  # the bag begins again
        (10.0, 50.0),  # from before the jump: from the future, now
        (5000.0, 4999.9),  # and jumps ahead
        (5000.0, 11.0),  # too old
    ):
        clock.set_ros_time_override(Time(nanoseconds=int(now * second), clock_type=ClockType.ROS_TIME))
        send(node, int(stamp * second))
        settle(node)
    seconds = [message.header.stamp.sec for message in outputs["class_map"].messages.queue]
    assert seconds == [99, 9, 50, 4999]
    assert counts(node) == {"received": 6, "processed": 4, "stale": 2}


def test_the_diagnostics_go_on_while_a_bags_time_stands_still(make_node):  # noqa: F811
    node = make_node(use_sim_time=True, diagnostics_period=0.1)
    sent = threading.Semaphore(0)
    node._send = lambda *_: sent.release()
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    for _ in range(100):
        executor.spin_once(timeout_sec=1.0)
        if sent.acquire(blocking=False):
            break
    else:
        pytest.fail("no diagnostics")
    executor.shutdown()


# ---- a slow network ----


def test_with_a_slow_network_images_wait_less_than_two_frames_and_one_is_held(make_node, stopped):  # noqa: F811
    """A camera of 30 Hz and a network that takes ten of its frames, in steps of ours: no clock runs."""
    node = make_node()
    outputs = start(node)
    held = node._worker._scheduler._slots[node]
    begun = []
    for frame in range(100):
        send(node, frame)
        if frame % 10 == 0:
            if frame:
                stopped.go.release()  # one ends, the next begins
            assert stopped.entered.acquire(timeout=TIMEOUT_S)
            begun.append(frame)
        assert held.message is None or held.message[0].header.stamp.nanosec == frame
        assert node._publishing._work_queue.qsize() <= 1
    stopped.go.release(2)
    settle(node)
    assert counts(node) == {"received": 100, "processed": 11, "superseded": 89}
    waited = [begin - stamp for begin, stamp in zip(begun, outputs["class_map"].stamps()[:-1], strict=True)]
    assert max(waited) <= 1
