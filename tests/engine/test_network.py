"""The ONNX that plans are built from, as ONNX Runtime runs it."""

import hashlib
import re

import numpy as np
import onnx
import pytest
from conftest import write_tiny_model
from networks import convolution, write_calibration, write_quantized_model, write_semantic_model
from onnx import TensorProto, helper, numpy_helper

from perception_node.engine.network import FP16_RANGE, load_network, prepare, read_calibration
from perception_node.errors import ModelError
from perception_node.model import load_model


def shapes(tensors):
    return {t.name: [d.dim_value or d.dim_param for d in t.type.tensor_type.shape.dim] for t in tensors}


def types(tensors):
    return {t.name: t.type.tensor_type.elem_type for t in tensors}


def weights_of(graph):
    return {w.name: w.data_type for w in graph.graph.initializer}


def test_the_default_network_in_fp32_is_the_same():
    network = prepare(load_model())
    assert network.differences == {"semantic": 0.0, "center": 0.0, "offset": 0.0}
    assert network.content == network.onnx.SerializeToString()
    assert {opset.domain for opset in network.onnx.opset_import} == {""}


def test_the_default_network_in_fp16_keeps_its_inputs_and_outputs():
    network = prepare(load_model(), "fp16")
    assert set(types([*network.onnx.graph.input, *network.onnx.graph.output]).values()) == {TensorProto.FLOAT}
    assert TensorProto.FLOAT not in {w.data_type for w in network.onnx.graph.initializer if len(w.dims) == 4}
    assert len(network.content) < 0.55 * load_model().onnx_path.stat().st_size
    assert 0 < network.differences["semantic"] < 0.1  # logits up to 5
    assert 0 < network.differences["offset"] < 1.0  # input pixels
    assert 0 < network.differences["center"] < 0.01


def test_outputs_get_the_types_that_fusion_takes(tmp_path):
    """Exported class numbers are int64, the kernels take int32; logits are float32 and float16, they take one type."""
    boxes = np.array([[[1, 1, 5, 5]]], np.float32)
    outputs = {
        "semantic": np.zeros((1, 3, 4, 4), np.float16),
        "classes": np.array([[2]], np.int64),
        "scores": np.array([[0.9]], np.float32),
        "boxes": boxes,
        "masks28": np.ones((1, 1, 28, 28), np.float32),
    }
    output = {"family": "instance_semantic", "stride": 2, "tensors": {name: name for name in outputs}}
    network = prepare(load_model(write_tiny_model(tmp_path / "m", outputs, output=output, fusion={})))
    found = types(network.onnx.graph.output)
    assert found.pop("classes") == TensorProto.INT32
    assert set(found.values()) == {TensorProto.FLOAT}
    assert set(network.differences.values()) == {0.0}


def test_open_sizes_are_fixed_and_arithmetic_with_them_is_gone(tmp_path):
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["hw"]),
        helper.make_node("Concat", ["one_three", "hw"], ["whole"], axis=0),
        helper.make_node("Reshape", ["image", "whole"], ["semantic"]),
    ]
    constants = {
        "two": np.array([2], np.int64),
        "four": np.array([4], np.int64),
        "one_three": np.array([1, 3], np.int64),
    }
    model = load_model(write_semantic_model(tmp_path / "m", nodes, constants, size=("height", "width")))
    network = prepare(model)
    assert shapes(network.onnx.graph.input) == {"image": [1, 3, 8, 8]}
    assert {node.op_type for node in network.onnx.graph.node} <= {"Reshape", "Identity"}
    assert network.differences == {"semantic": 0.0}


def test_outputs_that_the_manifest_does_not_use_are_dropped_with_what_made_them(tmp_path):
    first, weights = convolution("first", "image", "semantic")
    second, more = convolution("second", "semantic", "auxiliary")
    model = load_model(write_semantic_model(tmp_path / "m", first + second, weights | more, ("auxiliary",)))
    network = prepare(model)
    assert list(shapes(network.onnx.graph.output)) == ["semantic"]
    assert len(network.onnx.graph.node) == 1
    assert list(network.differences) == ["semantic"]


def test_a_networks_own_cast_is_not_taken_for_one_between_precisions(tmp_path):
    nodes = [
        helper.make_node("Greater", ["image", "zero"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ones", "huge"], ["large"]),  # stays in fp32, and takes float32 from a bool's cast
        helper.make_node("Mul", ["large", "tiny"], ["semantic"]),
    ]
    weights = {"zero": np.float32(0), "huge": np.float32(4 * FP16_RANGE), "tiny": np.float32(0.25 / FP16_RANGE)}
    model = load_model(write_semantic_model(tmp_path / "m", nodes, {k: np.asarray(v) for k, v in weights.items()}))
    assert prepare(model, "fp16").differences["semantic"] < 1e-3


def test_operators_that_leave_the_range_of_float16_stay_in_fp32(tmp_path):
    first, weights = convolution("first", "image", "a")
    large, more = convolution("large", "a", "b", scale=FP16_RANGE)
    back, most = convolution("back", "b", "c", scale=1 / FP16_RANGE)
    last, rest = convolution("last", "c", "semantic")
    nodes = first + large + back + last
    model = load_model(write_semantic_model(tmp_path / "m", nodes, weights | more | most | rest))
    network = prepare(model, "fp16")
    kinds = weights_of(network.onnx)
    kept = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT and name.endswith("_w")}
    assert kept == {"large_w", "back_w"}
    assert "b" not in {node.input[0] for node in network.onnx.graph.node if node.op_type == "Cast"}
    assert network.differences["semantic"] < 10  # of values around 500; in float16 throughout it would be infinite


def test_a_simplification_that_changes_outputs_is_not_used(tmp_path, monkeypatch):
    from perception_node.engine import network as module

    nodes, weights = convolution("first", "image", "semantic")
    model = load_model(write_semantic_model(tmp_path / "m", nodes, weights))

    def wrong(graph):
        changed = onnx.ModelProto.FromString(graph.SerializeToString())
        array = numpy_helper.to_array(changed.graph.initializer[0]) * 1.01
        changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(array.astype(np.float32), "first_w"))
        return changed

    monkeypatch.setattr(module, "_simplify", wrong)
    lines = []
    assert prepare(model, say=lines.append).differences == {"semantic": 0.0}
    assert "simplified, it differs by {'semantic'" in lines[0]


def test_weights_in_another_file_are_refused(tmp_path):
    nodes, weights = convolution("first", "image", "semantic")
    folder = write_semantic_model(tmp_path / "m", nodes, weights)
    graph = onnx.load(folder / "model.onnx")
    onnx.save(graph, folder / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    with pytest.raises(ModelError, match="weights 'first_w' lie in another file, which no hash covers; export"):
        load_network(folder / "model.onnx", hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest())


def test_a_network_that_changes_after_its_hash_was_checked_is_refused(tiny_model):
    model = load_model(tiny_model)
    model.onnx_path.write_bytes(model.onnx_path.read_bytes() + b"\0\0")
    with pytest.raises(ModelError, match=r"model\.onnx: was changed just now"):
        load_network(model.onnx_path, model.sha256)


def test_old_files_that_list_weights_among_the_inputs(tmp_path):
    nodes, weights = convolution("first", "image", "semantic")
    folder = write_semantic_model(tmp_path / "m", nodes, weights)
    graph = onnx.load(folder / "model.onnx")
    graph.ir_version = 3
    graph.graph.input.append(helper.make_tensor_value_info("first_w", TensorProto.FLOAT, [3, 3, 3, 3]))
    del graph.opset_import[:]
    graph.opset_import.append(helper.make_opsetid("", 8))
    onnx.save(graph, folder / "model.onnx")
    manifest = (folder / "model.yaml").read_text()
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "model.yaml").write_text(re.sub("[0-9a-f]{64}", sha256, manifest))
    network = prepare(load_model(folder), "fp16")
    assert list(shapes(network.onnx.graph.input)) == ["image"]


# ---- int8 ----


@pytest.fixture
def quantized(tmp_path):
    return write_quantized_model(tmp_path / "m")


def test_a_calibration_is_taken_as_it_is(quantized):
    model = load_model(quantized)
    calibration = read_calibration(model)
    assert calibration == read_calibration(model, quantized / "int8")
    assert calibration.sha256 == hashlib.sha256((quantized / "int8/quantized.onnx").read_bytes()).hexdigest()
    network = prepare(model, "int8", calibration)
    assert [node.op_type for node in network.onnx.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Conv"]
    assert 0 < network.differences["semantic"] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_sha256": "0" * 64}, "model_sha256: was made from a network with 000000000000…, but model.onnx has"),
        ({"sha256": "0" * 64}, "sha256: is 000000000000…, but quantized.onnx has"),
        ({"sha256": None}, "sha256: is None…, but quantized.onnx has"),
        ({"onnx": "none.onnx"}, "--calibration: there is no .*none.onnx; make one: perception quantize"),
        ({"onnx": 3}, "calibration.json: not a calibration's"),
    ],
)
def test_a_calibration_that_is_not_this_networks(changes, message, quantized):
    write_calibration(quantized, onnx.load(quantized / "int8/quantized.onnx"), **changes)
    with pytest.raises(ModelError, match=message):
        read_calibration(load_model(quantized))


def test_no_calibration(tiny_model):
    with pytest.raises(ModelError, match=r"--calibration: there is no .*tiny/int8/calibration.json; make one: .*fp16"):
        read_calibration(load_model(tiny_model))


def test_a_calibration_with_other_outputs(quantized):
    graph = onnx.load(quantized / "int8/quantized.onnx")
    graph.graph.output[0].name = graph.graph.node[2].output[0] = "other"
    write_calibration(quantized, graph)
    model = load_model(quantized)
    with pytest.raises(ModelError, match=r"quantized.onnx: has not all the tensors that m needs: image, semantic"):
        prepare(model, "int8", read_calibration(model))
