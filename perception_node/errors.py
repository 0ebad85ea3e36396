"""What a user can get wrong. The message is one line that names the thing, its value and the remedy."""

from typing import TypeVar

AnyError = TypeVar("AnyError", bound=Exception)


class UserError(Exception):
    """Bad input from outside: shown to the user as one line, without a traceback."""


class ModelError(UserError):
    """A model folder that cannot be used, or a file that says how to make or quantize one."""


class PlanError(UserError):
    """A TensorRT plan that is not to be loaded."""


class SourceError(UserError):
    """Footage that cannot be read."""


class DeviceError(UserError):
    """A device has failed: what was made on it is of no use any more.

    Drop all of that, then open the device anew. After some failures (an illegal address, a hardware error) CUDA gives a
    process no other context: then the process must be started again.
    """


class BadImage(UserError):
    """An image message that cannot be used; `field` says which of its fields is wrong."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


class BadCalibration(UserError):
    """A calibration that cannot be used: a camera's, its mounting's, or the frames between; `field` says which part."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


def one_line(error: Exception) -> str:
    """What a library says is wrong, on one line even if it says it on several, or not at all."""
    return " ".join(str(error).split()) or type(error).__name__


def without_trace(error: AnyError) -> AnyError:
    """An error as it can be kept: its trace, and those of its causes, hold all that was at hand there, images too."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
