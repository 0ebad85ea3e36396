"""What the node sees, drawn over the image."""

import cv2
import numpy as np

from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Taxonomy

DRIVABLE_BGR = (80, 220, 60)
TEXT_BGR = (255, 255, 255)


def draw_overlay(image: np.ndarray, frame: PanopticFrame, drivable: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """The image with class colours laid over it, instances outlined and named, the drivable area outlined in green.

    Args:
        image: uint8 (H, W, 3), BGR.
        frame: its segmentation.
        drivable: uint8 (H, W), 255 drivable; see perception_node.drivable.

    Returns:
        A new uint8 (H, W, 3), BGR. Unlabelled pixels stay as they are.
    """
    colors = taxonomy.colors_bgr()
    canvas = cv2.addWeighted(image, 0.55, cv2.LUT(cv2.merge([frame.class_map] * 3), colors[None]), 0.45, 0)
    cv2.copyTo(image, (frame.class_map == UNLABELLED).view(np.uint8), canvas)
    outline, _ = cv2.findContours(drivable, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outline, -1, DRIVABLE_BGR, 2)
    for segment in frame.instances:
        _draw_instance(canvas, frame, segment, taxonomy)
    return canvas


def _draw_instance(canvas, frame, segment, taxonomy) -> None:
    x0, y0, x1, y1 = segment.box_xyxy
    mask = (frame.instance_map[y0:y1, x0:x1] == segment.id).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas[y0:y1, x0:x1], contours, -1, instance_color_bgr(segment.id), 2)
    text = f"{taxonomy[segment.class_id].name} {segment.id}"
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    if x1 - x0 < width // 2:
        return  # names on small, far objects would hide the scene
    origin = (min(x0, canvas.shape[1] - width), max(y0 - 3, height))
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, TEXT_BGR, 1, cv2.LINE_AA)


def instance_color_bgr(instance_id: int) -> tuple[int, int, int]:
    """A bright colour, far from those of the ids next to it (hues by the golden ratio)."""
    hue = int(instance_id * 0.618034 % 1 * 180)
    blue, green, red = cv2.cvtColor(np.uint8([[[hue, 190, 255]]]), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)
