"""The drivable area: where the road in front of the vehicle goes, as far as the image shows it.

It is of the image alone and needs no calibration; perception_node.ground makes metres of it.
"""

import cv2
import numpy as np

from perception_node.panoptic import PanopticFrame
from perception_node.taxonomy import Taxonomy

EGO_ROWS, EGO_COLUMNS = (0.7, 1.0), (0.3, 0.7)
"""Where in the image, as parts of its height and width, the ground in front of the ego vehicle is looked for: low
enough to be near, high enough to see over the bonnet."""

MAX_FLOODS = 8
"""So many parts of the surface are flooded from the ground ahead, a fifth of the time that it takes to label them all;
where there are more, they are labelled."""

MARGIN = 0.005
"""Around instances, as part of the image's height: their borders are a pixel or two off. In pixels, since metres would
take a calibration; the grid has a margin in metres of its own."""


def connected_surface(frame: PanopticFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Pixels of drivable classes, free of instances, connected to the ground in front of the ego vehicle.

    Connected means through sides, not corners: a vehicle does not pass through a point.

    Returns:
        uint8 (H, W), 255 or 0.
    """
    # Of numpy's and OpenCV's ways to look things up the fast ones.
    surface = cv2.LUT(frame.class_map, taxonomy.table("drivable").view(np.uint8))
    surface &= (frame.instance_map == 0).view(np.uint8)
    height, width = surface.shape
    ego = tuple(
        slice(int(a * size), max(int(b * size), int(a * size) + 1))
        for (a, b), size in ((EGO_ROWS, height), (EGO_COLUMNS, width))
    )
    left = surface.copy()
    for _ in range(MAX_FLOODS + 1):
        y, x = np.unravel_index(left[ego].argmax(), left[ego].shape)
        if not left[ego][y, x]:
            return (surface - left) * np.uint8(255)
        cv2.floodFill(left, None, (int(ego[1].start + x), int(ego[0].start + y)), 0, flags=4)
    n_components, components = cv2.connectedComponents(surface, connectivity=4)
    reached = np.zeros(n_components, np.uint8)
    reached[components[ego]] = 255
    reached[0] = 0  # component 0 is what is not surface
    return reached.take(components)


def without_margin(connected: np.ndarray, frame: PanopticFrame, margin: float = MARGIN) -> np.ndarray:
    """A connected surface without the margin around instances.

    Args:
        connected: uint8 (H, W), of connected_surface.
        frame: the same.
        margin: as part of the image's height, to the nearest pixel; along rows and columns alike, so that it is wider
            at corners.

    Returns:
        uint8 (H, W), 255 or 0.
    """
    pixels = round(margin * connected.shape[0])
    if not pixels or not frame.instances:
        return connected
    near = cv2.dilate((frame.instance_map > 0).view(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8))
    return cv2.bitwise_and(connected, connected, mask=1 - near)


def drivable_area(frame: PanopticFrame, taxonomy: Taxonomy, margin: float = MARGIN) -> np.ndarray:
    """The connected surface without the margin around instances: uint8 (H, W), 255 drivable, 0 not."""
    return without_margin(connected_surface(frame, taxonomy), frame, margin)
