"""Networks on an NVIDIA GPU with TensorRT: a plan, run in the device's stream. Never waits for the GPU."""

import functools
import hashlib
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


def load_plan_of(
    model: Model, device: CudaDevice, runtime: str, options: PlanOptions, max_batch: int = 1
) -> "TensorRtEngine":
    """The engine of a model's plan for this GPU; see perception_node.engine.load_engine."""
    library = open_library(runtime)
    calibration = read_calibration(model, options.calibration).sha256 if options.precision == "int8" else None
    key = PlanKey.of(
        model,
        max_batch,
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
        (built,) = build(
            model,
            options.precision,
            runtime=library.name,
            calibration=options.calibration,
            say=say,
            max_batch=max_batch,
        )
        path = built.path
        plan, _ = load_plan(path, key, options.allow_unverified)
    return TensorRtEngine(device, library, plan, str(path), max_batch)


class TensorRtEngine:
    """A plan on a GPU; see perception_node.engine.Engine. Buffers are bound once: the next frame uses them again.

    Args:
        device: in whose stream it runs.
        library: that built the plan.
        plan: its bytes, from perception_node.engine.plan.load_plan.
        name: what messages call it.
        max_batch: the most images at once, as the plan was built for.

    Raises:
        ModelError: the plan does not work here, or the sizes of its outputs are not known before it runs.
        UserError: there is not enough memory.
    """

    def __init__(self, device: CudaDevice, library: Library, plan: bytes, name: str, max_batch: int = 1):
        self.key = f"{library.name} {library.version}, {name}"
        library.listen()
        self._plan = _Plan.shared(device, library, plan, name)
        # A CUDA graph is of no use once its context was changed: one image has a context to itself, which stays as it
        # is. Several have the plan's second profile.
        self._alone = _Execution(device, library, self._plan, name)
        self._together = _Execution(device, library, self._plan, name, 1, max_batch) if max_batch > 1 else None
        self.inputs, self.outputs = self._alone.inputs, self._alone.outputs
        # TensorRT-RTX knows; the others are asked by trying.
        ask = getattr(self._alone.context, "is_stream_capturable", None)
        self.recordable = ask is None or bool(ask(device.stream.handle))

    def infer(self, tensor: CudaArray) -> Mapping[str, CudaArray]:
        execution = self._alone if tensor.shape[0] == 1 or self._together is None else self._together
        return execution.infer(tensor)


class _Execution:
    """An execution context of a plan: with one of its profiles, and outputs for so many images.

    Attributes:
        context: the library's.
        inputs, outputs: the plan's tensors, for one image; where the batch is free the input has None for it.
    """

    def __init__(
        self, device: CudaDevice, library: Library, plan: "_Plan", name: str, profile: int = 0, max_batch: int = 1
    ):
        self._device, self._library, self._plan, self._name = device, library, plan, name
        engine, trt = plan.engine, library.trt
        with device.context:
            context = engine.create_execution_context()
        if context is None:
            raise ModelError(f"{name}: the GPU cannot hold it: {_said(library)}; take a smaller network")
        self.context = context
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {tensor: engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT for tensor in tensors}
        self._input = next(tensor for tensor in tensors if is_input[tensor])
        self._pointer = 0
        free, *self._size_chw = _shape(engine.get_tensor_shape(self._input))
        self._count = 1
        if free < 0:
            with device.context:
                is_set = context.set_optimization_profile_async(profile, device.stream.handle)
            if not is_set:
                raise ModelError(f"{name}: has no profile {profile}: {_said(library)}; build it anew")
            self._resize(max_batch)
        inputs, outputs, arrays = [], [], {}
        for tensor in tensors:
            shape = _shape(context.get_tensor_shape(tensor))
            if min(shape, default=0) < 0:
                problem = f"the size of {tensor!r}, {shape}, is not known before it runs"
                raise ModelError(f"{name}: {problem}; export the network with fixed sizes")
            try:
                dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(tensor))).name
            except TypeError as error:  # bfloat16 and smaller
                raise ModelError(f"{name}: {tensor!r}: {error}; export the network with float32 there") from error
            if is_input[tensor]:
                inputs.append(TensorSpec(tensor, (None, *shape[1:]) if free < 0 else shape, dtype))
            else:
                outputs.append(TensorSpec(tensor, (1, *shape[1:]) if free < 0 else shape, dtype))
                arrays[tensor] = device.empty(shape, dtype)
                self._bind(tensor, arrays[tensor])
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._answers = {
            count: {tensor: _first(device, array, count) for tensor, array in arrays.items()}
            for count in range(1, max_batch + 1)
        }

    def infer(self, tensor: CudaArray) -> Mapping[str, CudaArray]:
        """See Engine.infer."""
        count = tensor.shape[0]
        if count != self._count:
            self._resize(count)
        if tensor.pointer != self._pointer:
            self._bind(self._input, tensor)
            self._pointer = tensor.pointer
        with self._device.context:
            if not self.context.execute_async_v3(self._device.stream.handle):
                raise DeviceError(f"{self._name}: TensorRT could not start it: {_said(self._library)}")
        return self._answers[count]

    def _resize(self, count: int) -> None:
        """Says how many images come at once."""
        with self._device.context:
            is_set = self.context.set_input_shape(self._input, (count, *self._size_chw))
        if not is_set:
            raise ModelError(f"{self._name}: does not take {count} images at once: {_said(self._library)}")
        self._count = count

    def _bind(self, tensor: str, array: CudaArray) -> None:
        if not self.context.set_tensor_address(tensor, array.pointer):
            raise ModelError(f"{self._name}: TensorRT does not take the memory of {tensor!r}: {_said(self._library)}")

    def __del__(self) -> None:
        with self._device.context:
            self.__dict__.pop("context", None)  # before the plan
            self.__dict__.pop("_plan", None)


def _shape(dims: Any) -> tuple[int, ...]:
    """Of the library's Dims."""
    return tuple(dims[axis] for axis in range(len(dims)))


def _first(device: CudaDevice, array: CudaArray, count: int) -> CudaArray:
    """The part of an output that is the first images'."""
    return device.view(array, 0, (count, *array.shape[1:]), array.dtype)


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
