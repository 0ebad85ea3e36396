"""What PyCUDA does not know of CUDA: graphs, and events that recorded work marks anew each time that it runs.

Called through ctypes in the driver that PyCUDA has loaded.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from perception_node.device import NotRecordable
from perception_node.errors import DeviceError, one_line

RECORD_EXTERNAL = 1
"""CU_EVENT_RECORD_EXTERNAL: the event is for those outside of the recorded work, too. Invalid outside of it."""
CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads, with pipelines of their own, may do meanwhile what they like."""


def call(function: str, *arguments: Any) -> None:
    """Calls a function of the driver; a context must be current.

    Raises:
        DeviceError: what it returns is not CUDA_SUCCESS.
    """
    status = getattr(_driver(), function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise DeviceError(f"device 'cuda': {function}: error {status}, {(text.value or b'unknown').decode()}")


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


class Mark:
    """An event with its time."""

    def __init__(self):
        self._event = ctypes.c_void_p()
        call("cuEventCreate", ctypes.byref(self._event), 0)

    def record(self, stream: int) -> None:
        handle, capturing = ctypes.c_void_p(stream), ctypes.c_int()
        call("cuStreamIsCapturing", handle, ctypes.byref(capturing))
        call("cuEventRecordWithFlags", self._event, handle, RECORD_EXTERNAL if capturing.value else 0)

    def milliseconds_to(self, end: "Mark") -> float:
        milliseconds = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(milliseconds), self._event, end._event)
        return milliseconds.value

    def __del__(self) -> None:
        if self._event:  # else it could not be made
            _driver().cuEventDestroy_v2(self._event)


class Graph:
    """Recorded work; calling it queues it.

    Args:
        context: is current while it is entered.
        stream: handle of the stream that `work` uses, and no other.
        work: see perception_node.device.Device.record.
    """

    def __init__(self, context: Any, stream: int, work: Callable[[], None]):
        self._context, self._stream = context, ctypes.c_void_p(stream)
        self._executable = None
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        with context:
            call("cuStreamBeginCapture_v2", self._stream, CAPTURE_THREAD_LOCAL)
            try:
                work()
            except BaseException as error:
                _driver().cuStreamEndCapture(self._stream, ctypes.byref(graph))
                if graph:
                    _driver().cuGraphDestroy(graph)
                if not isinstance(error, Exception):  # Ctrl-C
                    raise
                raise NotRecordable(one_line(error)) from error
            try:
                call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
                call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
            except DeviceError as error:
                raise NotRecordable(str(error)) from error
            finally:
                if graph:
                    _driver().cuGraphDestroy(graph)
        self._executable = executable

    def __call__(self) -> None:
        with self._context:
            call("cuGraphLaunch", self._executable, self._stream)

    def __del__(self) -> None:
        if self._executable:
            with self._context:
                _driver().cuGraphExecDestroy(self._executable)
