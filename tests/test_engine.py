import os
import subprocess
import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from conftest import tiny_outputs

from perception_node.device import open_device
from perception_node.engine import choose_engine, load_engine
from perception_node.errors import ModelError, UserError
from perception_node.model import load_model
from perception_node.pipeline import Pipeline

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino (extra of that name)")


def run_python(program, **environment):
    """What a Python process of its own prints."""
    return subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=True, env={**os.environ, **environment}
    ).stdout


def test_auto_is_the_plain_one():
    assert choose_engine("cpu") == choose_engine("cpu", "auto") == "onnxruntime"
    assert choose_engine("cpu", "openvino") == "openvino"


@pytest.mark.parametrize(
    ("device", "engine", "message"),
    [
        ("cpu", "tvm", "engine 'tvm': device cpu has no such; expected: auto, onnxruntime or openvino"),
        ("tpu", "auto", "device 'tpu': this version runs on cpu"),
    ],
)
def test_an_unknown_name_is_told_the_known_ones(tiny_model, device, engine, message):
    with pytest.raises(UserError, match=message):
        load_engine(load_model(tiny_model), open_device(device), engine)


@pytest.mark.parametrize(
    ("engine", "package"), [("onnxruntime", "onnxruntime"), ("openvino", r"'perception_node\[openvino\]'")]
)
def test_a_missing_library_is_told_with_what_installs_it(tiny_model, monkeypatch, engine, package):
    monkeypatch.delitem(sys.modules, f"perception_node.engine.{engine}", raising=False)
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(UserError, match=f"engine '{engine}': its library cannot be imported .*; pip install {package}"):
        load_engine(load_model(tiny_model), open_device(), engine)


def test_no_library_is_imported_until_it_is_used():
    program = "import sys, perception_node.cli, perception_node.pipeline; print(*sys.modules)"
    assert not {"onnxruntime", "openvino", "onnx"} & set(run_python(program).split())


@needs_openvino
def test_openvino_leaves_nothing_in_the_home_folder_and_tells_nobody(tmp_path):
    program = "import sys, perception_node.engine.openvino; print(*(name for name, m in sys.modules.items() if m))"
    modules = run_python(program, HOME=str(tmp_path)).split()
    assert "openvino" in modules
    assert not [name for name in modules if name.startswith("openvino_telemetry")]
    assert not [*tmp_path.iterdir()]


@needs_openvino
@pytest.mark.parametrize("threads", [0, 1])
def test_openvino_says_what_the_fixture_says(tiny_model, threads):
    engine = load_engine(load_model(tiny_model), open_device("cpu", threads), "openvino")
    reference = load_engine(load_model(tiny_model), open_device())
    assert (engine.inputs, engine.outputs) == (reference.inputs, reference.outputs)
    answers = engine.infer(np.ones((1, 3, 8, 8), np.float32))
    for name, expected in tiny_outputs().items():
        np.testing.assert_array_equal(answers[name], expected)


@needs_openvino
def test_a_signal_is_survived_after_another_thread_freed_openvinos_network(tiny_model):
    """The library's CPU plugin gives a thread a stack for signal handlers, and frees it on whatever thread."""
    program = f"""
import signal, threading
from pathlib import Path
from perception_node.engine.openvino import OpenVinoEngine
engines = [OpenVinoEngine(Path({str(tiny_model / "model.onnx")!r}))]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    assert run_python(program).strip() == "handled"


@needs_openvino
def test_answers_of_openvino_stay_when_the_next_come(tmp_path):
    model = load_model()
    engine = load_engine(model, open_device(), "openvino")
    zeros = np.zeros((1, 3, *model.input.size_hw), np.float32)
    first = engine.infer(zeros)
    before = first["semantic"].copy()
    assert not np.array_equal(engine.infer(zeros + 1)["semantic"], before)
    np.testing.assert_array_equal(first["semantic"], before)


@needs_openvino
def test_openvino_and_onnx_runtime_agree_on_the_default_model(camvid_val):
    image = cv2.imread(str(camvid_val / "images" / "0016E5_08031.jpg"))
    reference, pipeline = (Pipeline(load_model(), engine=name) for name in ("onnxruntime", "openvino"))
    expected, frame = reference(image), pipeline(image)
    for name, array in reference.outputs().items():
        # float32 in another order of summation: 1e-5 of the largest value.
        np.testing.assert_allclose(pipeline.outputs()[name], array, rtol=0, atol=1e-5 * np.abs(array).max())
    assert np.mean(frame.class_map == expected.class_map) > 0.9999
    assert np.mean(frame.instance_map == expected.instance_map) > 0.999


@needs_openvino
@pytest.mark.parametrize("content", [b"no network" * 10, b"\x08\x08\x3a\xff\xff\x03cut off"])
def test_what_openvino_cannot_read_is_one_line(tmp_path, content):
    from perception_node.engine.openvino import OpenVinoEngine

    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        OpenVinoEngine(path)
    assert str(caught.value).startswith(f"{path}: OpenVINO cannot load it: ")
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
