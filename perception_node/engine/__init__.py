"""Engines run a network. `load_engine` picks one and checks that the network is what the manifest says it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perception_node.errors import ModelError, UserError
from perception_node.model import MANIFEST, Model

DEVICES = ("cpu",)


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

    def admits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            own in (None, wanted) for own, wanted in zip(self.shape, shape, strict=True)
        )


class Engine(Protocol):
    """A network ready to run."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """Runs the network on its one input; outputs by their names in the ONNX graph."""
        ...


def load_engine(model: Model, device: str = "cpu", threads: int = 0) -> Engine:
    """An engine for the model's network.

    Args:
        model: whose network to load.
        device: "cpu".
        threads: for the CPU; 0 takes all cores.

    Raises:
        ModelError: the network cannot be loaded, or its tensors are not those of the manifest.
        UserError: no such device.
    """
    if device not in DEVICES:
        raise UserError(f"device {device!r}: this version runs on {' or '.join(DEVICES)}")
    from perception_node.engine.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(model.onnx_path, threads)
    check_tensors(model, engine)
    return engine


def check_tensors(model: Model, engine: Engine) -> None:
    """Raises ModelError where the network's tensors are not those that the manifest names."""
    manifest = model.folder / MANIFEST
    height, width = model.input.size_hw
    h, w = -(-height // model.stride), -(-width // model.stride)
    channels = {"semantic": len(model.taxonomy), "center": 1, "offset": 2}
    inputs = {spec.name: spec for spec in engine.inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    wanted = [("input.tensor", model.input.tensor, inputs, (1, 3, height, width), "input.size")]
    wanted += [
        (f"output.tensors.{role}", name, outputs, (1, channels[role], h, w), "classes, input.size and output.stride")
        for role, name in model.tensors.items()
    ]
    for key, name, specs, shape, source in wanted:
        if name not in specs:
            raise ModelError(
                f"{manifest}: {key}: {model.onnx_path.name} has no tensor {name!r} there; "
                f"expected: one of {', '.join(specs)}"
            )
        if not specs[name].admits(shape):
            raise ModelError(
                f"{manifest}: {key}: {name!r} has shape {specs[name].shape} in {model.onnx_path.name}, "
                f"but {source} make it {shape}; correct the manifest or export the network anew"
            )
    if len(inputs) != 1:
        raise ModelError(
            f"{manifest}: input.tensor: {model.onnx_path.name} has {len(inputs)} inputs "
            f"({', '.join(inputs)}); expected: one, the image"
        )
    if inputs[model.input.tensor].dtype != "float32":
        raise ModelError(
            f"{manifest}: input.tensor: {model.input.tensor!r} is {inputs[model.input.tensor].dtype}; "
            "expected: float32; export the network with float32 inputs"
        )
