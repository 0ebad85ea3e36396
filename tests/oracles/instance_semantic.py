"""Mask R-CNN with a semantic branch: Panoptic FPN (Kirillov et al., CVPR 2019), EfficientPS and their kin."""

from collections.abc import Mapping

import numpy as np

from oracles.instances import order_of, paint
from oracles.sampling import upsample
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


def fuse(
    outputs: Mapping[str, np.ndarray],
    geometry: Geometry,
    taxonomy: Taxonomy,
    stride: float,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> PanopticFrame:
    """As InstanceSemantic."""
    scores = outputs["scores"].astype(np.float32)
    candidates = (
        (scores[i], int(outputs["classes"][i]), mask_of(outputs, i, geometry, stride))
        for i in order_of(scores, score_threshold)
    )
    return paint(outputs, geometry, taxonomy, stride, candidates, overlap_threshold, stuff_area)


def mask_of(outputs: Mapping[str, np.ndarray], index: int, geometry: Geometry, stride: float) -> np.ndarray:
    """bool (H, W)."""
    if "masks28" in outputs:
        scale_y, scale_x = geometry.scale_yx
        box = outputs["boxes"][index].astype(np.float32) * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        return paste(outputs["masks28"][index], box, geometry.image_hw)
    mask = outputs["masks"][index]
    if mask.dtype in (np.uint8, bool):
        return mask != 0
    return upsample(mask, geometry, stride, outputs["semantic"].shape[1:]) >= 0.5


def paste(mask: np.ndarray, box_xyxy: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """bool (H, W): where the probabilities, stretched over the box and 0 around it, reach 0.5.

    Args:
        mask: (28, 28) probabilities.
        box_xyxy: float32 (4,), image pixels.
        image_hw: the image's height and width.
    """
    x0, y0, x1, y1 = box_xyxy
    if not (x1 > x0 and y1 > y0):
        return np.zeros(image_hw, bool)
    framed = np.pad(mask.astype(np.float32), 1)  # so that sample i is framed[i + 1]

    def axis(pixels, start, end, samples):
        middle = np.arange(pixels, dtype=np.float32) + np.float32(0.5)
        position = (middle - start) / (end - start) * samples - np.float32(0.5)
        low = np.floor(position)
        index = np.clip(low, -1, samples).astype(int) + 1
        within = (position > -1) & (position < samples)
        return index, np.minimum(index + 1, samples + 1), position - low, within

    low_x, high_x, right, in_x = axis(image_hw[1], x0, x1, mask.shape[1])
    low_y, high_y, down, in_y = axis(image_hw[0], y0, y1, mask.shape[0])
    across = framed[:, low_x] * (1 - right) + framed[:, high_x] * right
    down = down[:, None]
    value = across[low_y] * (1 - down) + across[high_y] * down
    return (value >= 0.5) & in_x & in_y[:, None]
