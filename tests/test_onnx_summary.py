"""Networks of one or two nodes, whose parameters and multiply-accumulates can be checked by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from perception_node.errors import ModelError, UserError
from perception_node.onnx_summary import summarize_onnx

onnx = pytest.importorskip("onnx", reason="needs onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


def write(path: Path, nodes, inputs, outputs, weights=None, opset=17, **save) -> Path:
    """Writes a network. inputs and outputs: name -> (dtype, shape); weights: name -> array."""
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="pencil"
    )
    onnx.save(model, path, **save)
    return path


def write_convolution(path: Path, shape=(1, 3, 8, 10), **save) -> Path:
    """3x3, 3 channels to 4, one pixel of padding: 4 * 3 * 3 * 3 weights and 4 biases."""
    weights = {"w": np.ones((4, 3, 3, 3), np.float32), "b": np.ones(4, np.float32)}
    node = helper.make_node("Conv", ["image", "w", "b"], ["out"], name="first", pads=[1, 1, 1, 1])
    return write(path, [node], {"image": (FLOAT, shape)}, {"out": (FLOAT, [shape[0], 4, *shape[2:]])}, weights, **save)


def test_one_convolution(tmp_path):
    found = summarize_onnx(write_convolution(tmp_path / "model.onnx"))
    assert found["inputs"] == [{"name": "image", "shape": [1, 3, 8, 10], "dtype": "float32"}]
    assert found["outputs"] == [{"name": "out", "shape": [1, 4, 8, 10], "dtype": "float32"}]
    assert (found["producer"], found["opset"], found["ops"]) == ("pencil", {"ai.onnx": 17}, {"Conv": 1})
    assert found["parameters"] == 4 * 3 * 3 * 3 + 4 == 112
    assert found["weights"] == {"float32": {"tensors": 2, "parameters": 112, "bytes": 448}}
    macs = (4 * 8 * 10) * (3 * 3 * 3)
    assert (found["macs"], found["flops"]) == (macs, 2 * macs) == (8640, 17280)
    assert found["layers"] == [{"name": "first", "op": "Conv", "precision": "float32", "macs": macs}]
    assert found["precisions"] == {"float32": {"layers": 1, "macs": macs}}
    assert found["activation_peak_bytes"] == 4 * (3 * 8 * 10 + 4 * 8 * 10)
    assert found["check"] is None


@pytest.mark.parametrize(
    ("op", "input_shape", "weight_shape", "attributes", "macs"),
    [
        ("Conv", [1, 4, 6, 6], [4, 1, 3, 3], {"group": 4}, (4 * 4 * 4) * 9),  # depthwise: 4x4 remain, 9 taps each
        ("Conv", [2, 3, 8, 8], [5, 3, 1, 1], {"strides": [2, 2]}, 2 * (5 * 4 * 4) * 3),
        ("ConvTranspose", [1, 3, 4, 4], [3, 2, 2, 2], {"strides": [2, 2]}, (3 * 4 * 4) * (2 * 2 * 2)),
        ("Gemm", [5, 7], [7, 2], {}, 5 * 7 * 2),
        ("Gemm", [7, 5], [2, 7], {"transA": 1, "transB": 1}, 5 * 7 * 2),
        ("MatMul", [3, 5, 7], [7, 2], {}, 3 * 5 * 7 * 2),
    ],
)
def test_multiply_accumulates(tmp_path, op, input_shape, weight_shape, attributes, macs):
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    weights = {"w": np.ones(weight_shape, np.float32)}
    found = summarize_onnx(
        write(tmp_path / "model.onnx", [node], {"x": (FLOAT, input_shape)}, {"y": (FLOAT, None)}, weights)
    )
    assert found["macs"] == macs
    assert found["uncounted"] == {}


def test_a_tensor_lives_until_it_is_last_read(tmp_path):
    """a and b of 40 bytes, then 400 bytes; at the Concat of ten a, a (40) and its output (400), b no longer."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Concat", ["b"] * 10, ["y"], axis=0),
    ]
    found = summarize_onnx(write(tmp_path / "model.onnx", nodes, {"x": (FLOAT, [10])}, {"y": (FLOAT, None)}))
    assert found["activation_peak_bytes"] == 40 + 400


def test_open_sizes_are_not_guessed_but_may_be_given(tmp_path):
    path = write_convolution(tmp_path / "model.onnx", ("N", 3, "height", None))
    found = summarize_onnx(path)
    assert found["inputs"][0]["shape"] == ["N", 3, "height", None]
    assert found["dynamic"]
    assert (found["macs"], found["uncounted"], found["activation_peak_bytes"]) == (0, {"Conv": 1}, None)
    found = summarize_onnx(path, {"image": (1, 3, 8, 10)})
    assert (found["macs"], found["uncounted"]) == (8640, {})
    assert found["inputs"][0]["shape"] == ["N", 3, "height", None]


def test_an_output_of_which_nothing_is_said(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    found = summarize_onnx(write(tmp_path / "model.onnx", [node], {"x": (FLOAT, [1])}, {"y": (FLOAT, None)}))
    assert (found["outputs"][0]["shape"], found["dynamic"]) == (None, True)
    assert "Field 'shape'" in found["check"]


def test_precisions(tmp_path):
    """One product in float16; one in int8 by Q/DQ; one in float32 with int8 weights."""
    nodes = [
        helper.make_node("MatMul", ["h", "wh"], ["half"]),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["xq", "w"], ["eight"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["x", "wt"], ["mixed"]),
    ]
    weights = {
        "wh": np.ones((2, 2), np.float16),
        "wq": np.ones((2, 2), np.int8),
        "scale": np.float32(0.5),
        "zero": np.int8(0),
    }
    found = summarize_onnx(
        write(
            tmp_path / "model.onnx",
            nodes,
            {"x": (FLOAT, [1, 2]), "h": (HALF, [1, 2])},
            {"half": (HALF, None), "eight": (FLOAT, None), "mixed": (FLOAT, None)},
            weights,
        )
    )
    assert [layer["precision"] for layer in found["layers"]] == ["float16", "int8", "float32 (int8 weights)"]
    assert {dtype: counts["bytes"] for dtype, counts in found["weights"].items()} == {
        "float16": 8,
        "int8": 5,
        "float32": 4,
    }


def test_weights_in_files_of_their_own(tmp_path):
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = write_convolution(tmp_path / "model.onnx", **options)
    found = summarize_onnx(path)
    assert (found["external_files"], found["parameters"]) == (["weights.bin"], 112)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"weights.bin: holds 100 bytes, model.onnx needs \d+"):
        summarize_onnx(path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"its weights lie in .*weights\.bin, which is missing"):
        summarize_onnx(path)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "picture"])
def test_what_is_no_network_is_one_line(tmp_path, damage):
    whole = write_convolution(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(
        {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello\n" * 9, "picture": b"\x89PNG\r\n\x1a\n"}[damage]
    )
    with pytest.raises(ModelError, match="not an ONNX") as caught:
        summarize_onnx(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_the_checker_finds_is_told(tmp_path):
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    found = summarize_onnx(write(tmp_path / "model.onnx", [node], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}))
    assert "NoSuchOperator" in found["check"]


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    path = write_convolution(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx"):
        summarize_onnx(path)
