"""Painting of overlapping instance masks over a semantic map (Kirillov et al., Panoptic Segmentation, CVPR 2019)."""

from collections.abc import Iterable, Mapping

import numpy as np

from oracles.sampling import classify, drop_small_stuff, make_frame
from perception_node.panoptic import MAX_INSTANCES, UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


def order_of(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the scores that reach the threshold, highest first, the lower index first among equals."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= np.float32(threshold)]


def paint(
    outputs: Mapping[str, np.ndarray],
    geometry: Geometry,
    taxonomy: Taxonomy,
    stride: float,
    candidates: Iterable[tuple[float, int, np.ndarray]],
    overlap_threshold: float,
    stuff_area: int,
) -> PanopticFrame:
    """The frame of candidates (score, class, bool mask), painted in their order, and of the stuff around them."""
    thing = taxonomy.table("thing")
    if outputs.get("semantic") is None:
        class_map = np.full(geometry.image_hw, UNLABELLED, np.uint8)
        probability = np.zeros(geometry.image_hw, np.float32)
    else:
        class_map, probability = classify(outputs["semantic"], geometry, stride)
    instance_map = np.zeros(geometry.image_hw, np.uint16)
    scores, ids = {}, 0
    for score, class_id, mask in candidates:
        free = mask & (instance_map == 0)
        area, painted = int(mask.sum()), int(mask.sum() - free.sum())
        if not 0 <= class_id < len(taxonomy) or not thing[class_id] or not area:
            continue
        if painted / area > overlap_threshold or painted == area:
            continue
        if ids == MAX_INSTANCES:
            break
        ids += 1
        class_map[free], instance_map[free], probability[free] = class_id, ids, score
        scores[class_id, ids] = score
    drop_small_stuff(class_map, instance_map, thing, stuff_area)
    return make_frame(class_map, instance_map, probability, scores)
