"""The CPU as a device: the CUDA kernels, compiled by the host's C++ compiler, on all cores.

Compiled kernels are kept in a cache, $XDG_CACHE_HOME/perception_node (~/.cache/perception_node): one file for each
source, configuration, compiler and kind of processor.
"""

import ctypes
import functools
import os
import platform
import re
import shlex
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.device import Build, check_fits
from perception_node.device.compiling import cached, compiler_version, digest, run_compiler

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
BLOCK = 64
"""Threads of a block: enough that starting one costs nothing, few enough that small work reaches all cores."""

# Threads that wait give up their cores: the network, DDS and the decoder want them between two kernels.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# IEEE results, the same on every processor: no fused multiply-add where the source has none.
FLAGS = (
    "-std=c++17 -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp "
    "-shared -fPIC -fvisibility=hidden -Wall -Wno-unknown-pragmas -Wno-psabi"
)


class CpuDevice:
    """See perception_node.device.Device. Work is done by the time a call returns.

    Args:
        threads: 0 takes all cores.

    Attributes:
        threads: as given.
    """

    name = "cpu"
    pixels_per_thread = 128  # long loops, which the compiler makes vectors of

    def __init__(self, threads: int = 0):
        self.threads = threads

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def view(self, array: np.ndarray, offset: int, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.ndarray(shape, dtype, array, offset)

    def upload(self, host: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """The host's array itself, if it is contiguous; `into` is left alone."""
        check_fits(host, into)
        return np.ascontiguousarray(host)

    def zero(self, array: np.ndarray) -> None:
        array.fill(0)

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def read(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def wait(self) -> None:
        pass

    download = read

    def mark(self) -> float:
        return time.perf_counter()

    def milliseconds(self, start: float, end: float) -> float:
        return (end - start) * 1e3

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def kernels(self, source: Path, **defines: str | int) -> "CpuKernels":
        return CpuKernels(_load(source, tuple(sorted(defines.items()))), self._cores)

    def compile(self, builds: Iterable[Build]) -> None:
        different = {(source, tuple(sorted(defines.items()))) for source, defines in builds}
        with ThreadPoolExecutor(self._cores) as pool:
            list(pool.map(lambda build: _load(*build), different))

    @property
    def _cores(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


class CpuKernels:
    """See perception_node.device.Kernels."""

    def __init__(self, library: ctypes.CDLL, threads: int):
        self._library, self._threads = library, threads

    def each(self, kernel: str, items: int, *arguments: Any) -> None:
        self._launch(kernel, -(-items // BLOCK), BLOCK, arguments)

    def block(self, kernel: str, *arguments: Any) -> None:
        self._launch(kernel, 1, 1, arguments)

    def _launch(self, kernel: str, blocks: int, threads: int, arguments: tuple) -> None:
        holders = [_holder(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(holders))(*(ctypes.addressof(holder) for holder in holders))
        self._library.omp_set_num_threads(self._threads)
        getattr(self._library, f"launch_{kernel}")(
            (ctypes.c_uint * 3)(blocks, 1, 1), (ctypes.c_uint * 3)(threads, 1, 1), pointers
        )


def _holder(argument: Any) -> Any:
    """A ctypes object with the argument's bytes."""
    if isinstance(argument, np.ndarray) and argument.ndim:
        return ctypes.c_void_p(argument.ctypes.data)
    if argument is None:
        return ctypes.c_void_p(None)
    if type(argument) is float:  # not numpy's float64, which is one too
        return ctypes.c_float(argument)
    if type(argument) is int:
        return ctypes.c_int(argument)
    return ctypes.create_string_buffer(argument.tobytes(), argument.nbytes)


@functools.cache
def _load(source: Path, defines: tuple[tuple[str, str | int], ...]) -> ctypes.CDLL:
    """Compiles the kernels unless the cache has them."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    flags = FLAGS.split() + [f"-D{name}={value}" for name, value in defines]
    texts = [path.read_text() for path in (HEADER, *sorted(source.parent.glob("*.cuh")), source)]
    version = compiler_version(compiler[0], "install one (sudo apt install g++) or name it in CXX")

    def compile(program: str, *options: str) -> str:
        command = [*compiler, *flags, *options, f"-I{source.parent}", "-x", "c++", "-"]
        return run_compiler(command, f"{source.name}: {compiler[0]} cannot compile it", program)

    def make(library: Path) -> None:
        preprocessed = compile(texts[-1], "-E")  # which kernels there are depends on the defines
        names = re.findall(r"__global__ void (\w+)\(", preprocessed)
        program = [f'#include "{path}"' for path in (HEADER, source)] + [f"LAUNCHER({name})" for name in names]
        compile("\n".join(program) + "\n", "-o", str(library))

    key = digest(*flags, *texts, version, _processor())
    return ctypes.CDLL(str(cached(f"{source.stem}-{key}.so", make)))


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    return platform.machine() + "".join(sorted(set(re.findall(r"(?m)^(?:model name|flags|Features)\s*:.*$", text))))
