"""Compressed images: JPEG (ITU T.81) and PNG (ISO 15948).

What they say of themselves is read before they are decoded: a few bytes can claim to be gigabytes, which would take the
memory of all and the engine's thread from other cameras; and not every OpenCV minds that an image is cut short.
"""

import struct

import cv2
import numpy as np

from perception_node.errors import BadImage
from perception_node.image import ENCODINGS, CameraImage, picture_or_none

MAX_PIXELS = 2**25
"""Of an image that is decoded: 8K has a few less."""

_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82"
_FRAME_STARTS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG's segments that hold its size, one for each way to encode."""


def decode(data: np.ndarray, format: str = "", max_pixels: int = MAX_PIXELS) -> CameraImage:
    """A JPEG or PNG image.

    Args:
        data: uint8 (N,).
        format: of the sensor_msgs/CompressedImage. image_transport sends what a Bayer camera gives as a grey image, and
            names its encoding here: "bayer_rggb8; jpeg compressed ".
        max_pixels: that are taken.

    Returns:
        In bgr8, or in the Bayer encoding.

    Raises:
        BadImage: it is neither, too large, cut short, or cannot be decoded.
    """
    content = data.tobytes()
    if content.startswith(_JPEG):
        kind, end, size = "JPEG", _JPEG_END, _jpeg_size(content)
    else:
        kind, end, size = "PNG", _PNG_END, _png_size(content)
    if size is None:
        raise BadImage("data", f"not a JPEG or PNG image ({len(content)} bytes)")
    width, height, header_end = size
    image = f"{kind} image of {width}x{height} pixels"
    if width * height > max_pixels:
        raise BadImage("data", f"{image}; {max_pixels} pixels are taken at most")
    if content.find(end, header_end) < 0:
        raise BadImage("data", f"{image}, cut short after {len(content)} bytes")
    encoding = format.partition(";")[0].strip()
    if encoding.startswith("bayer_") and encoding in ENCODINGS:
        mosaic = picture_or_none(cv2.imdecode, data, cv2.IMREAD_UNCHANGED)
        if mosaic is not None and mosaic.ndim == 2:  # else somebody has made colours of it
            if mosaic.itemsize != ENCODINGS[encoding].depth:
                raise BadImage("data", f"{image} of {8 * mosaic.itemsize} bits a sample; its format says {encoding}")
            return CameraImage(mosaic.reshape(-1).view(np.uint8), *mosaic.shape, mosaic.strides[0], encoding)
    # As the camera gave it: what turns it for people to look at would make it another camera's.
    pixels = picture_or_none(cv2.imdecode, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise BadImage("data", f"{image} that cannot be decoded ({len(content)} bytes)")
    return CameraImage.from_bgr(pixels)


def _png_size(content: bytes) -> tuple[int, int, int] | None:
    """Width, height and where the header ends; None if it is no PNG."""
    if not content.startswith(_PNG + b"\0\0\0\rIHDR") or len(content) < 33:
        return None
    return *struct.unpack_from(">II", content, 16), 33


def _jpeg_size(content: bytes) -> tuple[int, int, int] | None:
    """As of PNG; from one segment to the next: 0xFF (perhaps several), a marker, the rest's length, the rest."""
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAME_STARTS:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height, at + 9
        (length,) = struct.unpack_from(">H", content, at + 2)
        at += 2 + length
    return None
