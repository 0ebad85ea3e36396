"""What an ONNX network is made of: tensors, operators, parameters, work, memory. It is read, not run.

Work is counted in multiply-accumulates (MACs) of convolutions and matrix products, from the shapes that ONNX's own
shape inference finds; https://onnx.ai/onnx/operators/ says what the operators' axes are. Two FLOPs make a MAC.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception_node.errors import ModelError, UserError, one_line

NOT_COUNTED = (
    "biases, activations, normalisation, resizing, pooling, softmax, Einsum, recurrent and attention operators"
)
CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv", "DeformConv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3}  # which input the weights are; elsewhere it is input 1
_NOT_PARAMETERS = ("int64", "bool", "string")  # shapes, indices, switches

Shape = list[int | str | None]


def summarize_onnx(path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Reads an ONNX file; weights that lie in files of their own need only be there.

    Args:
        path: the file.
        input_shapes: sizes for inputs that the graph leaves open, by name.

    Returns:
        bytes, sha256: of the file.
        producer, ir_version, opset: who wrote it; opset by domain.
        inputs, outputs: each {"name", "shape", "dtype"}. In a shape, a name or None is a size that the graph leaves
            open; None instead of a shape leaves even the number of axes open.
        dynamic: whether it leaves any open.
        nodes, ops: how many there are, and by operator; those in the bodies of If, Loop and Scan too.
        parameters: numbers in all weights.
        weights: by dtype {"tensors", "parameters", "bytes"}; external_files: where they lie if not in the file.
        macs, flops: of one run, in `counted` nodes; `uncounted`: nodes whose sizes are not known, by operator.
        layers: of the counted nodes {"name", "op", "precision", "macs"}, in order; precisions: {"layers", "macs"} of
            each. A precision is what the operator's inputs are: float32, or int8 where both come out of
            DequantizeLinear, or "float32 (int8 weights)".
        activation_peak_bytes: the most that tensors between the nodes take at once, if each lives from the node that
            writes it to the last that reads it, in the file's order; None if a size is not known. An estimate: engines
            fuse layers and need less, or reorder and need more.
        check: None, or what ONNX's checker finds wrong.

    Raises:
        ModelError: the file is no ONNX network, or a file of its weights is missing or too short.
        UserError: the onnx package is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{path}: the onnx package is needed to read it ({error}); pip install onnx") from error

    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's exceptions depend on its implementation
        raise ModelError(f"{path}: not an ONNX file, or damaged: {one_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX network: {len(content)} bytes without a graph; export it again")
    external_files = _check_external(path, model)
    try:
        onnx.checker.check_model(str(path))
        problem = None
    except Exception as error:
        problem = one_line(error)

    declared = {"inputs": _tensors(_real_inputs(model.graph)), "outputs": _tensors(model.graph.output)}
    _set_input_shapes(model, input_shapes or {})
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        problem = problem or one_line(error)

    graph = model.graph
    weights = _weights(graph)
    values = _values(graph)
    layers, uncounted = _layers(graph, values, weights)
    precisions: dict[str, Counter] = defaultdict(Counter)
    for layer in layers:
        precisions[layer["precision"]].update(layers=1, macs=layer["macs"])
    by_dtype: dict[str, Counter] = defaultdict(Counter)
    for shape, dtype in weights.values():
        if dtype not in _NOT_PARAMETERS:
            count = math.prod(shape)
            by_dtype[dtype].update(tensors=1, parameters=count, bytes=_bytes(count, dtype))
    macs = sum(layer["macs"] for layer in layers)
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        **declared,
        "dynamic": not all(_is_known(spec["shape"]) for part in declared.values() for spec in part),
        "nodes": sum(1 for _ in _nodes(graph)),
        "ops": dict(Counter(_operator(node) for node in _nodes(graph)).most_common()),
        "parameters": sum(counts["parameters"] for counts in by_dtype.values()),
        "weights": {dtype: dict(counts) for dtype, counts in by_dtype.items()},
        "external_files": external_files,
        "macs": macs,
        "flops": 2 * macs,
        "counted": len(layers),
        "uncounted": dict(uncounted),
        "layers": layers,
        "precisions": {precision: dict(counts) for precision, counts in precisions.items()},
        "activation_peak_bytes": _activation_peak(graph, values, weights),
        "check": problem,
    }


# ---- reading ----


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those in the bodies of control flow too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _operator(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _dtype(element_type: int) -> str:
    from onnx import TensorProto

    if element_type not in TensorProto.DataType.values():
        return f"type {element_type}"
    name = TensorProto.DataType.Name(element_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _bytes(count: int, dtype: str) -> int:
    digits = "".join(char for char in dtype.partition("e")[0] if char.isdigit())  # of float8e4m3fn the 8
    bits = {"complex64": 64, "complex128": 128}.get(dtype, int(digits or 8))
    return -(-count * bits // 8)


def _shape(tensor_type: Any) -> Shape | None:
    """None where not even the number of axes is known."""
    if not tensor_type.HasField("shape"):
        return None
    return [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor_type.shape.dim]


def _is_known(shape: Shape | None) -> bool:
    return shape is not None and all(type(size) is int for size in shape)


def _tensors(values: Any) -> list[dict[str, Any]]:
    """Inputs or outputs of the graph; those that are sequences or maps are left out."""
    return [
        {"name": value.name, "shape": _shape(value.type.tensor_type), "dtype": _dtype(value.type.tensor_type.elem_type)}
        for value in values
        if value.type.HasField("tensor_type")
    ]


def _real_inputs(graph: Any) -> list[Any]:
    """Old exporters list the weights among the inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _check_external(path: Path, model: Any) -> list[str]:
    """The files, relative to the network's, that hold weights.

    Raises:
        ModelError: one is missing or too short.
    """
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            try:
                end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            except ValueError as error:
                raise ModelError(f"{path}: where {tensor.name!r} lies in {location!r} is no number: {error}") from error
            needed[location] = max(end, needed.get(location, 0))
    for location, size in needed.items():
        file = path.parent / location
        if not file.is_file():
            raise ModelError(f"{path}: its weights lie in {file}, which is missing; put it there or export again")
        if file.stat().st_size < size:
            raise ModelError(f"{file}: holds {file.stat().st_size} bytes, {path.name} needs {size}; copy it again")
    return sorted(needed)


def _set_input_shapes(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for value in model.graph.input:
        sizes, known_sizes = value.type.tensor_type.shape.dim, shapes.get(value.name, ())
        if len(sizes) == len(known_sizes):
            for size, known in zip(sizes, known_sizes, strict=True):
                if not size.HasField("dim_value"):
                    size.dim_value = known


def _weights(graph: Any) -> dict[str, tuple[Shape, str]]:
    """Shape and dtype of all constants of the graph and of the bodies in it, by name."""
    named = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in _nodes(graph):
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                named += [(tensor.name, tensor) for tensor in body.initializer]
            if node.op_type == "Constant" and attribute.name == "value":
                named += [(name, attribute.t) for name in node.output]
    return {name: (list(tensor.dims), _dtype(tensor.data_type)) for name, tensor in named}


def _values(graph: Any) -> dict[str, tuple[Shape | None, str]]:
    """Shape and dtype of the tensors between the nodes, as far as shape inference found them, by name."""
    return {
        value.name: (_shape(value.type.tensor_type), _dtype(value.type.tensor_type.elem_type))
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }


# ---- counting ----


def _layers(graph: Any, values: Mapping, weights: Mapping) -> tuple[list[dict[str, Any]], Counter]:
    """The nodes whose MACs can be counted, and how many of each operator cannot."""
    known = {**values, **weights}
    producers = {name: node for node in graph.node for name in node.output}
    layers, uncounted = [], Counter()
    for node in _nodes(graph):
        is_whole = len(node.input) > _WEIGHT.get(node.op_type, 1) and node.output
        if _operator(node) in CONVOLUTIONS + PRODUCTS and is_whole:
            macs = _macs(node, known)
            if macs is None:
                uncounted[node.op_type] += 1
            else:
                precision = _precision(node, known, producers)
                name = node.name or node.output[0]
                layers.append({"name": name, "op": node.op_type, "precision": precision, "macs": macs})
    return layers, uncounted


def _macs(node: Any, known: Mapping[str, tuple[Shape | None, str]]) -> int | None:
    """Multiply-accumulates of a convolution or a product; None if its sizes are not known."""
    first, second, out = (
        known.get(name, (None, ""))[0]
        for name in (node.input[0], node.input[_WEIGHT.get(node.op_type, 1)], node.output[0])
    )
    if not all(map(_is_known, (first, second, out))):
        return None
    if node.op_type == "ConvTranspose":  # weights (C, M/group, *kernel): each input value goes to all of its kernel
        return math.prod(first) * math.prod(second[1:])
    if node.op_type in CONVOLUTIONS:  # weights (M, C/group, *kernel): each output value comes from all of its kernel
        return math.prod(out) * math.prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(out) * (first[-2] if transposed else first[-1])


def _precision(node: Any, known: Mapping, producers: Mapping) -> str:
    """What the node computes in; see summarize_onnx."""

    def stored(name: str) -> tuple[str, bool]:
        """The dtype of an input, before DequantizeLinear if it comes out of one."""
        producer = producers.get(name)
        # Weights are often transposed after they are dequantised.
        while producer is not None and producer.op_type in ("Transpose", "Reshape"):
            name = producer.input[0]
            producer = producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return known.get(producer.input[0], (None, "int8"))[1], True
        return known.get(name, (None, "unknown"))[1], False

    inputs = [stored(node.input[index]) for index in (0, _WEIGHT.get(node.op_type, 1))]
    (activation, first), (weight, second) = inputs
    if second and not first:
        return f"{activation} ({weight} weights)"
    return weight if first and second else activation


def _activation_peak(graph: Any, values: Mapping, weights: Mapping) -> int | None:
    """The most bytes that tensors between the nodes take at once; None if a size is not known."""
    last_use = {name: index for index, node in enumerate(graph.node) for name in _inputs(node)}
    last_use |= dict.fromkeys((value.name for value in graph.output), len(graph.node))
    live: dict[str, int] = {}
    peak = 0
    written = [value.name for value in _real_inputs(graph)]
    for index, node in enumerate(graph.node):
        written += [name for name in node.output if name and name not in weights]
        for name in written:
            shape, dtype = values.get(name, (None, ""))
            if not _is_known(shape):
                return None
            live[name] = _bytes(math.prod(shape), dtype)
        written = []
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last_use.get(name, -1) > index}
    return peak


def _inputs(node: Any) -> Iterator[str]:
    """What a node reads, and what the bodies in it read from around them."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in _nodes(body):
                yield from inner.input
