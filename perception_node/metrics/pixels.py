"""Measures of pixels and cells: IoU of classes, boundary IoU (Cheng et al. 2021), precision and recall of one class."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception_node.panoptic import UNLABELLED

BOUNDARY_RATIO = 0.02
"""Width of a boundary as a part of the image's diagonal; the paper's (section 5)."""


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Pixel counts of two uint8 class maps, values of n_classes and more being unlabelled.

    Returns:
        int64 (C, C + 1), rows truth, columns prediction, the last one unlabelled; pixels that the truth leaves
        unlabelled are not counted.
    """
    known = truth < n_classes
    pairs = truth[known].astype(np.int64) * (n_classes + 1) + np.minimum(predicted[known], n_classes)
    return np.bincount(pairs, minlength=n_classes * (n_classes + 1)).reshape(n_classes, n_classes + 1)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """float (C,): TP / (TP + FP + FN) of each class; NaN for classes in neither truth nor prediction."""
    hits = np.diag(confusion)
    union = confusion.sum(axis=1) + confusion[:, : len(confusion)].sum(axis=0) - hits
    with np.errstate(invalid="ignore"):
        return hits / union


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes that occur in truth or prediction."""
    return float(np.nanmean(class_iou(confusion)))


def boundary_overlap(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Intersection and union of the boundaries of each class (Cheng et al. 2021, section 5).

    The boundary of a class is what is nearer to the class's outline, from inside, than 2 % of the image's diagonal; the
    image's border is an outline. Pixels that the truth leaves unlabelled are not counted.

    Args:
        truth, predicted: uint8 (H, W) class maps, UNLABELLED where there is no class.
        n_classes: C.

    Returns:
        int64 (C, 2).
    """
    height, width = truth.shape
    side = 2 * max(1, round(BOUNDARY_RATIO * float(np.hypot(height, width)))) + 1
    square = np.ones((side, side), np.uint8)

    def in_boundary(class_map: np.ndarray) -> np.ndarray:
        """Whether the square around a pixel has another class in it, or reaches over the image's border."""
        least = cv2.erode(class_map, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        most = cv2.dilate(class_map, square, borderType=cv2.BORDER_CONSTANT, borderValue=255)
        return least != most

    def pixels(class_map: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(class_map[chosen], minlength=256)[:n_classes]

    known = truth != UNLABELLED
    one, other = in_boundary(truth) & known, in_boundary(predicted) & known
    both = pixels(truth, one & other & (truth == predicted))
    return np.column_stack([both, pixels(truth, one) + pixels(predicted, other) - both])


@dataclass
class BinaryCounts:
    """Pixels or cells of one kind: in truth and prediction, in the prediction alone, in the truth alone."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, known: np.ndarray) -> "BinaryCounts":
        """Of bool arrays of one shape; where the truth is not known nothing is counted."""
        return cls(
            int(np.count_nonzero(truth & predicted & known)),
            int(np.count_nonzero(~truth & predicted & known)),
            int(np.count_nonzero(truth & ~predicted & known)),
        )

    def add(self, other: "BinaryCounts") -> None:
        self.tp, self.fp, self.fn = self.tp + other.tp, self.fp + other.fp, self.fn + other.fn

    def summary(self) -> dict[str, float | None]:
        """iou, precision, recall; None where undefined."""
        parts = {"iou": self.tp + self.fp + self.fn, "precision": self.tp + self.fp, "recall": self.tp + self.fn}
        return {name: self.tp / total if total else None for name, total in parts.items()}
