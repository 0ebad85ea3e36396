"""The drivable area: where the road in front of the vehicle goes, as far as the image shows it."""

import cv2
import numpy as np

from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy

EGO_ROWS, EGO_COLUMNS = (0.7, 1.0), (0.3, 0.7)
"""Where in the image, as parts of its height and width, the ground in front of the ego vehicle is looked for: low
enough to be near, high enough to see over the bonnet."""


def drivable_area(frame: PanopticFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Pixels of drivable classes, free of instances, connected to the ground in front of the ego vehicle.

    Connected means through sides, not corners: a vehicle does not pass through a point.

    Returns:
        uint8 (H, W), 255 drivable, 0 not.
    """
    surface = taxonomy.table("drivable")[frame.class_map] & (frame.instance_map == 0)
    n_components, components = cv2.connectedComponents(surface.view(np.uint8), connectivity=4)
    height, width = surface.shape
    rows, columns = (
        slice(int(a * size), max(int(b * size), int(a * size) + 1))
        for (a, b), size in ((EGO_ROWS, height), (EGO_COLUMNS, width))
    )
    reached = np.zeros(n_components, np.uint8)
    reached[components[rows, columns]] = 255
    reached[0] = 0  # component 0 is what is not surface
    return reached[components]
