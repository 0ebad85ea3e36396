"""A device has memory and runs kernels, in order. The fusion is written against this interface; it knows no GPU.

"cpu" runs the kernels compiled by the host's C++ compiler, "cuda" those compiled by nvcc, through PyCUDA. Nothing here
needs a GPU, a driver or PyCUDA to be imported.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from perception_node.errors import UserError

DEVICES = ("cpu", "cuda")

Build = tuple[Path, Mapping[str, str | int]]
"""A source file and its defines."""


class Array(Protocol):
    """An array in a device's memory. On the CPU it is a numpy array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int


class Kernels(Protocol):
    """Compiled kernels of one source file. Both methods return at once; what they start runs in the device's order.

    Arguments are the kernel's: an Array for a pointer (None for a null pointer), int for int, float for float, or a
    numpy scalar or 0-d structured array of exactly the parameter's type.
    """

    def each(self, kernel: str, items: int, *arguments: Any) -> None:
        """Runs `kernel` with one thread for each item; in blocks, and the threads beyond the last item return."""
        ...

    def block(self, kernel: str, *arguments: Any) -> None:
        """Runs `kernel` in one block, of a size that suits the device; its threads share the work."""
        ...


class Device(Protocol):
    """Memory and a queue of work.

    Attributes:
        name: as `open_device` takes it.
        pixels_per_thread: how many neighbouring pixels of a row a thread does best to work on, for kernels that leave
            it open.
    """

    name: str
    pixels_per_thread: int

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array: ...

    def view(self, array: Array, offset: int, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Part of a contiguous array, from byte `offset` on, as another array."""
        ...

    def upload(self, host: np.ndarray, into: Array | None = None) -> Array:
        """An array with the host's values.

        On a device that shares the host's memory it can be `host` itself, which then must not change while it is used.
        On others the values are those of the moment of the call: they are copied to page-locked memory at once, and
        from there when what was queued before is done.

        Args:
            host: the values.
            into: an array of that shape and type which such a device copies them to, and returns, instead of a new one.

        Raises:
            ValueError: `into` is of another shape or type.
        """
        ...

    def zero(self, array: Array) -> None: ...

    def address(self, array: Array) -> int:
        """Where the array lies in the device's memory, for pointers within structures."""
        ...

    def read(self, array: Array) -> np.ndarray:
        """Queues a copy to the host, and returns where: the values are there after `wait`, and stay."""
        ...

    def wait(self) -> None:
        """Waits until all that was queued is done.

        Raises:
            DeviceError: it failed. Any call can raise it, of what was queued before.
        """
        ...

    def download(self, array: Array) -> np.ndarray:
        """The array's values when all that was queued before is done: `read` and `wait`."""
        ...

    def mark(self) -> Any:
        """A point in the queue of work."""
        ...

    def milliseconds(self, start: Any, end: Any) -> float:
        """From one mark to another, which were both waited for."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What queues the same work again, each time it is called, at less cost: on a GPU a CUDA graph.

        Args:
            work: starts kernels, zeroes, marks; it has run before, so that all is compiled and allocated. It does not
                run now. Arrays that it works on are not freed before the result is.

        Raises:
            NotRecordable: something in it cannot be recorded; the device goes on.
        """
        ...

    def kernels(self, source: Path, **defines: str | int) -> Kernels:
        """Compiles a source file, or takes it from the cache.

        Raises:
            UserError: no compiler, or it fails.
        """
        ...

    def compile(self, builds: Iterable[Build]) -> None:
        """Has all of these there, so that `kernels` does not wait for the compiler. Raises UserError likewise."""
        ...


class NotRecordable(Exception):
    """See Device.record."""


def check_fits(host: np.ndarray, into: Array | None) -> None:
    """Raises ValueError if `into` is of another shape or type than what is to be uploaded into it."""
    if into is not None and (into.shape, into.dtype) != (host.shape, host.dtype):
        raise ValueError(f"{host.dtype} {host.shape} does not fit into {into.dtype} {into.shape}")


def open_device(name: str = "cpu", threads: int = 0) -> Device:
    """The device of that name.

    Args:
        name: "cpu" or "cuda".
        threads: of the CPU; 0 takes all cores.

    Raises:
        UserError: there is no such device, or it does not work here.
    """
    if name == "cpu":
        from perception_node.device.cpu import CpuDevice

        return CpuDevice(threads)
    if name == "cuda":
        from perception_node.device.cuda import CudaDevice

        return CudaDevice()
    raise UserError(f"device {name!r}: this version runs on {' or '.join(DEVICES)}")
