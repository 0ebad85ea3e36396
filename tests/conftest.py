"""Fixtures: a tiny network whose outputs are literals, the default model, real footage where it is."""

import gc
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from perception_node.errors import without_trace

# Before any ROS process starts: DDS traffic of the tests stays on this machine and among themselves.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

TINY_CLASSES = [
    {"id": 0, "name": "road", "color": [128, 64, 128], "drivable": True},
    {"id": 1, "name": "sky", "color": [70, 130, 180]},
    {"id": 2, "name": "car", "color": [0, 0, 142], "thing": True},
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """No DDS participant outlives its test: Fast DDS 3.2 can lock up for good where one ends while another one of the
    process discovers it, and rclpy frees some with the garbage only, at any time."""
    result = yield
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        if isinstance(value, Exception):  # which was raised, and would keep the test's node until the end
            without_trace(value)
    if "rclpy" in sys.modules and any(name.startswith("dds.ev.") for name in thread_names()):  # one a participant
        gc.collect()
    return result


def thread_names() -> Iterator[str]:
    """Of this process's threads, those of libraries too."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            yield (task / "comm").read_text()


@pytest.fixture(scope="session")
def camvid_val() -> Path:
    """Folder with images/ and labels/ of CamVid's validation drive."""
    return _data("camvid/val")


@pytest.fixture(scope="session")
def highway() -> Path:
    """A dashcam video, 960x540, 221 frames."""
    return _data("drive/highway.mp4")


def _data(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: real footage is not part of the repository")
    return path


@pytest.fixture
def tiny_model(tmp_path) -> Path:
    """Folder of a network that sees, in an 8x8 image: sky above, road below, one car in the middle."""
    return write_tiny_model(tmp_path / "tiny")


def tiny_outputs() -> dict[str, np.ndarray]:
    """What the tiny network answers, whatever it is shown: stride 2, so 4x4 for 8x8 pixels.

    S sky, R road, C car; the car's centre is its top left cell, at pixel (y, x) = (2.5, 2.5)::

        S S S S
        S C C S
        R C C R
        R R R R
    """
    classes = np.array([[1, 1, 1, 1], [1, 2, 2, 1], [0, 2, 2, 0], [0, 0, 0, 0]])
    semantic = np.where(np.arange(3)[:, None, None] == classes, 8.0, 0.0)
    center = np.zeros((1, 4, 4))
    center[0, 1, 1] = 1.0
    ys, xs = np.mgrid[0.5:8:2, 0.5:8:2]
    offset = np.stack([2.5 - ys, 2.5 - xs])
    return {
        name: array.astype(np.float32)[None]
        for name, array in (("semantic", semantic), ("center", center), ("offset", offset))
    }


def write_tiny_model(
    folder: Path, outputs: dict[str, np.ndarray] | None = None, batch: int | str = 1, **changes
) -> Path:
    """Writes the tiny network, or one with other outputs, and its manifest, whose entries `changes` replace.

    A name for `batch` leaves the number of images open.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    outputs = outputs or tiny_outputs()
    # The input must be used, or engines drop it: add zero times its mean.
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=int(batch != 1), axes=[*range(batch != 1, 4)]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    for name, array in outputs.items():
        elem = helper.np_dtype_to_tensor_dtype(array.dtype)
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{name}_nothing"], to=elem))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_nothing"], [name]))
    constants = [numpy_helper.from_array(array, f"{name}_value") for name, array in outputs.items()]
    constants.append(numpy_helper.from_array(np.float32(0), "zero"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [batch, *array.shape[1:]])
            for name, array in outputs.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    manifest = {
        "onnx": "model.onnx",
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "input": {"tensor": "image", "size": [8, 8]},
        "output": {
            "family": "center_offset",
            "stride": 2,
            "tensors": {"semantic": "semantic", "center": "center", "offset": "offset"},
        },
        "fusion": {"stuff_area": 4, "nms_kernel": 3},
        "classes": TINY_CLASSES,
        **changes,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder
