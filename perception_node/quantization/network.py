"""A network with explicit quantization: pairs of QuantizeLinear and DequantizeLinear (Q/DQ) where it is to be int8.

They are placed as TensorRT wants them (its documentation, "Explicit Quantization", Q/DQ layer-placement
recommendations): at the inputs of layers with weights, not at their outputs; at the residual input of an addition,
which a convolution then takes in; each consumer with a pair of its own. Symmetric: no zero points, a scale for a tensor
of activations and one for each output channel of weights. Biases are not quantized. All else becomes float16.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perception_node.engine.network import prune, refill
from perception_node.errors import ModelError, one_line
from perception_node.quantization.ranges import as_float16

if TYPE_CHECKING:
    import onnx

OPSET = 19
"""The first whose Q and DQ take float16."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that can be quantized.

    Attributes:
        name: of its node.
        operator: e.g. "Conv".
        tensor: its input of activations.
        slot: that input's index.
        weights: name of its weights; None for an addition.
        axis: of the weights' output channels.
    """

    name: str
    operator: str
    tensor: str
    slot: int
    weights: str | None = None
    axis: int = 0


def find_layers(graph: "onnx.ModelProto") -> list[Layer]:
    """The layers that can be quantized, in the graph's order.

    Those with constant weights (Conv, ConvTranspose, Gemm, MatMul), and additions of a convolution's result and another
    tensor, for the latter's sake. A MatMul of two activations, as in attention, is none. Nor is a convolution of
    several groups: a depthwise one waits for memory rather than arithmetic, and TensorRT-RTX 1.7 seems to make its
    weights dense (the default network's plan for sm_86 took 50.5 MB with such layers in int8, 11.0 MB without).
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    maker = {name: node for node in graph.graph.node for name in node.output}
    layers = []
    for node in graph.graph.node:
        if node.domain:
            continue
        if node.op_type == "Add":
            by_convolution = [name in maker and maker[name].op_type == "Conv" for name in node.input]
            residual = 0 if by_convolution == [False, True] else 1
            if any(by_convolution) and node.input[residual] not in weights and node.input[0] != node.input[1]:
                layers.append(Layer(node.name, node.op_type, node.input[residual], residual))
            continue
        axis = _output_axis(node)
        if axis is not None and node.input[1] in weights and len(weights[node.input[1]].dims) > 1:
            axis %= len(weights[node.input[1]].dims)
            layers.append(Layer(node.name, node.op_type, node.input[0], 0, node.input[1], axis))
    return layers


def _output_axis(node: "onnx.NodeProto") -> int | None:
    """The axis of its weights' output channels; None if it is no layer that can be quantized."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if attributes.get("group", 1) > 1:
        return None
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)


def weight_scales(weights: np.ndarray, axis: int) -> np.ndarray:
    """float16 (channels,): of each output channel the step of int8 that takes its largest weight to 127."""
    others = tuple(index for index in range(weights.ndim) if index != axis)
    return as_float16(np.abs(weights).max(axis=others) / 127)


def quantize_to_int8(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 values, rounded half to even as ONNX and TensorRT do; weights and scale of shapes that broadcast."""
    return np.clip(np.rint(values / scale.astype(np.float32)), -128, 127).astype(np.int8)


def quantized(
    graph: "onnx.ModelProto", layers: Collection[Layer], ranges: Mapping[str, tuple[float, float]]
) -> "onnx.ModelProto":
    """The graph with Q/DQ at the given layers; float32 still, but with scales that float16 holds.

    Args:
        graph: in float32; it stays as it is.
        layers: some of find_layers's.
        ranges: see perception_node.quantization.ranges.measure.
    """
    from onnx import helper, numpy_helper

    copy = type(graph)()
    copy.CopyFrom(graph)
    by_name = {layer.name: layer for layer in layers}
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes = []

    def constant(name: str, array: np.ndarray) -> str:
        copy.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    for node in copy.graph.node:
        if layer := by_name.get(node.name):
            at = f"{node.name}/input"
            scale = as_float16(ranges[layer.tensor][1] / 127).astype(np.float32)
            parameters = [constant(f"{at}_scale", scale), constant(f"{at}_zero", np.int8(0))]
            for operator, source, result in (
                ("QuantizeLinear", layer.tensor, f"{at}_q"),
                ("DequantizeLinear", f"{at}_q", f"{at}_dq"),
            ):
                nodes.append(helper.make_node(operator, [source, *parameters], [result], name=result))
            node.input[layer.slot] = f"{at}_dq"
        if layer and layer.weights:
            at, array = f"{node.name}/weights", numpy_helper.to_array(weights[layer.weights])
            scales = weight_scales(array, layer.axis)
            shape = [-1 if index == layer.axis else 1 for index in range(array.ndim)]
            inputs = [
                constant(f"{at}_q", quantize_to_int8(array, scales.reshape(shape))),
                constant(f"{at}_scale", scales.astype(np.float32)),
                constant(f"{at}_zero", np.zeros(len(scales), np.int8)),
            ]
            dequantize = helper.make_node("DequantizeLinear", inputs, [f"{at}_dq"], name=f"{at}_dq", axis=layer.axis)
            nodes.append(dequantize)
            node.input[1] = f"{at}_dq"
        nodes.append(node)
    refill(copy.graph.node, nodes)
    prune(copy)  # the weights that are int8 now
    return copy


def at_opset(graph: "onnx.ModelProto", path: str) -> "onnx.ModelProto":
    """The graph in an opset whose Q and DQ take float16.

    Raises:
        ModelError: it cannot be converted.
    """
    from onnx import version_converter

    if any(not entry.domain and entry.version >= OPSET for entry in graph.opset_import):
        return graph
    try:
        return version_converter.convert_version(graph, OPSET)
    except Exception as error:  # RuntimeError or the library's own
        remedy = f"export the network with opset {OPSET} or later"
        raise ModelError(f"{path}: cannot be converted to opset {OPSET}: {one_line(error)}; {remedy}") from error
