"""What the families have in common: buffers that are allocated once, the order of a frame, the table of segments."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from perception_node.device import Array, Build, Device
from perception_node.fusion.sampling import LEAST_SCALE, Axis, tile_side
from perception_node.panoptic import PanopticFrame, Segment
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy

KERNELS = Path(__file__).with_name("kernels")
STRIP = 256  # as in common.cuh
LOGIT = {np.dtype(np.float32): "float", np.dtype(np.float16): "__half"}

MEASURE = np.dtype(
    [(name, np.uint64) for name in ("confidence", "x", "y")]
    + [(name, np.uint32) for name in ("area", "left", "top", "right", "bottom", "padding")]
)
"""struct Measure in common.cuh."""


@dataclass(frozen=True, slots=True)
class Input:
    """One of the network's outputs that a family takes.

    Attributes:
        shape: sizes, or letters that stand for the same size in all inputs: C classes, N instances or boxes, Q queries,
            h x w the outputs' resolution, H x W the image's, k coefficients.
        dtype: "logit" (float32 or float16, all such inputs alike), or numpy's name.
        optional: the network may have none.
    """

    shape: str
    dtype: str = "logit"
    optional: bool = False

    @property
    def network_dtypes(self) -> tuple[str, ...]:
        """What a network may give: `conform` makes the kernels' type of it."""
        return {"logit": ("float32", "float16"), "int32": ("int32", "int64")}.get(self.dtype, (self.dtype,))


def size_of(symbol: str, sizes: Mapping[str, int]) -> int | None:
    """The size that a number, a letter, or a letter and a number ("C+1") of a shape stands for; None if not known."""
    letter, _, more = symbol.partition("+")
    if symbol.isdigit():
        return int(symbol)
    return sizes[letter] + int(more or 0) if letter in sizes else None


def conform(outputs: Mapping[str, np.ndarray], inputs: Mapping[str, Input]) -> dict[str, np.ndarray]:
    """Outputs in the host's memory as a family takes them: of its types, all logits of one."""
    logits = {name for name in outputs if inputs[name].dtype == "logit" and outputs[name].dtype.kind == "f"}
    types = {outputs[name].dtype for name in logits}
    logit = types.pop() if len(types) == 1 and types <= set(LOGIT) else np.dtype(np.float32)
    dtypes = {name: np.uint8 if spec.dtype == "logit" else spec.dtype for name, spec in inputs.items()}
    dtypes |= dict.fromkeys(logits, logit)
    return {name: np.ascontiguousarray(array, dtypes[name]) for name, array in outputs.items()}


def output_hw(outputs: Mapping[str, Array], inputs: Mapping[str, Input]) -> tuple[int, int]:
    """Height and width of the outputs: h and w in the inputs' shapes."""
    return next(
        outputs[name].shape[-2:]
        for name, spec in inputs.items()
        if spec.shape.endswith(" h w") and outputs.get(name) is not None
    )


class Block:
    """Named arrays in one allocation, so that one memset clears them or one copy brings them to the host.

    Args:
        device: where.
        arrays: name -> (shape, dtype).
    """

    def __init__(self, device: Device, **arrays: tuple[Any, Any]):
        self._places, size = {}, 0
        for name, (shape, dtype) in arrays.items():
            self._places[name] = (size, shape, np.dtype(dtype))
            size += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 256) * 256
        self.memory = device.empty(size, np.uint8)
        self._arrays = {name: device.view(self.memory, *place) for name, place in self._places.items()}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def on_host(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays in a copy of the memory."""
        arrays = {}
        for name, (offset, shape, dtype) in self._places.items():
            arrays[name] = np.ndarray(shape, dtype, memory, offset)
        return arrays


class Fusion(ABC):
    """One family of networks: its outputs in, a PanopticFrame out.

    A subclass says which outputs there are, which buffers it needs, and which kernels run in which order. Buffers are
    allocated when the first image comes, and again only if the shape of image or outputs changes; a frame waits for
    the device once, at its end.

    Args:
        device: where the outputs lie and the kernels run.
        taxonomy: the classes.
        stride: input pixels for each output pixel, vertically and horizontally.
    """

    source: ClassVar[str]
    """File of the kernels."""

    inputs: ClassVar[dict[str, Input]]
    """What it takes of the network, by the family's names."""

    competing: ClassVar[str] = "semantic"
    """Of the inputs the one whose planes compete for the pixels."""

    def __init__(self, device: Device, taxonomy: Taxonomy, stride: float | tuple[float, float]):
        self.device, self.taxonomy = device, taxonomy
        self._stride_yx = stride if isinstance(stride, tuple) else (stride, stride)
        self._prepared_for: Any = None

    def __call__(self, outputs: Mapping[str, Array], geometry: Geometry) -> PanopticFrame:
        """Fuses one image's outputs.

        Args:
            outputs: by the names of `inputs`, on the device, without the batch axis.
            geometry: how the image lay in the network's input.
        """
        self.start(outputs, geometry)
        self.read()
        self.device.wait()
        return self.frame()

    def start(self, outputs: Mapping[str, Array], geometry: Geometry) -> None:
        """Queues an image's work. For the shapes of the last image it only starts kernels: a CUDA graph can hold it."""
        shapes = {name: (array.shape, array.dtype) for name, array in outputs.items() if array is not None}
        if self._prepared_for != (shapes, geometry):
            self._prepared_for = None  # should it fail
            self._prepare(outputs, geometry)
            self._prepared_for = (shapes, geometry)
        self.device.zero(self.counters.memory)
        self.enqueue(outputs)
        self._finish()

    def read(self) -> None:
        """Queues the copy to the host of what was started."""
        self._on_host = self.device.read(self.result.memory)

    def frame(self) -> PanopticFrame:
        """What was read, when the device has been waited for."""
        return self._make_frame(self.result.on_host(self._on_host))

    # ---- what a family says ----

    @abstractmethod
    def candidates(self, outputs: Mapping[str, Array]) -> int:
        """The most instances (or queries) that can own pixels."""

    @abstractmethod
    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        """Name -> (shape, dtype) of the arrays that the family needs: cleared before each frame; not cleared."""

    @abstractmethod
    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        """Starts the kernels that fill class_map, confidence, owners and the labels of classes and owners."""

    def defines(self) -> dict[str, str | int]:
        """Compile-time options of the kernels beyond LOGIT and TILE."""
        return {}

    def plane(self, outputs: Mapping[str, Array]) -> tuple[int, int]:
        """Height and width of what the pixels sample: mostly the outputs themselves."""
        return self.output_hw

    # ---- the frame ----

    def classify(self, semantic: Array) -> None:
        """Starts the kernels that fill class_map, confidence and, in its first row, area from class logits."""
        classes = semantic.shape[0]
        cutoff = float(np.log(510 * classes))  # what is left out of the softmax changes 255 * confidence by under 0.5
        rows, columns, area = self.rows.argument, self.columns.argument, self.counters["area"]
        runs = self.rows.tiles * self.columns.runs
        maps = self.result["class_map"], self.result["confidence"]
        ranges, *shortlists = self.shortlists
        self.kernels.each("survey", classes * self.blocks, semantic, None, None, classes, rows, columns, ranges)
        self.kernels.each("shortlist_classes", self.blocks, ranges, classes, self.blocks, cutoff, *shortlists)
        self.kernels.each("classify", runs, semantic, classes, rows, columns, *shortlists, *maps, area)
        self.kernels.each("total_area", 256, area)

    def measure_free(self) -> Array:
        """Starts the kernels that measure the classes' areas without the pixels that have owners."""
        pixels, area = self.image_hw[0] * self.image_hw[1], self.counters["free_area"]
        maps = self.result["class_map"], self.result["ids"]
        self.kernels.each("free_area", -(-pixels // STRIP), pixels, *maps, area)
        self.kernels.each("total_area", 256, area)
        return area

    def keep_stuff(self, stuff_area: int, area: Array) -> None:
        """Starts the kernel that says which classes stay: stuff of at least `stuff_area` pixels."""
        self.kernels.each("keep_stuff", 256, self.thing, area, stuff_area, self.scratch["kept"])

    def axes(self, plane_hw: tuple[int, int]) -> tuple[Axis, Axis]:
        """How the image samples a plane of that size which covers what the outputs cover."""
        sizes = zip(self.upscale_yx, self.output_hw, plane_hw, strict=True)
        scale_yx = tuple(upscale * output / plane for upscale, output, plane in sizes)
        side = tile_side(*scale_yx, most=self._largest_side)
        rows, columns = zip(self.image_hw, plane_hw, scale_yx, strict=True)
        return Axis(self.device, *rows, side, self._run(side)), Axis(self.device, *columns, side, self._run(side))

    @property
    def _largest_side(self) -> int:
        """One thread of a GPU keeps a tile in registers; one of a CPU makes vectors of what is side by side."""
        return min(8, max(4, self.device.pixels_per_thread))

    def _run(self, side: int) -> int:
        return max(1, min(64, self.device.pixels_per_thread) // side)

    def builds(self) -> list[Build]:
        """Of the kernels, once an image was fused: for images of every size."""
        return [self._build(side) for side in LEAST_SCALE if side <= self._largest_side]

    def _build(self, side: int) -> Build:
        tiles = {"TILE": side, "RUN": self._run(side), "STRIPES": self.stripes}
        return KERNELS / self.source, {"LOGIT": LOGIT[self._logit], **tiles, **self.defines()}

    def _prepare(self, outputs: Mapping[str, Array], geometry: Geometry) -> None:
        device = self.device
        height, width = self.image_hw = geometry.image_hw
        self.scale_yx = geometry.scale_yx
        self.upscale_yx = tuple(s * stride for s, stride in zip(geometry.scale_yx, self._stride_yx, strict=True))
        self.output_hw = output_hw(outputs, self.inputs)
        self.rows, self.columns = self.axes(self.plane(outputs))
        self.tiles = self.rows.tiles * self.columns.tiles
        self.blocks = self.rows.blocks * self.columns.blocks
        self._logit = next(
            outputs[name].dtype
            for name, spec in self.inputs.items()
            if spec.dtype == "logit" and outputs.get(name) is not None
        )
        self.owners = self.candidates(outputs)
        self.stripes = stripes = 16 if self.owners <= 1024 else 1
        source, defines = self._build(self.rows.side)
        self.kernels = device.kernels(source, **defines)
        self.thing = device.upload(self.taxonomy.table("thing").astype(np.uint8))
        cleared, other = self.buffers(outputs)
        self.counters = Block(
            device,
            measures=((stripes, 256 + self.owners), MEASURE),
            area=((stripes, 256), np.uint32),
            free_area=((stripes, 256), np.uint32),
            **cleared,
        )
        competing = outputs.get(self.competing)
        planes = 0 if competing is None else competing.shape[0]
        self.scratch = Block(
            device,
            kept=(256, np.uint8),
            ranges=((self.blocks, planes, 2), np.float32),
            shortlist=((self.blocks, planes), np.uint16),
            shortlist_length=((self.blocks, 2), np.int32),
            **other,
        )
        self.shortlists = tuple(self.scratch[name] for name in ("ranges", "shortlist", "shortlist_length"))
        self.result = Block(
            device,
            class_map=((height, width), np.uint8),
            confidence=((height, width), np.uint8),
            ids=((height, width), np.uint16),
            measures=(256 + self.owners, MEASURE),
            owner_class=(max(1, self.owners), np.uint8),
            owner_id=(max(1, self.owners), np.uint16),
            owner_score=(max(1, self.owners), np.float32),
            class_score=(256, np.float32),
        )

    def _finish(self) -> None:
        height, width = self.image_hw
        result, counters = self.result, self.counters
        self.kernels.each(
            "finish",
            height * -(-width // STRIP),
            height,
            width,
            self.scratch["kept"],
            result["owner_class"],
            result["owner_id"],
            self.owners,
            result["class_map"],
            result["confidence"],
            result["ids"],
            counters["measures"],
        )
        segments = 256 + self.owners
        self.kernels.each("total_measures", segments, counters["measures"], segments, result["measures"])

    def _make_frame(self, result: dict[str, np.ndarray]) -> PanopticFrame:
        measures = result["measures"]
        present = np.flatnonzero(measures["area"])
        rows = measures[present]
        things = present >= 256
        owners = np.where(things, present - 256, 0)
        ids = np.where(things, result["owner_id"][owners], 0)
        classes = np.where(things, result["owner_class"][owners], present)
        scores = self.scores(result, present)
        height, width = self.image_hw
        area = rows["area"].astype(np.float64)
        columns = (
            ids,
            classes,
            scores,
            rows["area"],
            width - rows["left"],
            height - rows["top"],
            rows["right"],
            rows["bottom"],
            rows["x"] / area,
            rows["y"] / area,
        )
        order = np.lexsort((ids, things))
        segments = tuple(
            Segment(id_, class_id, score, n, (x0, y0, x1, y1), (x, y))
            for id_, class_id, score, n, x0, y0, x1, y1, x, y in zip(
                *(column[order].tolist() for column in columns), strict=True
            )
        )
        return PanopticFrame(result["class_map"], result["ids"], result["confidence"], segments)

    def scores(self, result: dict[str, np.ndarray], present: np.ndarray) -> np.ndarray:
        """Score of each present segment (index of a class, or 256 + owner): the mean confidence of its pixels."""
        measures = result["measures"][present]
        return measures["confidence"] / (255.0 * measures["area"])
