"""Networks on the CPU with ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from perception_node.engine import TensorSpec
from perception_node.errors import ModelError, one_line


class OnnxRuntimeEngine:
    """An ONNX file in an ONNX Runtime session; see perception_node.engine.Engine.

    Args:
        onnx_path: the network.
        threads: that compute; 0 takes all cores.

    Raises:
        ModelError: ONNX Runtime cannot load the file.
    """

    recordable = True

    def __init__(self, onnx_path: Path, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads would take the cores from decode, fusion and the other processes between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Q and DQ nodes run as they stand: they round where a GPU will. ONNX Runtime 1.32 would move and fuse them; of
        # the default model in int8 and float16 that made other logits, 4.3 from fp32's instead of 0.9.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions share no base class
            raise ModelError(f"{onnx_path}: ONNX Runtime cannot load it: {one_line(error)}") from error
        self.key = f"onnxruntime {onnxruntime.__version__}, {onnx_path.name}"
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))

    def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, {self.inputs[0].name: tensor}), strict=True))


def _spec(argument) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in argument.shape)
    dtype = argument.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(argument.name, shape, {"float": "float32", "double": "float64"}.get(dtype, dtype))
