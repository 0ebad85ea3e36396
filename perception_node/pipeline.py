"""Image in, PanopticFrame out."""

import contextlib
import copy
import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from perception_node.device import Array, Device, NotRecordable, open_device
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

    Pipelines on one engine (`another`) can have images of several cameras inferred at once: start_together.

    Args:
        model: from perception_node.model.load_model.
        device: what computes; see perception_node.device.DEVICES.
        threads: for the CPU; 0 takes all cores.
        engine: what runs the network; see perception_node.engine.ENGINES.
        plan: which TensorRT plan.
        max_batch: the most images that are inferred at once.

    Attributes:
        timer: of the stages "preprocess", "network" and "fusion"; callers add stages of their own. An image that was
            started together with others has the times of them all: so long it took.

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
        max_batch: int = 1,
    ):
        self.model = model
        self._device = open_device(device, threads)
        self._engine = load_engine(model, self._device, engine, plan, max_batch)
        self._input = self._device.empty((max_batch, 3, *model.input.size_hw), np.float32)
        # On the CPU there is nothing to gain by it.
        self._is_recordable = self._device.name == "cuda" and self._engine.recordable
        self._prepare()

    def _prepare(self) -> None:
        """All but the device, the engine and its input."""
        self.timer = StageTimer()
        self._outputs: Mapping[str, Array] = {}
        self._preprocess = Preprocess(self._device, self.model.input)
        self._fusion = make_fusion(self.model, self._device)
        self._layout: tuple | None = None
        self._is_known = False  # whether an image of this layout was perceived
        self._recorded: Callable[[], None] | None = None
        self._marks: tuple[Any, ...] = ()

    def another(self) -> "Pipeline":
        """One more on the same device and engine, for images of another camera: its buffers, thresholds and times are
        its own. They take turns, `finish` of the one before `start` of the other, or are started together.
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
        self._is_known, self._recorded = False, None

    def __call__(self, image: CameraImage | np.ndarray) -> PanopticFrame:
        """Segments one image, a camera's or uint8 (H, W, 3) BGR; the frame has the image's height and width."""
        self.start(image)
        return self.finish()

    def start(self, image: CameraImage | np.ndarray) -> None:
        """Queues the work on an image; `finish` comes before the next."""
        failures = start_together({self: image})
        if failures:
            raise failures.pop(self)  # its traceback knows the dict: together they would keep all of this alive

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
        """What the network gave for the last image: what the manifest names, by the names in the ONNX graph."""
        return {name: self._device.download(array) for name, array in self._outputs.items()}

    @property
    def engine_key(self) -> str:
        """What runs the network; see Engine.key."""
        return self._engine.key

    def device_memory_mib(self) -> float | None:
        """Of the device's own memory, how much is in use, by all programs; None if it has none of its own."""
        return None if self._device.name == "cpu" else self._device.used_memory() / 2**20

    def _upload(self, image: CameraImage | np.ndarray) -> None:
        image = image if isinstance(image, CameraImage) else CameraImage.from_bgr(image)
        if self._layout != image.layout:  # what was recorded works on memory that `upload` now frees
            self._layout, self._is_known, self._recorded = image.layout, False, None
        self._preprocess.upload(image)

    def _recording(self) -> Callable[[], None] | None:
        """Does what _compute does for this pipeline alone; None until an image of this layout has come before."""
        if self._recorded is None and self._is_known and self._is_recordable:
            compute = partial(_compute, [self], {})
            try:
                self._recorded = self._device.record(compute)
            except NotRecordable as error:
                warnings.warn(f"{self.model.name}: runs without a CUDA graph, at more cost: {error}", stacklevel=4)
                self._is_recordable = False
                with contextlib.suppress(DeviceError):  # the failed recording can be blamed on what comes next, once
                    compute()
        return self._recorded

    def _roles(self) -> dict[str, Array]:
        """The network's outputs by the family's names, without the batch axis."""
        outputs = {role: self._outputs[name] for role, name in self.model.tensors.items()}
        if self._device.name == "cpu":  # where networks need not give the very types that the kernels take
            outputs = conform(outputs, self._fusion.inputs)
        return {role: self._device.view(array, 0, array.shape[1:], array.dtype) for role, array in outputs.items()}

    def warm_up(self) -> None:
        """Runs twice on a grey image, so that the first real frame is not the slow one. Leaves no trace in `timer`.

        A first frame of another encoding than bgr8, or of another size, may yet wait for the compiler: see compile_all.
        """
        timer, self.timer = self.timer, StageTimer()
        for _ in range(2):
            self(np.full((*self.model.input.size_hw, 3), 127, np.uint8))
        self.timer = timer

    def compile_all(self) -> None:
        """After warm_up: has all kernels there that an image can need, whatever its encoding and size, so that it waits
        for no compiler, and holds up no other camera's. Takes seconds, once on a machine.
        """
        self._device.compile([*self._preprocess.builds(), *self._fusion.builds()])


def perceive_together(
    images: Mapping[Pipeline, CameraImage | np.ndarray],
) -> Iterator[tuple[Pipeline, PanopticFrame | Exception]]:
    """Each pipeline's frame, or what is wrong with its image; see start_together."""
    if not images:
        return
    failures = start_together(images)
    for pipeline in images:
        frame = None
        if pipeline not in failures:
            with _apart(pipeline, failures):
                frame = pipeline.finish()
        yield pipeline, failures.pop(pipeline, frame)


def start_together(images: Mapping[Pipeline, CameraImage | np.ndarray]) -> dict[Pipeline, Exception]:
    """Queues the work on images of several cameras, which are inferred at once; `finish` of each comes before the next.

    Args:
        images: of pipelines on one engine, at most its max_batch.

    Returns:
        What is wrong with the images that cannot be worked on; their pipelines have nothing to finish. The others' work
        is done nevertheless.

    Raises:
        DeviceError: then none is.
    """
    failures: dict[Pipeline, Exception] = {}
    device = next(iter(images))._device
    begin = device.mark()
    for pipeline, image in images.items():
        with _apart(pipeline, failures):
            pipeline._upload(image)
    pipelines = [pipeline for pipeline in images if pipeline not in failures]
    recording = pipelines[0]._recording() if len(pipelines) == 1 else None
    if recording is not None:
        recording()
    elif pipelines:
        _compute(pipelines, failures)
    for pipeline in pipelines:
        if pipeline not in failures:
            pipeline._fusion.read()
            pipeline._is_known = True
    end = device.mark()
    for pipeline in pipelines:
        pipeline._ends = begin, end
    return failures


def _compute(pipelines: Sequence[Pipeline], failures: dict[Pipeline, Exception]) -> None:
    """Queues what depends on the images' bytes alone, so that it can be recorded."""
    first = pipelines[0]
    device, tensor = first._device, first._input
    for index, pipeline in enumerate(pipelines):
        pipeline._preprocess.start(_images(device, tensor, index, 1))
    preprocessed = device.mark()
    outputs = first._engine.infer(_images(device, tensor, 0, len(pipelines)))
    marks = preprocessed, device.mark()
    for index, pipeline in enumerate(pipelines):
        used = pipeline.model.tensors.values()
        pipeline._outputs = {name: _images(device, outputs[name], index, 1) for name in used}
        pipeline._marks = marks
        with _apart(pipeline, failures):
            pipeline._fusion.start(pipeline._roles(), pipeline._preprocess.geometry)


def _images(device: Device, tensor: Array, first: int, count: int) -> Array:
    """Of the images of a tensor so many, from the first on."""
    offset = first * (tensor.nbytes // tensor.shape[0])
    return device.view(tensor, offset, (count, *tensor.shape[1:]), tensor.dtype)


@contextlib.contextmanager
def _apart(pipeline: Pipeline, failures: dict[Pipeline, Exception]) -> Iterator[None]:
    """What goes wrong with one image is no matter to the others, unless it is the device."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        failures[pipeline] = error
