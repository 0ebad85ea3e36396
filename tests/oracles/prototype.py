"""Masks as mixtures of prototypes: YOLACT (Bolya et al., ICCV 2019, section 3) and the segmentation YOLOs."""

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
    nms_threshold: float | None = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> PanopticFrame:
    """As Prototype."""
    class_ids = np.array(taxonomy.thing_ids)
    by_class = outputs["scores"].astype(np.float32)
    if by_class.shape[1] == len(taxonomy):
        by_class = by_class[:, class_ids]
    by_class = np.where(np.isnan(by_class), -np.inf, by_class)
    classes, scores = class_ids[by_class.argmax(axis=1)], by_class.max(axis=1)

    boxes = outputs["boxes"].astype(np.float32)
    kept: list[int] = []
    for i in order_of(scores, score_threshold):
        rivals = (j for j in kept if classes[j] == classes[i]) if nms_threshold is not None else ()
        if not any(iou(boxes[i], boxes[j]) > np.float32(nms_threshold) for j in rivals):
            kept.append(i)

    scale_y, scale_x = geometry.scale_yx
    boxes = boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    candidates = ((scores[i], int(classes[i]), mask_of(outputs, i, boxes[i], geometry, stride)) for i in kept)
    return paint(outputs, geometry, taxonomy, stride, candidates, overlap_threshold, stuff_area)


def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Intersection over union of two float32 boxes (x0, y0, x1, y1); 0 if both are empty."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    both = sides[0] * sides[1]
    areas = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    either = areas[0] + areas[1] - both
    return both / either if either > 0 else np.float32(0)


def mask_of(outputs, index: int, box_xyxy: np.ndarray, geometry: Geometry, stride: float) -> np.ndarray:
    """bool (H, W): where the mixture is not negative (sigmoid >= 0.5), within the box."""
    mixture = np.zeros(outputs["prototypes"].shape[1:], np.float32)
    for coefficient, prototype in zip(outputs["coefficients"][index], outputs["prototypes"], strict=True):
        mixture += np.float32(coefficient) * prototype.astype(np.float32)
    x0, y0, x1, y1 = box_xyxy
    ys, xs = np.ogrid[: geometry.image_hw[0], : geometry.image_hw[1]]
    inside = (x0 <= xs) & (xs < x1) & (y0 <= ys) & (ys < y1)
    return (upsample(mixture, geometry, stride) >= 0) & inside
