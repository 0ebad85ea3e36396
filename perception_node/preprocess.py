"""From a camera image to the network's input, and the geometry that leads back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_node.device import Array, Build, Device
from perception_node.image import ENCODINGS, CameraImage
from perception_node.model import InputSpec

KERNEL = Path(__file__).with_suffix(".cu")
NUMBER = {np.dtype(np.float32): "float", np.dtype(np.float16): "__half"}
AXIS = np.dtype(
    [(name, np.uint64) for name in ("first", "weight")] + [(name, np.int32) for name in ("samples", "pixels", "taps")],
    align=True,
)
"""struct Axis in preprocess.cu."""
PLANES = np.dtype(
    [(name, np.float32, 3) for name in ("scale", "shift")]
    + [(name, np.int32) for name in ("reversed", "height", "width")]
)
"""struct Planes in preprocess.cu."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image lies in the network's input: scaled, with its top left corner in the input's.

    Attributes:
        image_hw: the image's height and width in pixels.
        scale_yx: image pixels for each input pixel, vertically and horizontally.
    """

    image_hw: tuple[int, int]
    scale_yx: tuple[float, float]


def fit(image_hw: tuple[int, int], input_hw: tuple[int, int], resize: str) -> Geometry:
    """The geometry of an image in an input: "stretch" fills it, "letterbox" keeps the proportions, to a pixel."""
    scale_yx = image_hw[0] / input_hw[0], image_hw[1] / input_hw[1]
    if resize == "letterbox":
        content_hw = (max(1, round(size / max(scale_yx))) for size in image_hw)
        scale_yx = tuple(size / content for size, content in zip(image_hw, content_hw, strict=True))
    return Geometry(image_hw, scale_yx)


def taps(samples: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples that each pixel is made of: those within a box around its centre, by how much of them it covers.

    The box is as wide as a pixel where there are fewer pixels than samples, which averages areas (bilinear would skip
    some); elsewhere as wide as a sample, which interpolates linearly between half-pixel centres. It stays in the image.

    Args:
        samples: how many there are.
        pixels: how many are made of them.

    Returns:
        int32 (pixels,), index of the first sample; float32 (taps, pixels), the weights of the samples from there on.
        A pixel's weights are multiples of 2^-16 with the sum 1: a grey area keeps its value to the last bit.
    """
    width = max(samples / pixels, 1)
    begin = np.clip((np.arange(pixels) + 0.5) * samples / pixels - width / 2, 0, samples - width)
    tiny = 1e-9  # what float64 rounds is no sample
    first = np.floor(begin + tiny).astype(np.int32)
    n_taps = int(np.max(np.ceil(begin + width - tiny) - first))
    first = np.minimum(first, samples - n_taps, dtype=np.int32)
    covered = np.clip((first + np.arange(n_taps + 1)[:, None] - begin) / width, 0, 1)  # before each sample, and last
    return first, (np.diff(np.rint(covered * 65536), axis=0) / 65536).astype(np.float32)


class Preprocess:
    """Decodes, scales, pads and normalises on a device, in one kernel.

    What depends on the images' size and encoding is made when the first comes, and again only if they change.

    Args:
        device: what computes.
        spec: what the network takes.
        dtype: of the tensors, float32 or float16.

    Attributes:
        geometry: how the image that was uploaded last lies in the tensor.
    """

    def __init__(self, device: Device, spec: InputSpec, dtype: Any = np.float32):
        self._device, self._spec, self._dtype = device, spec, np.dtype(dtype)
        self._prepared_for: Any = None

    def __call__(self, image: CameraImage, into: Array | None = None) -> tuple[Array, Geometry]:
        """One image as the network's input.

        Args:
            image: the camera's.
            into: (1, 3, *spec.size_hw) on the device; None makes a new tensor.

        Returns:
            The tensor, whose padding is 0, the value of a mean pixel. And the image's geometry in it.
        """
        tensor = self._device.empty((1, 3, *self._spec.size_hw), self._dtype) if into is None else into
        self.upload(image)
        self.start(tensor)
        return tensor, self.geometry

    def upload(self, image: CameraImage) -> None:
        """Queues the copy of an image's bytes to the device: always to the same place, until the layout changes."""
        if self._prepared_for != image.layout:
            self._prepared_for = None  # should it fail
            self._prepare(image)
            self._prepared_for = image.layout
        self._data = self._device.upload(image.data, into=self._data)

    def start(self, tensor: Array) -> None:
        """Queues the work on the image that was uploaded last. It only starts a kernel: a CUDA graph can hold it."""
        self._kernels.each("preprocess", self._threads, self._data, *self._arguments, tensor)

    def _prepare(self, image: CameraImage) -> None:
        device, spec = self._device, self._spec
        source, defines = self._build(image.encoding)
        self._kernels = device.kernels(source, **defines)
        image_hw = image.height, image.width
        self.geometry = fit(image_hw, spec.size_hw, spec.resize)
        self._threads = spec.size_hw[0] * -(-spec.size_hw[1] // device.pixels_per_thread)
        self._data = device.empty(image.data.size, np.uint8)
        self._tables, axes = [], []
        for samples, scale in zip(image_hw, self.geometry.scale_yx, strict=True):
            pixels = max(1, round(samples / scale))
            first, weight = taps(samples, pixels)
            tables = device.upload(first), device.upload(weight)
            self._tables += tables  # only their addresses are in the arguments
            axes.append(np.array((*map(device.address, tables), samples, pixels, len(weight)), AXIS))
        mean, std = np.float64(spec.mean), np.float64(spec.std)
        is_reversed = image.encoding.startswith("bgr") != (spec.color == "bgr")
        planes = np.array((1 / std, mean / std, is_reversed, *spec.size_hw), PLANES)
        high_byte = 0 if image.is_bigendian else ENCODINGS[image.encoding].depth - 1
        red_row = _red(image.encoding) // 2 if image.encoding.startswith("bayer") else 0
        self._arguments = np.int64(image.step), high_byte, red_row, *axes, planes

    def builds(self) -> Iterator[Build]:
        """Of the kernel: for every encoding."""
        return map(self._build, ENCODINGS)

    def _build(self, encoding: str) -> Build:
        options = {"NUMBER": NUMBER[self._dtype], "RUN": self._device.pixels_per_thread}
        return KERNEL, options | _defines(encoding)


def _defines(encoding: str) -> dict[str, str | int]:
    """How the kernel finds the pixels in the bytes."""
    channels, depth = ENCODINGS[encoding].channels, ENCODINGS[encoding].depth
    if encoding.startswith("bayer"):
        return {"ENCODING": "BAYER", "RED": _red(encoding) % 2, "DEPTH": depth}
    if channels == 2:
        return {"ENCODING": "YUV422", "LUMA": int(encoding in ("yuv422", "uyvy"))}
    return {"ENCODING": "PACKED", "CHANNELS": channels}


def _red(encoding: str) -> int:
    """Which pixel of a Bayer cell is red: upper left, upper right, lower left or lower right."""
    return encoding.removeprefix("bayer_").index("r")
