"""Engines run a network. `load_engine` picks one and checks that the network is what the manifest says it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perception_node.errors import UserError, one_line
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import size_of
from perception_node.model import Model

ENGINES = {"cpu": ("onnxruntime", "openvino")}
"""The engines of each device; "auto" takes the first. (TensorRT will be the one of "cuda".)"""

DEVICES = tuple(ENGINES)
ENGINE_NAMES = ("auto", *(name for names in ENGINES.values() for name in names))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a network.

    Attributes:
        name: in the ONNX graph.
        shape: with the batch; None where the graph leaves a size open.
        dtype: numpy's name of the element type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def admits(self, shape: tuple[int | None, ...]) -> bool:
        """Whether another shape is this one, as far as both are known."""
        return len(shape) == len(self.shape) and all(
            None in (own, other) or own == other for own, other in zip(self.shape, shape, strict=True)
        )


class Engine(Protocol):
    """A network ready to run."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """Runs the network on its one input; outputs by their names in the ONNX graph."""
        ...


def choose_engine(device: str, engine: str = "auto") -> str:
    """The name of the engine that is meant.

    Raises:
        UserError: no such device, or it has no such engine.
    """
    if device not in ENGINES:
        raise UserError(f"device {device!r}: this version runs on {' or '.join(DEVICES)}")
    names = ENGINES[device]
    if engine == "auto":
        return names[0]
    if engine not in names:
        raise UserError(f"engine {engine!r}: device {device} has no such; expected: auto, {' or '.join(names)}")
    return engine


def load_engine(model: Model, device: str = "cpu", threads: int = 0, engine: str = "auto") -> Engine:
    """An engine for the model's network.

    Args:
        model: whose network to load.
        device: "cpu".
        threads: for the CPU; 0 takes all cores.
        engine: one of the device's in ENGINES, or "auto".

    Raises:
        ModelError: the network cannot be loaded, or its tensors are not those of the manifest.
        UserError: no such device or engine, or the engine's library is not installed.
    """
    name = choose_engine(device, engine)
    try:
        if name == "onnxruntime":
            from perception_node.engine.onnxruntime import OnnxRuntimeEngine as EngineClass
        elif name == "openvino":
            from perception_node.engine.openvino import OpenVinoEngine as EngineClass
    except ImportError as error:
        # rosdep, which a vehicle installs with, knows neither library.
        package = {"openvino": "'perception_node[openvino]'"}.get(name, name)
        raise UserError(
            f"engine {name!r}: its library cannot be imported ({one_line(error)}); pip install {package}"
        ) from error
    loaded = EngineClass(model.onnx_path, threads)
    check_tensors(model, loaded)
    return loaded


def check_tensors(model: Model, engine: Engine) -> None:
    """Raises ModelError where the network's tensors are not those that the manifest names.

    Sizes that the graph leaves open are learnt by running it once.
    """
    height, width = model.input.size_hw
    inputs = {spec.name: spec for spec in engine.inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    image = TensorSpec(model.input.tensor, (1, 3, height, width), "float32")
    _check(model, "input.tensor", image, inputs, ("float32",), "input.size")
    if len(inputs) != 1:
        problem = f"the network has {len(inputs)} inputs ({', '.join(inputs)})"
        raise model.error("input.tensor", problem, "one, the image")

    sizes: dict[str, int] = {"C": len(model.taxonomy)}
    sizes |= {"h": -(-height // model.stride), "w": -(-width // model.stride)}
    wanted = [(role, name, FAMILIES[model.family].inputs[role]) for role, name in model.tensors.items()]
    if any(None in spec.shape for spec in engine.outputs) and all(name in outputs for _, name, _ in wanted):
        answers = engine.infer(np.zeros(image.shape, np.float32))
        outputs = {name: TensorSpec(name, array.shape, array.dtype.name) for name, array in answers.items()}
    for role, name, taken in wanted:
        symbols = taken.shape.split()
        if name in outputs and len(outputs[name].shape) == 1 + len(symbols):
            for symbol, size in zip(symbols, outputs[name].shape[1:], strict=True):
                if symbol.isalpha() and size is not None:
                    sizes.setdefault(symbol, size)
        shape = (1, *(size_of(symbol, sizes) for symbol in symbols))
        dtypes = {"logit": ("float32", "float16"), "int32": ("int32", "int64")}.get(taken.dtype, (taken.dtype,))
        source = "classes, input.size, output.stride and the other tensors"
        _check(model, f"output.tensors.{role}", TensorSpec(name, shape, dtypes[0]), outputs, dtypes, source)


def _check(
    model: Model,
    key: str,
    wanted: TensorSpec,
    specs: Mapping[str, TensorSpec],
    dtypes: tuple[str, ...],
    source: str,
) -> None:
    name, network = wanted.name, model.onnx_path.name
    if name not in specs:
        raise model.error(key, f"{network} has no tensor {name!r} there", f"one of {', '.join(specs)}")
    spec = specs[name]
    if not wanted.admits(spec.shape):
        raise model.error(
            key,
            f"{name!r} has shape {spec.shape} in {network}, but {source} make it {wanted.shape}",
            "correct the manifest or export the network anew",
        )
    if spec.dtype not in dtypes:
        raise model.error(key, f"{name!r} is {spec.dtype}", f"{' or '.join(dtypes)}; export the network anew")
