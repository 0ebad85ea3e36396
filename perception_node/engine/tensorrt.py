"""Networks on an NVIDIA GPU with TensorRT: a plan, run in the device's stream. Never waits for the GPU."""

import functools
import sys
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perception_node.device.cuda import CudaArray, CudaDevice
from perception_node.engine import PlanOptions, TensorSpec
from perception_node.engine.build import build
from perception_node.engine.network import read_calibration
from perception_node.engine.plan import PlanKey, find_plan, load_plan
from perception_node.engine.trt import Library, open_library
from perception_node.errors import DeviceError, ModelError, PlanError
from perception_node.model import Model


def load_plan_of(model: Model, device: CudaDevice, runtime: str, options: PlanOptions) -> "TensorRtEngine":
    """The engine of a model's plan for this GPU; see perception_node.engine.load_engine."""
    library = open_library(runtime)
    calibration = read_calibration(model, options.calibration).sha256 if options.precision == "int8" else None
    key = PlanKey.of(
        model,
        precision=options.precision,
        calibration=calibration,
        library=library.name,
        library_version=library.version,
        **library.target(),
    )
    try:
        path = find_plan(model, key)
        plan, _ = load_plan(path, key, options.allow_unverified)
    except PlanError:
        if not options.auto_build:
            raise
        say = functools.partial(print, file=sys.stderr, flush=True)
        (built,) = build(model, options.precision, runtime=library.name, calibration=options.calibration, say=say)
        path = built.path
        plan, _ = load_plan(path, key, options.allow_unverified)
    return TensorRtEngine(device, library, plan, str(path))


class TensorRtEngine:
    """A plan on a GPU; see perception_node.engine.Engine. Buffers are bound once: the next frame uses them again.

    Args:
        device: in whose stream it runs.
        library: that built the plan.
        plan: its bytes, from perception_node.engine.plan.load_plan.
        name: what messages call it.

    Raises:
        ModelError: the plan does not work here, or the sizes of its outputs are not known before it runs.
        UserError: there is not enough memory.
    """

    _execution = _plan = None

    def __init__(self, device: CudaDevice, library: Library, plan: bytes, name: str):
        self._device, self._messages, self._name = device, library.listen(), name
        self._plan = _Plan.shared(device, library, plan, name)
        engine, trt = self._plan.engine, library.trt
        with device.context:
            self._execution = engine.create_execution_context()
            if self._execution is None:
                raise ModelError(f"{name}: the GPU cannot hold it: {self._said()}; take a smaller network")
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            specs = {
                tensor: TensorSpec(
                    tensor,
                    tuple(engine.get_tensor_shape(tensor)),
                    np.dtype(trt.nptype(engine.get_tensor_dtype(tensor))).name,
                )
                for tensor in names
            }
            is_input = {tensor: engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT for tensor in names}
        self.inputs = tuple(spec for spec in specs.values() if is_input[spec.name])
        self.outputs = tuple(spec for spec in specs.values() if not is_input[spec.name])
        for spec in specs.values():
            if any(size < 0 for size in spec.shape):
                problem = f"the size of {spec.name!r}, {spec.shape}, is not known before it runs"
                raise ModelError(f"{name}: {problem}; export the network with fixed sizes")
        self._arrays = {spec.name: device.empty(spec.shape, spec.dtype) for spec in self.outputs}
        for tensor, array in self._arrays.items():
            self._bind(tensor, array)
        self._input: CudaArray | None = None

    def infer(self, tensor: CudaArray) -> Mapping[str, CudaArray]:
        if self._input is None or tensor.pointer != self._input.pointer:
            self._bind(self.inputs[0].name, tensor)
            self._input = tensor
        with self._device.context:
            if not self._execution.execute_async_v3(self._device.stream.handle):
                raise DeviceError(f"{self._name}: TensorRT could not start it: {self._said()}")
        return self._arrays

    def _bind(self, tensor: str, array: CudaArray) -> None:
        if not self._execution.set_tensor_address(tensor, array.pointer):
            raise ModelError(f"{self._name}: TensorRT does not take the memory of {tensor!r}: {self._said()}")

    def _said(self) -> str:
        return "; ".join(self._messages.errors) or "it does not say why"

    def __del__(self) -> None:
        with self._device.context:
            self._execution = None  # before the plan
            self._plan = None


class _Plan:
    """A plan in the GPU's memory. Engines of the same plan, of pipelines that take turns, share it."""

    _shared: ClassVar["weakref.WeakValueDictionary[tuple[str, bytes], _Plan]"] = weakref.WeakValueDictionary()

    @classmethod
    def shared(cls, device: CudaDevice, library: Library, plan: bytes, name: str) -> "_Plan":
        key = library.name, plan
        found = cls._shared.get(key)
        if found is None:
            found = cls._shared[key] = cls(device, library, plan, name)
        return found

    def __init__(self, device: CudaDevice, library: Library, plan: bytes, name: str):
        self._device = device
        self.engine: Any = None
        messages = library.listen()
        with device.context:
            self._runtime = library.trt.Runtime(library.logger)
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            said = "; ".join(messages.errors) or "it does not say why"
            raise ModelError(
                f"{name}: {library.name} {library.version} cannot read it: {said}; build it anew on this machine"
            )

    def __del__(self) -> None:
        with self._device.context:
            self.engine = None  # before the runtime
            self._runtime = None
