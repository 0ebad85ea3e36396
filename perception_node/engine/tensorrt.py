"""Networks on an NVIDIA GPU with TensorRT: a plan, run in the device's stream. Never waits for the GPU."""

import functools
import hashlib
import sys
import weakref
from collections.abc import Mapping
from typing import ClassVar

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

    def __init__(self, device: CudaDevice, library: Library, plan: bytes, name: str):
        self._device, self._library, self._name = device, library, name
        self.key = f"{library.name} {library.version}, {name}"
        library.listen()
        self._plan = _Plan.shared(device, library, plan, name)
        engine, trt = self._plan.engine, library.trt
        with device.context:
            execution = engine.create_execution_context()
        if execution is None:
            raise ModelError(f"{name}: the GPU cannot hold it: {_said(library)}; take a smaller network")
        self._execution = execution
        inputs, outputs = [], []
        for tensor in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            dims = engine.get_tensor_shape(tensor)
            shape = tuple(dims[axis] for axis in range(len(dims)))
            if min(shape, default=0) < 0:
                problem = f"the size of {tensor!r}, {shape}, is not known before it runs"
                raise ModelError(f"{name}: {problem}; export the network with fixed sizes")
            try:
                dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(tensor))).name
            except TypeError as error:  # bfloat16 and smaller
                raise ModelError(f"{name}: {tensor!r}: {error}; export the network with float32 there") from error
            spec = TensorSpec(tensor, shape, dtype)
            (inputs if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT else outputs).append(spec)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        # TensorRT-RTX knows; the others are asked by trying.
        ask = getattr(execution, "is_stream_capturable", None)
        self.recordable = ask is None or bool(ask(device.stream.handle))
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
                raise DeviceError(f"{self._name}: TensorRT could not start it: {_said(self._library)}")
        return self._arrays

    def _bind(self, tensor: str, array: CudaArray) -> None:
        if not self._execution.set_tensor_address(tensor, array.pointer):
            raise ModelError(f"{self._name}: TensorRT does not take the memory of {tensor!r}: {_said(self._library)}")

    def __del__(self) -> None:
        with self._device.context:
            self.__dict__.pop("_execution", None)  # before the plan
            self.__dict__.pop("_plan", None)


class _Plan:
    """A plan in the GPU's memory. Engines of the same plan, of pipelines that take turns, share it."""

    _shared: ClassVar["weakref.WeakValueDictionary[tuple[str, str], _Plan]"] = weakref.WeakValueDictionary()

    @classmethod
    def shared(cls, device: CudaDevice, library: Library, plan: bytes, name: str) -> "_Plan":
        key = library.name, hashlib.sha256(plan).hexdigest()
        found = cls._shared.get(key)
        if found is None:
            found = cls._shared[key] = cls(device, library, plan, name)
        return found

    def __init__(self, device: CudaDevice, library: Library, plan: bytes, name: str):
        self._device = device
        version = f"{library.name} {library.version}"
        with device.context:
            try:
                self._runtime = library.trt.Runtime(library.logger)
            except (TypeError, RuntimeError) as error:  # pybind11's way to say that the library made none
                raise ModelError(f"{name}: {version} cannot be used: {_said(library)} ({error})") from error
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(f"{name}: {version} cannot read it: {_said(library)}; build it anew on this machine")
        self.engine = engine

    def __del__(self) -> None:
        with self._device.context:
            self.__dict__.pop("engine", None)  # before the runtime
            self.__dict__.pop("_runtime", None)


def _said(library: Library) -> str:
    return "; ".join(library.messages.errors) or "it does not say why"
