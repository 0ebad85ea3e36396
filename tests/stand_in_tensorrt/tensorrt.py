"""A stand-in for the library of that name, on the emulated driver: what engine/tensorrt.py calls of it, no more.

A plan is an ONNX file behind MAGIC, run by ONNX Runtime when the stream comes to it: at that moment it reads and writes
the addresses that it was given. So who forgets to wait gets poison, and who binds the wrong memory gets what is there.
Like the library, it answers None or False where something fails, and raises nothing.
"""

import ctypes
import enum
import os

import numpy as np
import onnxruntime

__version__ = "10.13.0"
MAGIC = b"stand-in plan\n"
FAIL = "STAND_IN_TENSORRT_FAILS"
"""Environment variable: "deserialize", "context", "profile", "address" or "enqueue" fails; "capture": a graph cannot
hold it."""

_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_driver = ctypes.CDLL("libcuda.so.1")


class NetworkDefinitionCreationFlag(enum.Enum):
    pass


class IBuilderConfig:
    pass


class Builder:
    """That it is there shows that this is the library."""


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        pass


class Logger(ILogger):
    Severity = ILogger.Severity


def _fails(what: str) -> bool:
    return os.environ.get(FAIL) == what


def nptype(dtype: np.dtype) -> type:
    return dtype.type


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    return True


class Runtime:
    """As the library's part of CUDA does, it keeps the GPU's primary context until the process ends."""

    def __init__(self, logger: ILogger):
        self._logger = logger
        assert _driver.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0) == 0

    def deserialize_cuda_engine(self, plan: bytes) -> "ICudaEngine | None":
        if not plan.startswith(MAGIC) or _fails("deserialize"):
            self._logger.log(ILogger.Severity.ERROR, "the plan does not begin as one does")
            return None
        return ICudaEngine(self, plan.removeprefix(MAGIC))


class ICudaEngine:
    def __init__(self, runtime: Runtime, network: bytes):
        self._runtime = runtime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._inputs = {spec.name: spec for spec in self.session.get_inputs()}
        self._tensors = {**self._inputs, **{spec.name: spec for spec in self.session.get_outputs()}}
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = 2
        self.device_memory_size_v2 = 1 << 20

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> np.dtype:
        dtype = self._tensors[name].type.removeprefix("tensor(").removesuffix(")")
        return np.dtype("float32" if dtype == "float" else dtype)

    def create_execution_context(self) -> "IExecutionContext | None":
        return None if _fails("context") else IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine):
        self.engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {
            name: engine.get_tensor_shape(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        self._callbacks: list[object] = []
        self._profile: int | None = None
        self._is_recorded = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """A plan has as many as engine/build.py makes: for one image, and for several."""
        self._profile = profile_index
        return profile_index < 2 and not _fails("profile")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        known = self.engine.get_tensor_shape(name)
        if any(own not in (-1, size) for own, size in zip(known, shape, strict=True)):
            return False
        if self._profile is None or (shape[0] == 1) != (self._profile == 0):
            return False
        if self._is_recorded:  # in earnest the graph would be of no use from now on
            return False
        self._shapes[name] = tuple(shape)
        for output in self._shapes.keys() - self.engine._inputs.keys():
            self._shapes[output] = (shape[0], *self._shapes[output][1:])
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address % 256 == 0 and not _fails("address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        if _fails("capture"):
            _driver.cuStreamQuery(ctypes.c_void_p(stream_handle))  # what a graph cannot hold
        if _fails("enqueue") or set(self._addresses) != set(self._shapes):
            return False
        capturing = ctypes.c_int()
        _driver.cuStreamIsCapturing(ctypes.c_void_p(stream_handle), ctypes.byref(capturing))
        self._is_recorded |= capturing.value != 0
        addresses, shapes = dict(self._addresses), dict(self._shapes)

        def at(name: str) -> np.ndarray:
            dtype = self.engine.get_tensor_dtype(name)
            memory = (ctypes.c_char * (int(np.prod(shapes[name])) * dtype.itemsize)).from_address(addresses[name])
            return np.frombuffer(memory, dtype).reshape(shapes[name])

        def run(_: int | None) -> None:
            feeds = {name: at(name) for name in self.engine._inputs}
            names = [name for name in shapes if name not in feeds]
            for name, array in zip(names, self.engine.session.run(names, feeds), strict=True):
                at(name)[...] = array

        callback = _HostFunction(run)
        self._callbacks.append(callback)  # the stream calls it later
        return _driver.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), callback, None) == 0
