"""Panoptic-DeepLab (Cheng et al., CVPR 2020, section 3.5)."""

from collections.abc import Mapping

import cv2
import numpy as np

from oracles.sampling import classify, drop_small_stuff, make_frame, upsample
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


def fuse(
    outputs: Mapping[str, np.ndarray],
    geometry: Geometry,
    taxonomy: Taxonomy,
    stride: float,
    center_threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int = 200,
    stuff_area: int = 2048,
) -> PanopticFrame:
    """As CenterOffset."""
    thing = taxonomy.table("thing")
    class_map, probability = classify(outputs["semantic"], geometry, stride)
    votes = thing[class_map]
    if outputs.get("foreground") is None:
        joins = votes
    else:
        joins = upsample(outputs["foreground"][0], geometry, stride) > 0
        votes &= joins
        class_map[thing[class_map] & ~joins] = UNLABELLED

    heatmap = upsample(outputs["center"][0], geometry, stride)
    radius_y, radius_x = (max(int(nms_kernel > 1), int(nms_kernel * scale / 2)) for scale in geometry.scale_yx)
    centers = find_centers(heatmap, center_threshold, (2 * radius_y + 1, 2 * radius_x + 1), top_k)
    instance_map = np.zeros(geometry.image_hw, np.int64)
    if len(centers):
        dy, dx = (
            upsample(plane, geometry, stride) * np.float32(scale)
            for plane, scale in zip(outputs["offset"], geometry.scale_yx, strict=True)
        )
        owner = nearest_center(centers, dy, dx)
        ids = 0
        for index in np.unique(owner[joins]):
            members = joins & (owner == index)
            counts = np.bincount(class_map[members & votes], minlength=256)
            if counts.any():
                ids += 1
                class_map[members], instance_map[members] = counts.argmax(), ids
            else:
                class_map[members] = UNLABELLED
    drop_small_stuff(class_map, instance_map, thing, stuff_area)
    return make_frame(class_map, instance_map, probability)


def find_centers(heatmap: np.ndarray, threshold: float, window: tuple[int, int], top_k: int) -> np.ndarray:
    """int (K, 2): the highest of their windows and above the threshold, as (y, x) in row-major order."""
    heatmap = np.where(np.isnan(heatmap), -np.inf, heatmap).astype(np.float32)
    highest = cv2.dilate(heatmap, np.ones(window, np.uint8), borderType=cv2.BORDER_REPLICATE)
    peaks = np.flatnonzero((heatmap > threshold) & (heatmap == highest))
    order = np.argsort(-heatmap.ravel()[peaks], kind="stable")
    peaks = np.sort(peaks[order[:top_k]])
    return np.stack(np.unravel_index(peaks, heatmap.shape), axis=1)


def nearest_center(centers: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """int (H, W): index of the centre nearest to where each pixel's offset leads; the first of equals."""
    ys, xs = np.indices(dy.shape, np.float32)
    ys, xs = ys + dy, xs + dx
    nearest = np.zeros(dy.shape, np.int64)
    least = np.full(dy.shape, np.inf, np.float32)
    for index, (y, x) in enumerate(centers.astype(np.float32)):
        distance = (ys - y) ** 2 + (xs - x) ** 2
        nearer = distance < least
        nearest[nearer], least[nearer] = index, distance[nearer]
    return nearest
