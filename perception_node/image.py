"""A camera's image as it came: bytes, and what they mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from perception_node.errors import BadImage


def picture_or_none(read: Callable[..., np.ndarray | None], *arguments: Any) -> np.ndarray | None:
    """What OpenCV's imread or imdecode gives; None too where they raise: no bytes at all, too many pixels."""
    try:
        return read(*arguments)
    except cv2.error:
        return None


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels lie in bytes.

    Attributes:
        channels: samples for each pixel.
        depth: bytes for each sample.
        to_bgr: OpenCV's conversion of 8-bit samples; None where there is nothing to convert.
    """

    channels: int
    depth: int
    to_bgr: int | None


ENCODINGS: dict[str, Encoding] = {
    "bgr8": Encoding(3, 1, None),
    "rgb8": Encoding(3, 1, cv2.COLOR_RGB2BGR),
    "bgra8": Encoding(4, 1, cv2.COLOR_BGRA2BGR),
    "rgba8": Encoding(4, 1, cv2.COLOR_RGBA2BGR),
    "mono8": Encoding(1, 1, cv2.COLOR_GRAY2BGR),
    "yuv422": Encoding(2, 1, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": Encoding(2, 1, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": Encoding(2, 1, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": Encoding(2, 1, cv2.COLOR_YUV2BGR_YUY2),
}
"""By their names in sensor_msgs/image_encodings.hpp."""

# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by its first row's first two: its RG is
# our BG.
for _pattern, _conversion in {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}.items():
    ENCODINGS[f"bayer_{_pattern}8"] = Encoding(1, 1, _conversion)
    ENCODINGS[f"bayer_{_pattern}16"] = Encoding(1, 2, _conversion)


@dataclass(frozen=True, slots=True, eq=False)
class CameraImage:
    """Fields of a sensor_msgs/Image that fit each other.

    Attributes:
        data: uint8 (height * step,).
        height: in pixels.
        width: in pixels.
        step: bytes from one row to the next; rows may be padded.
        encoding: a key of ENCODINGS.
        is_bigendian: of samples of 16 bits, whether the high byte comes first.

    Raises:
        BadImage: the encoding is not known, or width, height, step and data do not fit each other.
    """

    data: np.ndarray
    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool = False

    def __post_init__(self):
        height, width, step = self.height, self.width, self.step
        if self.encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise BadImage("encoding", f"{self.encoding!r} is not supported; publish one of {known}")
        encoding = ENCODINGS[self.encoding]
        if height < 1 or width < 1:
            raise BadImage("height" if height < 1 else "width", f"{width}x{height} pixels; an image has at least one")
        if encoding.channels == 2 and width % 2:
            raise BadImage("width", f"{width} is odd; {self.encoding} stores pixels in pairs")
        if self.encoding.startswith("bayer") and min(height, width) < 2:
            raise BadImage("height" if height < 2 else "width", f"{width}x{height} is smaller than one Bayer cell")
        row = width * encoding.channels * encoding.depth
        if step < row:
            raise BadImage("step", f"{step} bytes; {width} pixels of {self.encoding} take {row}")
        if self.data.size != step * height:
            raise BadImage("data", f"{self.data.size} bytes; step {step} x height {height} is {step * height}")

    @property
    def layout(self) -> tuple[int, int, int, str, bool]:
        """All but the data."""
        return self.height, self.width, self.step, self.encoding, self.is_bigendian

    @classmethod
    def from_bgr(cls, pixels: np.ndarray) -> "CameraImage":
        """The image of a uint8 (H, W, 3) BGR array, which is not copied if it is contiguous.

        Raises:
            ValueError: the array is another.
            BadImage: it has no pixels.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
            given = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f"image: {given}; expected: uint8 (H, W, 3), BGR")
        height, width, _ = pixels.shape
        return cls(np.ascontiguousarray(pixels).reshape(-1), height, width, 3 * width, "bgr8")

    def bgr(self) -> np.ndarray:
        """The pixels, uint8 (H, W, 3) BGR; a read-only view of the data where nothing has to be converted or moved."""
        encoding = ENCODINGS[self.encoding]
        pixels = self.data.reshape(self.height, self.step)[:, : self.width * encoding.channels * encoding.depth]
        if encoding.depth == 2:
            # The high byte is all that 8 bits hold.
            pixels = pixels[:, 0 if self.is_bigendian else 1 :: 2]
        pixels = np.ascontiguousarray(pixels).reshape(self.height, self.width, encoding.channels)
        if encoding.to_bgr is not None:
            return cv2.cvtColor(pixels, encoding.to_bgr)
        pixels = pixels.view()
        pixels.flags.writeable = False
        return pixels
