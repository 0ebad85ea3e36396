"""The ONNX that a plan is built from: the model's network, fixed in size, simplified, in the precision that is wanted.

Every step is checked by running the result with ONNX Runtime beside the model's own network.
"""

import hashlib
import itertools
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from perception_node.device import open_device
from perception_node.engine import check_tensors
from perception_node.engine.batch import check_batch, random_images
from perception_node.engine.onnxruntime import OnnxRuntimeEngine
from perception_node.errors import ModelError, UserError, one_line
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import conform
from perception_node.model import Model

if TYPE_CHECKING:
    import onnx

SAME = 1e-4
"""Largest difference of the simplified network's outputs, relative to their largest value, that is rounding."""
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that int8 is for."""
FP16_RANGE = 2.0**14
"""Operators whose tensors exceed this on a random image stay in fp32: float16 ends at 65504, and images differ."""


@dataclass(frozen=True, slots=True)
class Network:
    """An ONNX graph to build from.

    Attributes:
        onnx: the graph, with its weights.
        content: the same as bytes.
        differences: output -> largest absolute difference to the model's network on a random image; None where their
            shapes differ, as those of data-dependent outputs can.
    """

    onnx: "onnx.ModelProto"
    content: bytes
    differences: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration made of a model's network: the same with Q/DQ nodes, in a folder with calibration.json.

    Attributes:
        onnx_path: the quantized network.
        sha256: its hash, verified.
    """

    onnx_path: Path
    sha256: str


def read_calibration(model: Model, folder: Path | None = None) -> Calibration:
    """Reads a calibration of this model; by default the folder int8/ in the model's.

    calibration.json there has: onnx, the file's name; sha256, its hash; model_sha256, the model's. More is for people.

    Raises:
        ModelError: there is none, it is another network's, or the file is not the one it means.
    """
    path = (folder or model.folder / "int8") / "calibration.json"
    make = f"make one: perception quantize {model.folder} --footage FOOTAGE, or take --precision fp16"
    try:
        entries = json.loads(path.read_bytes())
        onnx_path, sha256, source = path.parent / entries["onnx"], entries["sha256"], entries["model_sha256"]
        actual = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise ModelError(f"--calibration: there is no {error.filename}; {make}") from error
    except (KeyError, TypeError, ValueError) as error:
        keys = "onnx, sha256, model_sha256"
        raise ModelError(f"{path}: not a calibration's ({one_line(error)}); it has {keys}; {make}") from error
    if source != model.sha256:
        was = f"was made from a network with {str(source)[:12]}…, but {model.onnx_path.name} has {model.sha256[:12]}…"
        raise ModelError(f"{path}: model_sha256: {was}; {make}")
    if actual != sha256:
        raise ModelError(f"{path}: sha256: is {str(sha256)[:12]}…, but {onnx_path.name} has {actual[:12]}…; {make}")
    return Calibration(onnx_path, actual)


def load_network(path: Path, sha256: str) -> "onnx.ModelProto":
    """A network whose nodes all have names.

    Raises:
        ModelError: it is no ONNX, has another hash, or has weights in other files, which no hash covers.
    """
    onnx = _onnx()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(f"{path}: was changed just now; build again when nobody writes it")
    try:
        graph = onnx.load_from_string(content)
    except Exception as error:  # protobuf's DecodeError, which has no stable place
        raise ModelError(f"{path}: not an ONNX file: {one_line(error)}; export the network anew") from error
    for index, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    for tensor in graph.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            remedy = "export the network with its weights in it"
            raise ModelError(f"{path}: weights {tensor.name!r} lie in another file, which no hash covers; {remedy}")
    return graph


def prepare(
    model: Model,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    say: Callable[[str], None] = print,
    max_batch: int = 1,
) -> Network:
    """The ONNX to build a plan of the model from. Its input keeps its type, its outputs have those that fusion takes.

    Args:
        model: whose network to take.
        precision: one of PRECISIONS.
        calibration: whose network to take instead, for int8.
        say: is told what did not go as planned.
        max_batch: with more than 1 the batch axis stays free.

    Raises:
        ModelError: the network cannot be run, its tensors are not those of the manifest, or it cannot take so many
            images.
    """
    reference = OnnxRuntimeEngine(model.onnx_path)
    check_tensors(model, reference)
    if max_batch > 1:
        check_batch(model, open_device(), reference, max_batch)
    image = random_images(model, 1)
    wanted = _as_fusion_takes(model, reference.infer(image))

    path, sha256 = (calibration.onnx_path, calibration.sha256) if calibration else (model.onnx_path, model.sha256)
    graph = load_network(path, sha256)
    _specialise(graph, model, path, is_batch_free=max_batch > 1)
    _convert_outputs(graph, wanted)
    if calibration is None:  # the optimiser would move Q and DQ nodes from where the calibration wants them
        simple = _simplify(graph)
        different = {name: d for name, d in _compare(simple, image, wanted).items() if not _is_same(d, wanted[name])}
        if different:
            say(f"{model.onnx_path}: simplified, it differs by {different}; it is built as it is")
        else:
            graph = simple
    if precision == "int8":
        say(_int8_layers(graph))
    if precision == "fp16":
        graph = to_fp16(graph, [image])
    differences = _compare(graph, image, wanted)
    for name, difference in differences.items():
        if difference is not None and not math.isfinite(difference):
            remedy = "take --precision fp32" if precision != "fp32" else "export the network anew"
            raise ModelError(f"{model.onnx_path}: output {name!r} differs by {difference} in {precision}; {remedy}")
    return Network(graph, graph.SerializeToString(), differences)


def _int8_layers(graph: "onnx.ModelProto") -> str:
    """Says how many layers with weights are quantized, and which are not: those the library computes as they stand."""
    maker = {name: node.op_type for node in graph.graph.node for name in node.output}
    with_weights = [node for node in graph.graph.node if node.op_type in WITH_WEIGHTS]
    others = [n.name for n in with_weights if {maker.get(name) for name in n.input[:2]} != {"DequantizeLinear"}]
    is_half = any(tensor.data_type == _onnx().TensorProto.FLOAT16 for tensor in graph.graph.initializer)
    shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    rest = f"; not quantized, so in float{16 if is_half else 32}: {shown}" if others else ""
    return f"int8: {len(with_weights) - len(others)} of {len(with_weights)} layers with weights{rest}"


def _specialise(graph: "onnx.ModelProto", model: Model, path: Path, is_batch_free: bool = False) -> None:
    """Fixes the sizes that the input leaves open; drops the outputs that the manifest does not use."""
    inputs = [tensor for tensor in graph.graph.input if tensor.name == model.input.tensor]
    used = set(model.tensors.values())
    outputs = [tensor for tensor in graph.graph.output if tensor.name in used]
    if not inputs or len(outputs) != len(used):
        needed = ", ".join((model.input.tensor, *sorted(used)))
        raise ModelError(f"{path}: has not all the tensors that {model.name} needs: {needed}; calibrate it anew")
    sizes = zip(inputs[0].type.tensor_type.shape.dim, (1, 3, *model.input.size_hw), strict=True)
    for dimension, size in itertools.islice(sizes, int(is_batch_free), None):
        dimension.dim_value = size
    refill(graph.graph.input, inputs)
    refill(graph.graph.output, outputs)
    del graph.graph.value_info[:]  # of the open sizes
    prune(graph)


def prune(graph: "onnx.ModelProto") -> None:
    """Drops the nodes and weights that no output needs."""

    def uses(node: "onnx.NodeProto") -> Iterator[str]:
        yield from node.input
        for inner in (inner for attribute in node.attribute for inner in (attribute.g, *attribute.graphs)):
            yield from (tensor.name for tensor in inner.output)
            yield from (name for child in inner.node for name in uses(child))

    maker = {name: index for index, node in enumerate(graph.graph.node) for name in node.output}
    needed: set[str] = set()
    left = [output.name for output in graph.graph.output]
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += uses(graph.graph.node[maker[name]]) if name in maker else ()
    refill(graph.graph.node, [node for node in graph.graph.node if needed.intersection(node.output)])
    refill(graph.graph.initializer, [tensor for tensor in graph.graph.initializer if tensor.name in needed])


def refill(field: Any, entries: Sequence[Any]) -> None:
    """Makes the entries all that a repeated field of a graph holds."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]  # deleting empties its own
    del field[:]
    field.extend(copies)


def _as_fusion_takes(model: Model, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs that the manifest names, of the types that the kernels take: on a GPU nothing converts them later."""
    roles = conform({role: outputs[name] for role, name in model.tensors.items()}, FAMILIES[model.family].inputs)
    return {model.tensors[role]: array for role, array in roles.items()}


def _convert_outputs(graph: "onnx.ModelProto", wanted: Mapping[str, np.ndarray]) -> None:
    """Casts the outputs that are not of the wanted types."""
    onnx = _onnx()
    for output in graph.graph.output:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(wanted[output.name].dtype)
        if output.type.tensor_type.elem_type == dtype:
            continue
        exported = f"{output.name}_as_exported"
        for node in graph.graph.node:
            for names in (node.input, node.output):
                names[:] = [exported if name == output.name else name for name in names]
        cast = onnx.helper.make_node("Cast", [exported], [output.name], name=f"{output.name}_cast", to=dtype)
        graph.graph.node.append(cast)
        output.type.tensor_type.elem_type = dtype


def _simplify(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Folds constants, joins and drops what does nothing: ONNX Runtime's basic optimisations.

    They keep to ONNX's own operators; TensorRT's parser then meets no arithmetic with shapes.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/simple.onnx"
        session(graph, options)
        simple = _onnx().load(options.optimized_model_filepath)
    domains = {node.domain for node in simple.graph.node}
    used = [opset for opset in simple.opset_import if opset.domain in domains | {""}]
    del simple.opset_import[:]
    simple.opset_import.extend(used)
    return simple


def to_fp16(graph: "onnx.ModelProto", images: Sequence[np.ndarray]) -> "onnx.ModelProto":
    """In float16, but for inputs, outputs, operators that need more, and those whose values would not fit.

    Args:
        graph: in float32.
        images: float32 (1, 3, H, W), as the network takes them; at least one.
    """
    onnx = _onnx()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    peaks = _peaks(graph, images)
    large = {name for name, peak in peaks.items() if not peak <= FP16_RANGE}
    keep = [node.name for node in graph.graph.node if large.intersection((*node.input, *node.output))]
    own = {node.name for node in graph.graph.node}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for each weight that is next to nothing
        half = convert_float_to_float16(graph, keep_io_types=True, node_block_list=keep)
    # Between two operators that stay in fp32 it casts to float16, in which the values do not fit, and back.
    FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    # The network's own casts stay: they may come from another type.
    casts = {node.output[0]: node for node in half.graph.node if node.op_type == "Cast" and node.name not in own}
    to = {name: onnx.helper.get_node_attr_value(node, "to") for name, node in casts.items()}
    same = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if to[name] == FLOAT and to.get(node.input[0]) == FLOAT16
    }
    for node in half.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    prune(half)
    return half


def _peaks(graph: "onnx.ModelProto", images: Sequence[np.ndarray]) -> dict[str, float]:
    """Tensor -> its largest absolute value on the images, for every float32 tensor of the graph and its weights."""
    onnx = _onnx()
    helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    weights = [tensor for tensor in graph.graph.initializer if tensor.data_type == FLOAT]
    peaks = {tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0)) for tensor in weights}

    measured = onnx.shape_inference.infer_shapes(graph)
    made = {name for node in graph.graph.node for name in node.output}
    values = [*measured.graph.value_info, *measured.graph.output]
    names = [v.name for v in values if v.name in made and v.type.tensor_type.elem_type == FLOAT]
    del measured.graph.output[:]
    for name in names:
        measured.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        measured.graph.node.append(helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/peak"], keepdims=0))
        measured.graph.output.append(helper.make_tensor_value_info(f"{name}/peak", FLOAT, []))
    runner = session(measured)
    found = [runner.run([f"{name}/peak" for name in names], {runner.get_inputs()[0].name: i}) for i in images]
    return peaks | dict(zip(names, np.max(found, axis=0).tolist(), strict=True))


def _compare(graph: "onnx.ModelProto", image: np.ndarray, wanted: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Output -> largest absolute difference to `wanted`, None if they have not the same shape."""
    differences: dict[str, float | None] = {}
    for name, array in _run(graph, image).items():
        if array.shape != wanted[name].shape:
            differences[name] = None
        else:
            ours, theirs = array.astype(np.float64), wanted[name].astype(np.float64)
            equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))  # infinity minus itself is no number
            with np.errstate(invalid="ignore"):
                differences[name] = float(np.where(equal, 0, np.abs(ours - theirs)).max(initial=0))
    return differences


def _is_same(difference: float | None, wanted: np.ndarray) -> bool:
    return difference is not None and difference <= SAME * max(1.0, float(np.abs(wanted).max(initial=0)))


def _run(graph: "onnx.ModelProto", image: np.ndarray) -> dict[str, np.ndarray]:
    runner = session(graph)
    names = [output.name for output in runner.get_outputs()]
    return dict(zip(names, runner.run(names, {runner.get_inputs()[0].name: image}), strict=True))


def session(
    graph: "onnx.ModelProto", options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Runs a network that was converted. Q/DQ nodes run as they stand: it rounds where a GPU would, and nowhere else.

    Raises:
        ModelError: ONNX Runtime cannot.
    """
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # see OnnxRuntimeEngine
    try:
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no base class
        remedy = "export the network with another opset, or take another --precision"
        raise ModelError(f"ONNX Runtime cannot run the converted network: {one_line(error)}; {remedy}") from error


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError as error:
        remedy = "pip install 'perception_node[engines]'"
        raise UserError(f"building engines needs onnx ({one_line(error)}); {remedy}") from error
    return onnx
