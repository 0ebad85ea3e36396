"""Panoptic quality (Kirillov et al. 2019, section 4) and mean IoU, counted as panopticapi counts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Taxonomy

VOID_INSTANCE = 65535
"""Marks, in a truth instance map, thing pixels that belong to no instance and are void for panoptic measures."""


def instances_from_classes(class_map: np.ndarray, thing_class_ids: Sequence[int], min_area: int = 50) -> np.ndarray:
    """Instances for labels that have none (CamVid): the 8-connected components of each thing class.

    Args:
        class_map: uint8 (H, W).
        thing_class_ids: which classes have instances.
        min_area: in pixels; smaller components become VOID_INSTANCE.

    Returns:
        uint16 (H, W): 0 where the class is no thing, 1, 2, ... for instances.
    """
    instance_map = np.zeros(class_map.shape, np.uint16)
    next_id = 1
    for class_id in thing_class_ids:
        _, components, stats, _ = cv2.connectedComponentsWithStats(
            (class_map == class_id).view(np.uint8), connectivity=8
        )
        ids = np.zeros(len(stats), np.uint16)
        for component in range(1, len(stats)):
            if stats[component, cv2.CC_STAT_AREA] < min_area:
                ids[component] = VOID_INSTANCE
            else:
                ids[component] = next_id
                next_id += 1
        instance_map += ids[components]
    return instance_map


def truth_from_classes(class_map: np.ndarray, thing_class_ids: Sequence[int]) -> PanopticFrame:
    """The panoptic truth of labels without instances; thing pixels of no instance are unlabelled, that is, void."""
    instance_map = instances_from_classes(class_map, thing_class_ids)
    is_void = instance_map == VOID_INSTANCE
    class_map = np.where(is_void, np.uint8(UNLABELLED), class_map)
    instance_map[is_void] = 0
    return PanopticFrame.from_maps(class_map, instance_map, np.full(class_map.shape, 255, np.uint8))


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

    def add(self, truth: PanopticFrame, predicted: PanopticFrame) -> None:
        """Counts one image.

        Segments match where the class is the same and IoU > 0.5; void pixels of the truth belong to no union, and a
        segment of which more than half is void is no false positive (section 4.2 of the paper).
        """
        overlaps = _overlaps(truth, predicted)
        void = {p: area for (t, p), area in overlaps.items() if t == (UNLABELLED, 0)}
        truth_areas = {(s.class_id, s.id): s.area for s in truth.segments}
        predicted_areas = {(s.class_id, s.id): s.area for s in predicted.segments}
        matched = set()
        for (t, p), overlap in overlaps.items():
            if t[0] != p[0] or t not in truth_areas or p not in predicted_areas:
                continue
            iou = overlap / (truth_areas[t] + predicted_areas[p] - overlap - void.get(p, 0))
            if iou > 0.5:
                self.tp[t[0]] += 1
                self.iou[t[0]] += iou
                matched.update([("truth", t), ("predicted", p)])
        for t in truth_areas:
            self.fn[t[0]] += ("truth", t) not in matched
        for p, area in predicted_areas.items():
            self.fp[p[0]] += ("predicted", p) not in matched and void.get(p, 0) / area <= 0.5

    def quality(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ of each class, float (C,); NaN for classes in neither truth nor prediction."""
        with np.errstate(invalid="ignore"):
            rq = self.tp / (self.tp + self.fp / 2 + self.fn / 2)
            sq = np.where(self.tp > 0, self.iou / np.maximum(self.tp, 1), 0.0) + 0 * rq
        return rq * sq, sq, rq


def _overlaps(truth: PanopticFrame, predicted: PanopticFrame) -> dict[tuple[tuple[int, int], tuple[int, int]], int]:
    """Pixels that a truth (class, id) and a predicted (class, id) share."""

    def key(frame: PanopticFrame) -> np.ndarray:
        return frame.class_map.astype(np.uint64) << np.uint64(16) | frame.instance_map

    pairs, areas = np.unique(key(truth) << np.uint64(32) | key(predicted), return_counts=True)
    return {
        ((p >> 48, p >> 32 & 0xFFFF), (p >> 16 & 0xFFFF, p & 0xFFFF)): area
        for p, area in zip(pairs.tolist(), areas.tolist(), strict=True)
    }


class Evaluation:
    """Measures a model's frames against labels.

    Args:
        taxonomy: the classes of both.
    """

    def __init__(self, taxonomy: Taxonomy):
        self._taxonomy = taxonomy
        self._confusion = np.zeros((len(taxonomy), len(taxonomy) + 1), np.int64)
        self._counts = PanopticCounts.zeros(len(taxonomy))

    def add(self, labels: np.ndarray, truth: PanopticFrame, predicted: PanopticFrame) -> None:
        """One image: its class labels, uint8 (H, W), its panoptic truth and what was predicted."""
        self._confusion += confusion_matrix(labels, predicted.class_map, len(self._taxonomy))
        self._counts.add(truth, predicted)

    def summary(self) -> dict[str, Any]:
        """miou, pq, sq, rq, pq_things, pq_stuff, and the same for each class under "classes"; None where undefined."""
        is_thing = self._taxonomy.table("thing")[: len(self._taxonomy)]
        pq, sq, rq = self._counts.quality()
        iou = class_iou(self._confusion)
        return {
            "miou": _mean(iou),
            "pq": _mean(pq),
            "sq": _mean(sq),
            "rq": _mean(rq),
            "pq_things": _mean(pq[is_thing]),
            "pq_stuff": _mean(pq[~is_thing]),
            "classes": {
                category.name: {"iou": _mean(iou[i]), "pq": _mean(pq[i]), "sq": _mean(sq[i]), "rq": _mean(rq[i])}
                for i, category in enumerate(self._taxonomy)
            },
        }


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
