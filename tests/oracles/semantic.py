"""Semantic segmentation alone, with connected components for instances if they are wanted."""

from collections.abc import Mapping

import cv2
import numpy as np

from oracles.sampling import classify, drop_small_stuff, make_frame
from perception_node.panoptic import MAX_INSTANCES, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


def fuse(
    outputs: Mapping[str, np.ndarray],
    geometry: Geometry,
    taxonomy: Taxonomy,
    stride: float,
    components: bool = False,
    stuff_area: int = 0,
) -> PanopticFrame:
    """As Semantic."""
    class_map, probability = classify(outputs["semantic"], geometry, stride)
    instance_map = np.zeros(geometry.image_hw, np.int64)
    if components:
        count = 0
        for class_id in taxonomy.thing_ids:
            found, parts = cv2.connectedComponents((class_map == class_id).astype(np.uint8), connectivity=8)
            instance_map[parts > 0] = parts[parts > 0] + count
            count += found - 1
        instance_map = number_by_first_pixel(instance_map)
        instance_map[instance_map > MAX_INSTANCES] = 0
    drop_small_stuff(class_map, instance_map, taxonomy.table("thing"), stuff_area)
    return make_frame(class_map, instance_map, probability)


def number_by_first_pixel(labels: np.ndarray) -> np.ndarray:
    """Positive labels become 1, 2, ... in row-major order of their first pixels; 0 stays."""
    present, first = np.unique(labels, return_index=True)
    order = present[np.argsort(first)]
    new = np.zeros(labels.max() + 1, np.int64)
    new[order[order > 0]] = np.arange(1, (order > 0).sum() + 1)
    return new[labels]
