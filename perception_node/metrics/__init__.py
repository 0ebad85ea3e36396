"""The field's measures of panoptic perception, with the rules of the tools that define them (docs/evaluation.md)."""

from perception_node.metrics.calibration import CalibrationCounts
from perception_node.metrics.evaluation import Evaluation, FrameLabels, FrameMeasures, measure
from perception_node.metrics.ground import Grid
from perception_node.metrics.panoptic_map import (
    VOID,
    VOID_INSTANCE,
    Overlaps,
    PanopticMap,
    SegmentLabel,
    instances_from_classes,
)
from perception_node.metrics.panoptic_quality import PanopticCounts, match
from perception_node.metrics.pixels import BinaryCounts, boundary_overlap, class_iou, confusion_matrix, mean_iou
from perception_node.metrics.video import SegmentationTrackingQuality, VideoPanopticQuality

__all__ = [
    "VOID",
    "VOID_INSTANCE",
    "BinaryCounts",
    "CalibrationCounts",
    "Evaluation",
    "FrameLabels",
    "FrameMeasures",
    "Grid",
    "Overlaps",
    "PanopticCounts",
    "PanopticMap",
    "SegmentLabel",
    "SegmentationTrackingQuality",
    "VideoPanopticQuality",
    "boundary_overlap",
    "class_iou",
    "confusion_matrix",
    "instances_from_classes",
    "match",
    "mean_iou",
    "measure",
]
