"""Small networks for the builder's tests, and real libraries where they are."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from conftest import TINY_CLASSES
from onnx import TensorProto, helper, numpy_helper


def library():
    """The tensorrt_rtx that is installed, which builds without a GPU; skips where there is none."""
    from perception_node.engine.trt import open_library
    from perception_node.errors import UserError

    try:
        return open_library("tensorrt_rtx")
    except UserError as error:
        pytest.skip(f"{error}; make setup-engines installs it")


def write_semantic_model(
    folder: Path, nodes: list, weights: dict | None = None, outputs: tuple = (), size=(8, 8), batch: int | str = 1
) -> Path:
    """A semantic model with 3 classes and stride 1 whose network is `nodes`, from image to semantic.

    Args:
        folder: to write.
        nodes: of the graph.
        weights: name -> array.
        outputs: names of further outputs.
        size: of the input as the graph has it; a name leaves it open.
        batch: likewise.
    """
    graph = helper.make_graph(
        nodes,
        "semantic",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 3, *size]) for n in ("semantic", *outputs)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mine", 1)]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    manifest = {
        "onnx": "model.onnx",
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "input": {"tensor": "image", "size": [8, 8], "std": [64, 64, 64]},
        "output": {"family": "semantic", "stride": 1, "tensors": {"semantic": "semantic"}},
        "classes": TINY_CLASSES,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def convolution(name: str, source: str, result: str, scale: float = 1.0) -> tuple[list, dict[str, np.ndarray]]:
    """A 3x3 convolution of three channels: its node and its weights."""
    weights = scale * np.random.default_rng(len(name)).normal(size=(3, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", [source, f"{name}_w"], [result], name=name, pads=[1, 1, 1, 1])
    return [node], {f"{name}_w": weights}


def write_quantized_model(folder: Path) -> Path:
    """A semantic model of one convolution and, in int8/, what a calibration made of it: its input is quantized."""
    nodes, weights = convolution("first", "image", "semantic")
    write_semantic_model(folder, nodes, weights)
    graph = onnx.load(folder / "model.onnx")
    for array, name in ((np.float32(0.1), "scale"), (np.int8(0), "zero")):
        graph.graph.initializer.append(numpy_helper.from_array(array, name))
    graph.graph.node.insert(0, helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="q"))
    graph.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"))
    graph.graph.node[2].input[0] = "dq"
    write_calibration(folder, graph)
    return folder


def write_calibration(folder: Path, graph: onnx.ModelProto, **changes) -> None:
    """Writes a quantized network and its calibration.json, whose entries `changes` replace, into a model's int8/."""
    (folder / "int8").mkdir(exist_ok=True)
    onnx.save(graph, folder / "int8/quantized.onnx")
    entries = {
        "onnx": "quantized.onnx",
        "sha256": hashlib.sha256((folder / "int8/quantized.onnx").read_bytes()).hexdigest(),
        "model_sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
    }
    (folder / "int8/calibration.json").write_text(json.dumps(entries | changes))
