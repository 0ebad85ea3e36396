"""Panoptic quality (Kirillov et al. 2019, section 4), counted as panopticapi does; recall by the size of instances."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from perception_node.metrics.panoptic_map import NOTHING, Overlaps, SegmentLabel, Tube

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
"""Areas in pixels, from and below, that COCO's detection measures call so."""


def match(overlaps: Overlaps) -> dict[Tube, tuple[Tube, float]]:
    """Truth segment -> the predicted segment of the same class whose IoU with it is above 0.5, and that IoU.

    At most one can be. Void pixels of the truth belong to no union; crowds match nothing.
    """
    truth_area, predicted_area, void = _areas(overlaps)
    matches = {}
    for (t, p), shared in overlaps.areas.items():
        if t[0] != p[0] or _is_void(t, overlaps.truth) or overlaps.truth[t].crowd or _is_void(p, overlaps.predicted):
            continue
        iou = shared / (truth_area[t] + predicted_area[p] - shared - void[p])
        if iou > 0.5:
            matches[t] = p, iou
    return matches


@dataclass
class PanopticCounts:
    """What panoptic quality is made of, for each class.

    Attributes:
        tp, fp, fn: int (C,), segments.
        iou: float (C,), summed over the matched pairs.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou: np.ndarray

    @classmethod
    def zeros(cls, n_classes: int) -> "PanopticCounts":
        return cls(*(np.zeros(n_classes, dtype) for dtype in (int, int, int, float)))

    def add(self, overlaps: Overlaps) -> None:
        """Counts one image, or one window of a video.

        A segment of which more than half is void, or lies on a crowd of its class, is no false positive (section 4.2).
        """
        _, predicted_area, ignored = _areas(overlaps)
        matches = match(overlaps)
        crowds = {}
        for t, label in overlaps.truth.items():
            if t in matches:
                self.tp[t[0]] += 1
                self.iou[t[0]] += matches[t][1]
            elif label.crowd:
                crowds[t[0]] = t  # the last one listed stands for its class, as in panopticapi
            elif not label.void:
                self.fn[t[0]] += 1
        for class_id, crowd in crowds.items():
            for p in overlaps.predicted:
                if p[0] == class_id:
                    ignored[p] += overlaps.areas.get((crowd, p), 0)
        found = {p for p, _ in matches.values()}
        for p, label in overlaps.predicted.items():
            self.fp[p[0]] += p not in found and not label.void and ignored[p] / predicted_area[p] <= 0.5

    def quality(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ of each class, float (C,); NaN for classes in neither truth nor prediction."""
        with np.errstate(invalid="ignore"):
            rq = self.tp / (self.tp + self.fp / 2 + self.fn / 2)
            pq = self.iou / (self.tp + self.fp / 2 + self.fn / 2)
            sq = np.where(self.tp > 0, self.iou / np.maximum(self.tp, 1), 0.0) + 0 * rq
        return pq, sq, rq


class SizeRecall:
    """How many of the truth's instances are found, by their size in the truth."""

    def __init__(self, thing_ids: tuple[int, ...]):
        self._thing_ids = set(thing_ids)
        self.found: Counter[str] = Counter()
        self.instances: Counter[str] = Counter()

    def add(self, overlaps: Overlaps) -> None:
        """Counts one image; found is what panoptic quality calls matched."""
        truth_area, _, _ = _areas(overlaps)
        matches = match(overlaps)
        for t, label in overlaps.truth.items():
            if t[0] in self._thing_ids and not label.crowd and not label.void:
                size = next(name for name, (low, high) in SIZES.items() if low <= truth_area[t] < high)
                self.instances[size] += 1
                self.found[size] += t in matches


def _areas(overlaps: Overlaps) -> tuple[Counter[Tube], Counter[Tube], Counter[Tube]]:
    """Pixels of the truth's segments, of the predicted ones, and how many of the latter's are void in the truth."""
    truth, predicted, void = Counter(), Counter(), Counter()
    for (t, p), area in overlaps.areas.items():
        truth[t] += area
        predicted[p] += area
        if _is_void(t, overlaps.truth):
            void[p] += area
    return truth, predicted, void


def _is_void(tube: Tube, labels: dict[Tube, SegmentLabel]) -> bool:
    return tube == NOTHING or labels[tube].void
