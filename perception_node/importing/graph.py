"""The ONNX graph of a network that is imported: read, given a fixed input size, cut back to its logits, written.

An engine wants one file, one float32 image (1, 3, H, W) of a known size, and logits: what graphs in the wild have
besides (weights in other files, open sizes, an argmax or softmax at the end) is undone here.
"""

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from perception_node.engine.network import prune, refill
from perception_node.errors import ModelError, UserError, one_line

MAX_BYTES = 2**31 - 1
"""Of a protobuf message, which an ONNX file is."""

PASSES_ON = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""What may lie between an argmax and the graph's output."""


def read_network(path: Path) -> ModelProto:
    """An ONNX file with its weights, also those that lie in files beside it.

    Raises:
        ModelError: it is no ONNX file, or weights are missing, or with them it is too large for one file.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected: an ONNX network")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file: {one_line(error)}") from error
    if not model.graph.output:
        raise ModelError(f"{path}: not an ONNX file, or a network without outputs")
    files = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if missing := sorted(name for name in files if not (path.parent / name).is_file()):
        remedy = "put the file there, or export the network into one file"
        raise ModelError(f"{path}: its weights are in {', '.join(missing)}, which is not beside it; {remedy}")
    if sum(file.stat().st_size for file in (path, *(path.parent / name for name in files))) > MAX_BYTES:
        raise ModelError(f"{path}: over 2 GB with its weights, more than one ONNX file can hold; export it in float16")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: its weights in {', '.join(files)} cannot be read: {one_line(error)}") from error
    return model


def write_network(model: ModelProto, path: Path) -> None:
    """Writes one file with all weights.

    Raises:
        ModelError: the graph is not valid ONNX.
    """
    data = model.SerializeToString()
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the network is not valid ONNX: {one_line(error)}; export it anew") from error
    path.write_bytes(data)


def class_names(model: ModelProto) -> list[str]:
    """Names of the classes in the metadata, {0: 'person', ...} as Ultralytics and tools/ write them; else []."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "names"), "")
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return list(names.values()) if isinstance(names, dict) else []


def fix_input(model: ModelProto, size_hw: tuple[int, int] | None) -> tuple[str, tuple[int, int]]:
    """Gives the one input a batch of 1 and the size; sizes that followed from it are inferred anew.

    Args:
        model: changed in place.
        size_hw: height and width in pixels; None takes those that the graph has.

    Returns:
        The input's name, and its height and width.

    Raises:
        UserError: the input is not one float32 image (1, 3, H, W), or its size is another, or open and not given.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        shown = ", ".join(describe(value) for value in inputs)
        raise UserError(
            f"the network has {len(inputs)} inputs ({shown}); expected: one, the image; export the others as constants"
        )
    (image,) = inputs
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UserError(f"input {describe(image)}: expected: float32; export the network with float32 inputs")
    dims = image.type.tensor_type.shape.dim
    shape = shape_of(image)
    if len(shape) != 4 or shape[1] not in (3, None) or shape[0] not in (1, None):
        hint = "; export it with the channels first" if len(shape) == 4 and shape[3] == 3 else ""
        raise UserError(f"input {describe(image)}: expected: a colour image (1, 3, height, width){hint}")
    known = shape[2:]
    if size_hw is None:
        if None in known:
            raise UserError(
                f"input {describe(image)} leaves its size open; expected: --size HEIGHTxWIDTH, as in training"
            )
        size_hw = known
    elif any(given not in (own, None) for own, given in zip(size_hw, known, strict=True)):
        raise UserError(
            f"size {size_hw[0]}x{size_hw[1]}: the network takes {describe(image)}; leave --size out, or export it anew"
        )
    for dim, size in zip(dims, (1, 3, *size_hw), strict=True):
        dim.dim_value = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
    del model.graph.value_info[:]
    _infer_sizes(model)
    return image.name, size_hw


def before_argmax(model: ModelProto, output: str) -> str | None:
    """The logits whose argmax over the classes (axis 1) the output is, or None if it is none that can be seen."""
    for node in _ending(model, output):
        if node.op_type == "ArgMax":
            return node.input[0] if _attribute(node, "axis", 0) in (1, -3) else None
        if node.op_type not in PASSES_ON:
            return None
    return None


def before_probabilities(model: ModelProto, output: str, axes: tuple[int, ...]) -> tuple[str, str] | None:
    """The logits whose Softmax along one of the axes, or Sigmoid, the output is, and which of them; or None."""
    node = next(_ending(model, output), None)
    if node is None or node.op_type not in ("Sigmoid", "Softmax"):
        return None
    along_classes = node.op_type == "Sigmoid" or _attribute(node, "axis", -1) in axes
    return (node.input[0], node.op_type) if along_classes else None


def replace_outputs(model: ModelProto, names: list[str]) -> None:
    """Makes tensors of the graph its outputs, in place; nodes that then lead nowhere are taken out."""
    values = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    for name in names:
        if name not in values:  # its type could not be inferred: all networks that come here compute in float32
            values[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    chosen = [values[name] for name in names]
    kept = [value for value in model.graph.value_info if value.name not in names]
    refill(model.graph.output, chosen)
    refill(model.graph.value_info, kept)
    prune(model)
    _infer_sizes(model)


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...]:
    """Sizes, None where the graph leaves one open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def describe(value: ValueInfoProto) -> str:
    """A tensor for people, e.g. "image float32 (1, 3, ?, ?)"."""
    element = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    element = {"float": "float32", "double": "float64"}.get(element, element)
    return f"{value.name} {element} ({', '.join('?' if size is None else str(size) for size in shape_of(value))})"


def _infer_sizes(model: ModelProto) -> None:
    # What cannot be inferred stays open: whether the network can run is the engine's to say.
    with contextlib.suppress(shape_inference.InferenceError):
        model.CopyFrom(shape_inference.infer_shapes(model, data_prop=True))


def _ending(model: ModelProto, output: str) -> Iterator[NodeProto]:
    """The nodes from an output upwards, each time the one that makes the first input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while output in makers:
        yield makers[output]
        if not makers[output].input:
            return
        output = makers[output].input[0]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
