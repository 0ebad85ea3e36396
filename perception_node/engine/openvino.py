"""Networks on the CPU with OpenVINO, which on x86 is faster than ONNX Runtime."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.engine import TensorSpec
from perception_node.errors import ModelError, one_line

# With this module, `import openvino` writes an identifier into ~/intel and tells Google Analytics; it does without.
sys.modules.setdefault("openvino_telemetry", None)
import openvino  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402

_DTYPES = {"f32": "float32", "f16": "float16", "i32": "int32", "i64": "int64", "u8": "uint8", "boolean": "bool"}
_CORE = openvino.Core()
"""Is never freed: its CPU plugin gives the thread that makes it a stack for signal handlers, and unmaps that even when
another thread frees it. The next Ctrl-C then is a segmentation fault."""


class OpenVinoEngine:
    """An ONNX file compiled by OpenVINO; see perception_node.engine.Engine. One thread may use it at a time.

    Args:
        onnx_path: the network.
        threads: that compute; 0 takes all cores.

    Raises:
        ModelError: OpenVINO cannot load the file.
    """

    recordable = True

    def __init__(self, onnx_path: Path, threads: int = 0):
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # The default is bfloat16 where the processor has it: three digits, so other pixels than ONNX Runtime's, and
            # slower where it has no matrix units (AMX).
            "INFERENCE_PRECISION_HINT": "f32",
            # Two nodes on one machine would pin their threads to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # Left to guess the format from the content, the library tries the readers of all formats that it knows.
            reader = FrontEndManager().load_by_framework("onnx")
            network = reader.convert(reader.load(str(onnx_path)))
            self._compiled = _CORE.compile_model(network, "CPU", settings)
        except Exception as error:  # the library's exceptions share no base class
            raise ModelError(f"{onnx_path}: OpenVINO cannot load it: {_reason(error)}") from error
        self.key = f"openvino {openvino.__version__}, {onnx_path.name}"
        self.inputs = tuple(map(_spec, self._compiled.inputs))
        self.outputs = tuple(map(_spec, self._compiled.outputs))

    def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        # The input is read in place, the outputs are copies: the next call writes over the library's own.
        arrays = self._compiled([np.ascontiguousarray(tensor)], share_inputs=True).to_tuple()
        return dict(zip((spec.name for spec in self.outputs), arrays, strict=True))


def _reason(error: Exception) -> str:
    """What the library says, without the lines that say where in its source it says so."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from ", "Check '"))]
    return one_line(Exception("\n".join(lines))) if any(lines) else one_line(error)


def _spec(port: Any) -> TensorSpec:
    """Of an input or output of a compiled network."""
    shape = port.get_partial_shape()
    # A tensor whose number of axes is open gets a shape that fits nothing and is learnt by running the network.
    sizes = (None,) if shape.rank.is_dynamic else (size.get_length() if size.is_static else None for size in shape)
    dtype = port.get_element_type().get_type_name()
    return TensorSpec(port.any_name, tuple(sizes), _DTYPES.get(dtype, dtype))
