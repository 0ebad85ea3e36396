"""What bench says adds up. Nothing here depends on how fast the machine is."""

import json
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from perception_node.bench import _Comparison
from perception_node.cli import main
from perception_node.panoptic import PanopticFrame

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino (extra of that name)")
STAGES = ["preprocess", "network", "fusion", "drivable", "messages", "total"]


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def bench_json(*arguments):
    result = bench(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_made_up_frames(tiny_model):
    result = bench_json(tiny_model, "--frames", 45, "--warmup", 1, "--size", "16x24")
    assert {*result} == {
        *("model", "sha256", "device", "engine", "threads", "frames", "warmup", "size", "made_up", "machine"),
        *("stages_ms", "around_network", "throughput_fps", "in_flight_gain", "memory_mib", "against"),
    }
    assert (result["engine"], result["frames"], result["size"], result["made_up"]) == (
        "onnxruntime",
        45,
        [16, 24],
        True,
    )
    assert list(result["stages_ms"]) == STAGES
    assert all(list(times) == ["p50", "p95", "p99"] for times in result["stages_ms"].values())
    assert all(times["p50"] <= times["p95"] <= times["p99"] for times in result["stages_ms"].values())
    assert result["throughput_fps"]["1"] > 0
    assert result["throughput_fps"]["2"] > 0
    memory = result["memory_mib"]
    assert 0 < memory["start"] <= memory["peak"] <= memory["peak_in_flight"]
    assert memory["gpu"] is None
    assert result["against"] is None


def test_one_in_flight_is_enough_if_asked(tiny_model):
    result = bench_json(tiny_model, "--frames", 2, "--in-flight", 1)
    assert (result["throughput_fps"]["2"], result["in_flight_gain"]) == (None, None)
    assert result["memory_mib"]["peak_in_flight"] is None
    assert result["size"] == [8, 8]


def test_every_frame_is_counted_once(tiny_model, monkeypatch):
    from perception_node.model import load_model
    from perception_node.pipeline import Pipeline

    seen = []
    perceive = Pipeline.__call__
    monkeypatch.setattr(Pipeline, "__call__", lambda self, image: seen.append(self) or perceive(self, image))
    from perception_node.bench import bench

    bench(load_model(tiny_model), frames=45, warmup=3)
    first, second = dict.fromkeys(seen)
    assert len(seen) == 2 * 3 + 45 + 45  # each warms up; one at a time; two in flight
    assert seen.count(second) == 3 + 10 + 10 + 2  # every other one of rounds of 20, 20 and 5
    assert seen.count(first) == 3 + 45 + 10 + 10 + 3


def test_footage(tiny_model, tmp_path):
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((10, 12, 3), np.uint8))
    result = bench_json(tiny_model, tmp_path, "--frames", 3)
    assert (result["frames"], result["size"], result["made_up"]) == (3, [10, 12], False)


@needs_openvino
def test_against_another_engine(tiny_model):
    arguments = (tiny_model, "--frames", 4, "--engine", "openvino", "--against", "onnxruntime")
    result = bench_json(*arguments)
    against = result["against"]
    assert {*against} == {
        *("device", "engine", "stages_ms", "throughput_fps", "time_ratio", "outputs", "equal_class_pixels"),
        "equal_instance_pixels",
    }
    assert (result["engine"], against["engine"]) == ("openvino", "onnxruntime")
    assert list(against["stages_ms"]) == list(against["time_ratio"]) == STAGES
    nothing = {"max_abs": 0.0, "mean_abs": 0.0, "frames_compared": 4}
    assert against["outputs"] == {"semantic": nothing, "center": nothing, "offset": nothing}
    assert (against["equal_class_pixels"], against["equal_instance_pixels"]) == (1.0, 1.0)
    text = bench(*arguments).output
    assert "openvino" in text
    assert "100.0000% of instance pixels" in text


def frame(class_map, instance_map):
    class_map, instance_map = np.array([class_map], np.uint8), np.array([instance_map], np.uint16)
    return PanopticFrame.from_maps(class_map, instance_map, np.full_like(class_map, 255))


def test_differences_by_hand():
    comparison = _Comparison()
    one, other = frame([0, 0, 2, 2], [0, 0, 1, 1]), frame([0, 1, 2, 0], [0, 0, 1, 0])
    endless = np.array([1.0, np.inf])
    comparison.add(
        {"a": np.array([1.0, 2.0]), "b": np.zeros(3)}, {"a": np.array([1.5, 2.0]), "b": np.zeros(2)}, one, other
    )
    comparison.add({"a": endless, "b": np.zeros(3)}, {"a": endless, "b": np.zeros(2)}, one, other)
    assert comparison.summary() == {
        "outputs": {
            "a": {"max_abs": 0.5, "mean_abs": 0.125, "frames_compared": 2},
            "b": {"max_abs": None, "mean_abs": None, "frames_compared": 0},
        },
        "equal_class_pixels": 0.5,  # the first and the third of four
        "equal_instance_pixels": 0.5,  # of the last two, which belong to an instance, the first
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "frames 0: expected: 1 or more"),
        (["--warmup", "0"], "warmup 0: expected: 1 or more"),
        (["--threads", "-1"], "threads -1: expected: 0 or more"),
        (["--size", "8"], "size '8': expected: HEIGHTxWIDTH"),
        (["--engine", "tvm"], "engine 'tvm': device cpu has no such"),
        (["--against", "tvm"], "engine 'tvm': device cpu has no such"),
        (["--against", "auto"], "against 'auto': is the engine that is measured"),
        (["{tmp}", "--size", "8x8"], "size '8x8': only made-up frames have one"),
        (["{tmp}/none.mp4"], "none.mp4: does not exist"),
    ],
)
def test_errors_are_one_line(tiny_model, tmp_path, arguments, message):
    result = bench(tiny_model, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert message in result.output
