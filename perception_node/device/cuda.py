"""An NVIDIA GPU as a device, through PyCUDA: one stream, whose work runs in the order in which it was queued.

Compiled kernels (cubins) are kept in a cache, $XDG_CACHE_HOME/perception_node (~/.cache/perception_node): one file for
each source, configuration, architecture and compiler. Where there is no nvcc, one that any nvcc left there does.
"""

import ctypes
import functools
import importlib.util
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.device import Build, check_fits
from perception_node.device.compiling import cached, compiler_version, digest, run_compiler
from perception_node.device.graph import Graph, Mark, call
from perception_node.errors import DeviceError, UserError
from perception_node.paths import cache_folder

BLOCK = 128
"""Threads of a block: as many blocks as fit share a multiprocessor, also of kernels that take many registers."""
LARGEST_BLOCK = 1024
"""Threads of a kernel's only block: what every GPU allows, and what sum_before in common.cuh adds up."""

# IEEE results, the same as on the CPU: no fused multiply-add where the source has none. The CPU's header has __half of
# its own, so the sources do not include cuda_fp16.h.
FLAGS = "-std=c++17 -O3 -fmad=false -lineinfo -Werror all-warnings -include cuda_fp16.h"

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA does not name: what others do on the default stream does not hold ours up."""


class CudaDevice:
    """See perception_node.device.Device. Calls only queue work, except download, which waits.

    Calls can come from any thread, one at a time.

    Attributes:
        architecture: "sm_87" for compute capability 8.7.
        context: while it is entered, on whichever thread, what calls CUDA calls it for this GPU.
    """

    name = "cuda"
    pixels_per_thread = 1  # neighbouring threads write neighbouring addresses

    def __init__(self):
        self._driver = driver = _driver()
        try:
            device = driver.Device(0)
            self.architecture = "sm_{}{}".format(*device.compute_capability())
            self.context = _Context(device.retain_primary_context(), driver)
        except driver.Error as error:
            raise UserError(f"device 'cuda': the GPU cannot be used: {error}; see nvidia-smi") from error
        self._uploads: list[tuple[_Lent, np.ndarray]] = []

    @property
    def stream(self) -> Any:
        """pycuda.driver.Stream; engines queue their work in it too (stream.handle)."""
        return self.context.stream

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> "CudaArray":
        shape, dtype = _shape(shape), np.dtype(dtype)
        memory = self.context.take(self._driver.mem_alloc, max(1, int(np.prod(shape)) * dtype.itemsize))
        return CudaArray(memory, int(memory.block), shape, dtype)

    def view(self, array: "CudaArray", offset: int, shape: int | tuple[int, ...], dtype: Any) -> "CudaArray":
        return CudaArray(array.memory, array.pointer + offset, _shape(shape), np.dtype(dtype))

    def upload(self, host: np.ndarray, into: "CudaArray | None" = None) -> "CudaArray":
        check_fits(host, into)
        array = self.empty(host.shape, host.dtype) if into is None else into
        if not array.nbytes:
            return array
        # What is copied by now can be used again.
        self._uploads = [upload for upload in self._uploads if not self._is_done(upload[0])]
        staging = self._host(array.nbytes)
        staging[:] = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
        copied = self.context.take(self._driver.Event, self._driver.event_flags.DISABLE_TIMING)
        with self.context:
            self._driver.memcpy_htod_async(array.pointer, staging, self.stream)
            copied.block.record(self.stream)
        self._uploads.append((copied, staging))  # the copy reads it later
        return array

    def zero(self, array: "CudaArray") -> None:
        if array.nbytes:
            with self.context:
                self._driver.memset_d8_async(array.pointer, 0, array.nbytes, self.stream)

    def address(self, array: "CudaArray") -> int:
        return array.pointer

    def read(self, array: "CudaArray") -> np.ndarray:
        host = self._host(max(1, array.nbytes))[: array.nbytes]
        with self.context:
            if array.nbytes:
                self._driver.memcpy_dtoh_async(host, array.pointer, self.stream)
        return host.view(array.dtype).reshape(array.shape)

    def wait(self) -> None:
        with self.context:
            self.context.done.record(self.stream)
            self.context.done.synchronize()

    def download(self, array: "CudaArray") -> np.ndarray:
        host = self.read(array)
        self.wait()
        return host

    def mark(self) -> "_Lent":
        mark = self.context.take(Mark)
        with self.context:
            mark.block.record(self.stream.handle)
        return mark

    def milliseconds(self, start: "_Lent", end: "_Lent") -> float:
        with self.context:
            return start.block.milliseconds_to(end.block)

    def record(self, work: Callable[[], None]) -> Graph:
        return Graph(self.context, self.stream.handle, work)

    def kernels(self, source: Path, **defines: str | int) -> "CudaKernels":
        cubin = _cubin(source, tuple(sorted(defines.items())), self.architecture)
        if cubin not in self.context.modules:
            with self.context:
                self.context.modules[cubin] = self._driver.module_from_buffer(cubin)
        return CudaKernels(self.context, cubin)

    def compile(self, builds: Iterable[Build]) -> None:
        for source, defines in builds:
            self.kernels(source, **defines)

    def used_memory(self) -> int:
        """Bytes of the GPU's memory that are in use, by all programs."""
        with self.context:
            free, total = self._driver.mem_get_info()
        return total - free

    def _is_done(self, event: "_Lent") -> bool:
        with self.context:
            return event.block.query()

    def _host(self, nbytes: int) -> np.ndarray:
        """Page-locked memory, uint8: what the GPU can copy from and to by itself. Free when the last view of it is."""
        return np.asarray(self.context.take(self._driver.pagelocked_empty, nbytes, np.uint8))


class CudaArray:
    """See perception_node.device.Array.

    Attributes:
        pointer: address in the device's memory.
        memory: what keeps that memory from being given to others.
    """

    __slots__ = ("dtype", "memory", "nbytes", "pointer", "shape")

    def __init__(self, memory: "_Lent", pointer: int, shape: tuple[int, ...], dtype: np.dtype):
        self.memory, self.pointer, self.shape, self.dtype = memory, pointer, shape, dtype
        self.nbytes = int(np.prod(shape)) * dtype.itemsize


class CudaKernels:
    """See perception_node.device.Kernels."""

    def __init__(self, context: "_Context", cubin: bytes):
        self._context, self._cubin = context, cubin
        self._functions: dict[str, tuple[Any, int]] = {}

    def each(self, kernel: str, items: int, *arguments: Any) -> None:
        if items > 0:
            self._launch(kernel, -(-items // BLOCK), BLOCK, arguments)

    def block(self, kernel: str, *arguments: Any) -> None:
        self._launch(kernel, 1, LARGEST_BLOCK, arguments)

    def _launch(self, kernel: str, blocks: int, threads: int, arguments: tuple) -> None:
        packed = pack(arguments)
        with self._context:
            if kernel not in self._functions:
                function = self._context.modules[self._cubin].get_function(kernel).prepare((f"{len(packed)}s",))
                self._functions[kernel] = function, function.max_threads_per_block // 32 * 32
            function, most = self._functions[kernel]  # most: fewer than 1024 where the kernel takes many registers
            function.prepared_async_call((blocks, 1), (min(threads, most), 1, 1), self._context.stream, packed)


def pack(arguments: tuple) -> bytes:
    """A kernel's arguments as they lie in its parameters: each at a multiple of its alignment."""
    codes, values = zip(*map(_parameter, arguments), strict=True) if arguments else ((), ())
    return struct.pack("".join(codes), *values)


def _parameter(argument: Any) -> tuple[str, Any]:
    """Code and value for struct.pack, which aligns as C does; before bytes, "0I" aligns them as an unsigned int."""
    if isinstance(argument, CudaArray):
        return "P", argument.pointer
    if argument is None:
        return "P", 0
    if type(argument) is float:  # not numpy's float64, which is one too
        return "f", argument
    if type(argument) is int:
        return "i", argument
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[_alignment(argument.dtype)]
    return f"0{code}{argument.nbytes}s", argument.tobytes()


def _alignment(dtype: np.dtype) -> int:
    """In C. numpy's dtype.alignment is 1 for structures that were not made with align=True."""
    if dtype.fields:
        return max(_alignment(field[0]) for field in dtype.fields.values())
    return dtype.base.alignment


def _shape(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(n) for n in shape) if isinstance(shape, tuple) else (int(shape),)


# ---- the context and its memory ----


class _Context:
    """The device's primary context, which CUDA's runtime and so TensorRT use too, and all that was made in it.

    It is current while it is entered, on whichever thread. What is made in it belongs to it, and others only refer to
    the context: so it can be released, after all that, when nothing refers to it any more.

    Memory and events are lent: allocating takes longer than a kernel, and freeing waits for the device. Device memory
    can be lent again although work with it may still be queued: what its next owner queues comes after that.
    """

    def __init__(self, context: Any, driver: Any):
        self._driver, self._context = driver, context
        self.modules: dict[bytes, Any] = {}
        self._free: dict[tuple, list[Any]] = {}
        self.stream = self.done = None
        with self:
            self.stream = driver.Stream(NON_BLOCKING)
            # The waiting thread sleeps: the vehicle has other work for the core.
            self.done = driver.Event(driver.event_flags.BLOCKING_SYNC | driver.event_flags.DISABLE_TIMING)

    def __enter__(self) -> None:
        self._context.push()

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._context.pop()
        if isinstance(error, self._driver.Error):
            raise DeviceError(f"device 'cuda': {error}") from error

    def __del__(self) -> None:
        self._context.push()
        self.modules.clear()
        for blocks in self._free.values():  # the lists: what came back last still has its own
            blocks.clear()
        self.stream = self.done = None
        # From CUDA's stack; detach takes it from PyCUDA's, and releases it as the primary context that it is.
        call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        self._context.detach()

    def take(self, allocate: Callable[..., Any], *arguments: Any) -> "_Lent":
        """What `allocate` returns for the arguments, or has returned before.

        Raises:
            UserError: no memory is left.
        """
        free = self._free.setdefault((allocate, *arguments), [])
        if free:
            return _Lent(self, free.pop(), free)
        with self:
            try:
                return _Lent(self, allocate(*arguments), free)
            except self._driver.MemoryError:
                for blocks in self._free.values():
                    blocks.clear()
            try:
                return _Lent(self, allocate(*arguments), free)
            except self._driver.MemoryError as error:
                raise UserError(
                    f"device 'cuda': no {arguments[0] / 2**20:.0f} MiB of memory left; end other programs that use the "
                    "GPU, or take a smaller network or image"
                ) from error


class _Lent:
    """What goes back when nothing refers to it. numpy sees page-locked memory as an array, and refers to it."""

    def __init__(self, context: _Context, block: Any, free: list[Any]):
        self.block, self._context, self._free = block, context, free
        if isinstance(block, np.ndarray):
            self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        self._free.append(self.block)
        del self.block


def present_gpu() -> tuple[str, str]:
    """Architecture, e.g. "sm_87", and name of the GPU that this device computes on.

    Raises:
        UserError: there is none, or PyCUDA is missing.
    """
    device = _driver().Device(0)
    return "sm_{}{}".format(*device.compute_capability()), device.name()


def used_memory() -> int:
    """Bytes of the GPU's memory that are in use, by all programs."""
    return CudaDevice().used_memory()


def _driver() -> Any:
    """The module pycuda.driver, initialised."""
    try:
        import pycuda.driver as driver
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            raise UserError(f"device 'cuda': PyCUDA is not installed ({error}); pip install pycuda") from error
        raise UserError(f"device 'cuda': no NVIDIA driver ({error}); install one, or take device 'cpu'") from error
    try:
        driver.init()
        if driver.Device.count() == 0:
            raise UserError("device 'cuda': the NVIDIA driver shows no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES")
    except driver.Error as error:
        raise UserError(f"device 'cuda': the NVIDIA driver does not work: {error}; see nvidia-smi") from error
    return driver


# ---- compiling ----


@functools.cache
def _cubin(source: Path, defines: tuple[tuple[str, str | int], ...], architecture: str) -> bytes:
    """Compiles the kernels unless the cache has them."""
    headers = sorted(source.parent.glob("*.cuh"))
    flags = [*FLAGS.split(), f"-arch={architecture}", *(f"-D{name}={value}" for name, value in defines)]
    stem = f"{source.stem}-{architecture}-{digest(*flags, *(path.read_text() for path in (*headers, source)))}"
    nvcc = find_nvcc()
    if nvcc is None:
        made_before = cache_folder().glob(f"{stem}-*.cubin")
        cubin = max(made_before, key=lambda path: path.stat().st_mtime, default=None)
        if cubin is None:
            raise UserError(
                f"{source.name}: no nvcc to compile it with; install the CUDA toolkit (sudo apt install "
                "cuda-nvcc-13-0, or pip install nvidia-cuda-nvcc) or set CUDA_HOME to where it is"
            )
        return cubin.read_bytes()

    def make(cubin: Path) -> None:
        command = [nvcc, *flags, "-cubin", "-o", str(cubin), str(source)]
        run_compiler(command, f"{source.name}: {nvcc} cannot compile it for {architecture}")

    version = compiler_version(nvcc, "install the CUDA toolkit anew")
    return cached(f"{stem}-{digest(version)}.cubin", make).read_bytes()


def find_nvcc() -> str | None:
    """On the PATH, in $CUDA_HOME, in /usr/local/cuda, or from PyPI (nvidia-cuda-nvcc)."""
    nvcc = shutil.which("nvcc")
    if nvcc:
        return nvcc
    folders = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    folders.append(Path("/usr/local/cuda"))
    packages = importlib.util.find_spec("nvidia")
    for location in (packages and packages.submodule_search_locations) or ():
        folders += sorted(Path(location).glob("cu*"), reverse=True)
    return next((str(folder / "bin/nvcc") for folder in folders if os.access(folder / "bin/nvcc", os.X_OK)), None)
