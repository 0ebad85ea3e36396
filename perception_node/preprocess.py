"""From a camera image to the network's input, and the geometry that leads back."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception_node.model import InputSpec


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


def preprocess(image: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Geometry]:
    """Scales, pads and normalises.

    Args:
        image: uint8 (H, W, 3), BGR.
        spec: what the network takes.

    Returns:
        float32 (1, 3, *spec.size_hw), padding is 0, the value of a mean pixel; and the image's geometry in it.
    """
    geometry = fit(image.shape[:2], spec.size_hw, spec.resize)
    height, width = (
        max(1, round(size / scale)) for size, scale in zip(image.shape[:2], geometry.scale_yx, strict=True)
    )
    if (height, width) != image.shape[:2]:
        # Area averaging when shrinking: bilinear would skip pixels.
        shrinks = height < image.shape[0]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    tensor = np.zeros((1, 3, *spec.size_hw), np.float32)
    channels = (2, 1, 0) if spec.color == "rgb" else (0, 1, 2)
    for plane, channel, mean, std in zip(tensor[0], channels, spec.mean, spec.std, strict=True):
        np.multiply(image[..., channel], np.float32(1 / std), out=plane[:height, :width])
        plane[:height, :width] -= np.float32(mean / std)
    return tensor, geometry
