"""The TensorRT engine in a pipeline, on the emulated driver with a stand-in for the library; and on a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import emulated_driver
import numpy as np
import pytest

from perception_node.device import open_device
from perception_node.engine import PlanOptions
from perception_node.engine.trt import open_library
from perception_node.errors import UserError
from perception_node.model import load_model
from perception_node.pipeline import Pipeline

HERE = Path(__file__).parent
NAMES = [
    line.removeprefix("def check_").split("(")[0]
    for line in (HERE / "tensorrt_checks.py").read_text().splitlines()
    if line.startswith("def check_")
]
"""The checks' names; to import them takes the stand-in and a driver."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of each check -> None, or what went wrong; and what the driver complained of."""
    pytest.importorskip("onnx")
    if emulated_driver.missing():
        pytest.skip(emulated_driver.missing())
    environment = emulated_driver.build(tmp_path_factory.mktemp("driver"))
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(HERE.parent / "stand_in_tensorrt")])
    program = subprocess.run(
        [sys.executable, HERE / "tensorrt_checks.py"], env=environment, text=True, capture_output=True
    )
    found = dict(json.loads(line) for line in program.stdout.splitlines())
    return found, program.stderr if program.returncode == 0 else f"exit status {program.returncode}: {program.stderr}"


@pytest.mark.parametrize("name", NAMES)
def test_with_a_stand_in(name, results):
    passed, errors = results
    failure = passed.get(name, f"did not run: {errors}")
    assert failure is None, failure


# ---- on a GPU ----


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    """Makes pipelines of the default model on the GPU; the argument is the plan's precision."""
    try:
        open_device("cuda")
        open_library()
    except UserError as error:
        pytest.skip(str(error))
    folder = shutil.copytree(load_model().folder, tmp_path_factory.mktemp("model") / "camvid_lite0")
    return lambda precision: Pipeline(load_model(folder), "cuda", plan=PlanOptions(precision, auto_build=True))


@pytest.fixture(scope="module")
def drive():
    """Ten images, uint8 (360, 480, 3), of smooth colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (10, 12, 16, 3), dtype=np.uint8)
    return [cv2.resize(image, (480, 360), interpolation=cv2.INTER_CUBIC) for image in coarse]


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance", "same"), [("fp32", 1e-3, 0.999), ("fp16", 0.05, 0.99)])
def test_a_plan_agrees_with_onnx_runtime(precision, tolerance, same, on_gpu, drive):
    gpu, cpu = on_gpu(precision), Pipeline(load_model())
    equal = []
    for image in drive:
        frame, expected = gpu(image), cpu(image)
        outputs = gpu.outputs()
        for name, array in cpu.outputs().items():
            np.testing.assert_allclose(outputs[name], array, rtol=0, atol=tolerance * np.abs(array).max(), err_msg=name)
        equal.append(np.mean(frame.class_map == expected.class_map))
    assert np.mean(equal) >= same


@pytest.mark.gpu
def test_a_frame_is_one_graph(on_gpu, drive, recwarn):
    pipeline = on_gpu("fp16")
    direct = [pipeline(image) for image in drive[:1]]
    replayed = [pipeline(image) for image in (*drive[:1] * 3,)]
    assert not [warning for warning in recwarn if "CUDA graph" in str(warning.message)]
    for frame in replayed:
        np.testing.assert_array_equal(frame.class_map, direct[0].class_map)
        assert frame.segments == direct[0].segments


@pytest.mark.gpu
def test_two_frames_in_flight_are_those_of_one(on_gpu, drive):
    alone, pair = on_gpu("fp16"), [on_gpu("fp16") for _ in range(2)]
    expected = [alone(image) for image in drive]
    pair[0].start(drive[0])
    for number, frame in enumerate(expected):
        if number + 1 < len(drive):
            pair[(number + 1) % 2].start(drive[number + 1])
        np.testing.assert_array_equal(pair[number % 2].finish().class_map, frame.class_map)


@pytest.mark.gpu
def test_memory_does_not_grow(on_gpu, drive):
    pipeline = on_gpu("fp16")
    for image in drive:
        pipeline(image)
    before = free_memory()
    for image in drive * 10:
        pipeline(image)
    assert free_memory() == before


def free_memory():
    import pycuda.driver

    with open_device("cuda").context:
        return pycuda.driver.mem_get_info()[0]
