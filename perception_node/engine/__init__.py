"""Engines run a network. `load_engine` picks one and checks that the network is what the manifest says it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from perception_node.device import Array, Device
from perception_node.errors import UserError, one_line
from perception_node.fusion import FAMILIES
from perception_node.fusion.base import size_of
from perception_node.model import Model

ENGINES = {"cpu": ("onnxruntime", "openvino"), "cuda": ("tensorrt", "tensorrt_rtx")}
"""The engines of each device; "auto" takes the first that is installed."""

DEVICES = tuple(ENGINES)
PRECISIONS = ("fp32", "fp16", "int8")
"""Of TensorRT plans."""

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
    """A network ready to run.

    Attributes:
        key: what runs which file, for people.
        inputs, outputs: its tensors.
        recordable: whether Device.record can hold what `infer` queues.
    """

    key: str
    recordable: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, tensor: Array) -> Mapping[str, Array]:
        """Queues the network's work on its one input, (N, 3, H, W); outputs by their names in the ONNX graph.

        All lies on the device, and is worked on in its order. The next call may write over the outputs.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Which TensorRT plan of a model is taken. Other engines have none.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        calibration: folder of the int8 calibration; None is the model's own.
        auto_build: build the plan if there is none that may be loaded. It takes seconds to an hour.
        allow_unverified: see perception_node.engine.plan.load_plan.
    """

    precision: str = "fp16"
    calibration: Path | None = None
    auto_build: bool = False
    allow_unverified: bool = False


DEFAULT_PLAN = PlanOptions()


def choose_engine(device: str, engine: str = "auto") -> str:
    """The engine that is meant: its name, or "auto" where what is installed decides.

    Raises:
        UserError: no such device, or it has no such engine.
    """
    if device not in ENGINES:
        raise UserError(f"device {device!r}: this version runs on {' or '.join(DEVICES)}")
    names = ENGINES[device]
    if engine == "auto":
        return names[0] if device == "cpu" else engine
    if engine not in names:
        raise UserError(f"engine {engine!r}: device {device} has no such; expected: auto, {' or '.join(names)}")
    return engine


def load_engine(
    model: Model, device: Device, engine: str = "auto", plan: PlanOptions = DEFAULT_PLAN, max_batch: int = 1
) -> Engine:
    """An engine for the model's network.

    Args:
        model: whose network to load.
        device: on which it runs.
        engine: one of the device's in ENGINES, or "auto".
        plan: for TensorRT.
        max_batch: the most images that it is given at once; 1 takes every network.

    Raises:
        ModelError: the network cannot be loaded, its tensors are not those of the manifest, or it cannot take so many
            images; see perception_node.engine.batch.
        PlanError: there is no plan, or it may not be loaded.
        UserError: no such engine, or the engine's library is not installed.
    """
    name = choose_engine(device.name, engine)
    try:
        if device.name == "cuda":
            from perception_node.engine.tensorrt import load_plan_of

            loaded = load_plan_of(model, device, name, plan, max_batch)
        elif name == "openvino":
            from perception_node.engine.openvino import OpenVinoEngine

            loaded = OpenVinoEngine(model.onnx_path, device.threads)
        else:
            from perception_node.engine.onnxruntime import OnnxRuntimeEngine

            loaded = OnnxRuntimeEngine(model.onnx_path, device.threads)
    except ImportError as error:
        # rosdep, which a vehicle installs with, knows neither library.
        package = {"openvino": "'perception_node[openvino]'"}.get(name, name)
        raise UserError(
            f"engine {name!r}: its library cannot be imported ({one_line(error)}); pip install {package}"
        ) from error
    check_tensors(model, loaded)
    if max_batch > 1:
        from perception_node.engine.batch import check_batch

        check_batch(model, device, loaded, max_batch)
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
        dtypes = taken.network_dtypes
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
