"""Image in, PanopticFrame out."""

import contextlib
import copy
import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perception_node.device import Array, NotRecordable, open_device
from perception_node.engine import DEFAULT_PLAN, PlanOptions, load_engine
from perception_node.errors import DeviceError
from perception_node.fusion import make_fusion
from perception_node.fusion.base import conform
from perception_node.image import CameraImage
from perception_node.model import Model, check_options
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Preprocess
from perception_node.timing import StageTimer

STAGES = ("preprocess", "network", "fusion")


class Pipeline:
    """Preprocessing, network and fusion of one model.

    On a GPU `start` only queues work, which is recorded as a CUDA graph once an image's size has come twice. Two
    pipelines that take turns have two frames in flight: the one uploads and decodes while the other computes.

    Args:
        model: from perception_node.model.load_model.
        device: what computes; see perception_node.device.DEVICES.
        threads: for the CPU; 0 takes all cores.
        engine: what runs the network; see perception_node.engine.ENGINES.
        plan: which TensorRT plan.

    Attributes:
        timer: of the stages "preprocess", "network" and "fusion"; callers add stages of their own.

    Raises:
        UserError: the network cannot be loaded, is not what the manifest says, or there is no such device or engine.
        DeviceError: from any call: the GPU has failed. A new pipeline may work, when all others are gone; after some
            failures only a new process does.

    Example:
        pipeline = Pipeline(load_model("engines/camvid_lite0"))
        frame = pipeline(cv2.imread("street.jpg"))
    """

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        threads: int = 0,
        engine: str = "auto",
        plan: PlanOptions = DEFAULT_PLAN,
    ):
        self.model = model
        self._device = open_device(device, threads)
        self._engine = load_engine(model, self._device, engine, plan)
        # On the CPU there is nothing to gain by it.
        self._is_recordable = self._device.name == "cuda" and self._engine.recordable
        self._prepare()

    def _prepare(self) -> None:
        """All but the device and the engine."""
        self.timer = StageTimer()
        self._outputs: Mapping[str, Array] = {}
        self._preprocess = Preprocess(self._device, self.model.input)
        self._fusion = make_fusion(self.model, self._device)
        self._layout: tuple | None = None
        self._recorded: Callable[[], None] | None = None
        self._marks: list[Any] = []

    def another(self) -> "Pipeline":
        """One more on the same device and engine, for images of another camera: its buffers, thresholds and times are
        its own. They take turns, one at a time: `finish` of the one comes before `start` of the other.
        """
        other = copy.copy(self)
        other._prepare()
        return other

    def set_fusion(self, **options: Any) -> None:
        """Changes some of the manifest's options of the fusion, from the next image on.

        Raises:
            ModelError: naming an option that the family does not have or take so; then all stay as they were.
        """
        check_options(self.model.family, options)
        model = dataclasses.replace(self.model, fusion={**self.model.fusion, **options})
        self._fusion = make_fusion(model, self._device)
        self.model = model
        self._layout = self._recorded = None

    def __call__(self, image: CameraImage | np.ndarray) -> PanopticFrame:
        """Segments one image, a camera's or uint8 (H, W, 3) BGR; the frame has the image's height and width."""
        self.start(image)
        return self.finish()

    def start(self, image: CameraImage | np.ndarray) -> None:
        """Queues the work on an image; `finish` comes before the next."""
        begin = self._device.mark()
        image = image if isinstance(image, CameraImage) else CameraImage.from_bgr(image)
        is_known = self._layout == image.layout
        if not is_known:  # what was recorded works on memory that `upload` now frees; and should it fail
            self._layout = self._recorded = None
        self._preprocess.upload(image)
        if is_known and self._is_recordable and self._recorded is None:
            self._recorded = self._record()
        (self._recorded or self._compute)()
        self._layout = image.layout
        self._fusion.read()
        self._ends = begin, self._device.mark()

    def finish(self) -> PanopticFrame:
        """The frame of the image that was started; waits for it."""
        self._device.wait()
        start = time.perf_counter()
        frame = self._fusion.frame()
        host_ms = (time.perf_counter() - start) * 1e3
        begin, end = self._ends
        for stage, marks in zip(STAGES, itertools.pairwise((begin, *self._marks, end)), strict=True):
            more = host_ms if stage == "fusion" else 0.0
            self.timer.add(stage, self._device.milliseconds(*marks) + more)
        return frame

    def outputs(self) -> dict[str, np.ndarray]:
        """What the network gave for the last image, by the names in the ONNX graph."""
        return {name: self._device.download(array) for name, array in self._outputs.items()}

    @property
    def engine_key(self) -> str:
        """What runs the network; see Engine.key."""
        return self._engine.key

    def device_memory_mib(self) -> float | None:
        """Of the device's own memory, how much is in use, by all programs; None if it has none of its own."""
        return None if self._device.name == "cpu" else self._device.used_memory() / 2**20

    def _compute(self) -> None:
        """Queues what depends on the image's bytes alone, so that it can be recorded."""
        self._preprocess.start()
        preprocessed = self._device.mark()
        self._outputs = self._engine.infer(self._preprocess.tensor)
        self._marks = [preprocessed, self._device.mark()]
        self._fusion.start(self._roles(), self._preprocess.geometry)

    def _roles(self) -> dict[str, Array]:
        """The network's outputs by the family's names, without the batch axis."""
        outputs = {role: self._outputs[name] for role, name in self.model.tensors.items()}
        if self._device.name == "cpu":  # where networks need not give the very types that the kernels take
            outputs = conform(outputs, self._fusion.inputs)
        return {role: self._device.view(array, 0, array.shape[1:], array.dtype) for role, array in outputs.items()}

    def _record(self) -> Callable[[], None] | None:
        try:
            return self._device.record(self._compute)
        except NotRecordable as error:
            warnings.warn(f"{self.model.name}: runs without a CUDA graph, at more cost: {error}", stacklevel=3)
        self._is_recordable = False
        with contextlib.suppress(DeviceError):  # the failed recording can be blamed on what comes next, once
            self._compute()
        return None

    def warm_up(self) -> None:
        """Runs twice on a grey image, so that the first real frame is not the slow one. Leaves no trace in `timer`.

        What depends on the camera's encoding and size is yet to come: a first frame of another encoding than bgr8 may
        wait for the compiler, once on a machine.
        """
        timer, self.timer = self.timer, StageTimer()
        for _ in range(2):
            self(np.full((*self.model.input.size_hw, 3), 127, np.uint8))
        self.timer = timer
