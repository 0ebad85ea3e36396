"""All measures of a model's frames against the truth: each frame is measured by itself, then the sums are drawn up."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_node.drivable import drivable_area
from perception_node.metrics.calibration import CalibrationCounts
from perception_node.metrics.ground import GRID_DISTANCE_M, Grid, distance_summary, free_cells
from perception_node.metrics.panoptic_map import Overlaps, PanopticMap
from perception_node.metrics.panoptic_quality import SIZES, PanopticCounts, SizeRecall, match
from perception_node.metrics.pixels import BinaryCounts, boundary_overlap, class_iou
from perception_node.metrics.video import SegmentationTrackingQuality, VideoPanopticQuality, class_confusion
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class FrameLabels:
    """What is known, or was predicted, of one frame.

    Attributes:
        panoptic: its segments.
        confidence: of a prediction, uint8 (H, W), 255ths.
        drivable: bool (H, W); without it, drivable_area of the classes.
        grid: the drivable grid.
        distances: instance id -> metres from the base frame's origin.
    """

    panoptic: PanopticMap
    confidence: np.ndarray | None = None
    drivable: np.ndarray | None = None
    grid: Grid | None = None
    distances: dict[int, float] | None = None


@dataclass(frozen=True, slots=True)
class FrameMeasures:
    """What one frame adds to the measures; small, so that another process can make it.

    Attributes:
        overlaps: of the segments.
        boundary: int64 (C, 2), see boundary_overlap.
        drivable: pixels; None if no class is drivable.
        calibration: pixels by confidence; None if the prediction has none.
        grid: cells, None if either has no grid.
        distance_errors: relative, one for each pair of matched instances whose distances are known; None if neither
            has distances.
    """

    overlaps: Overlaps
    boundary: np.ndarray
    drivable: BinaryCounts | None
    calibration: CalibrationCounts | None
    grid: BinaryCounts | None
    distance_errors: list[float] | None

    def pq(self, n_classes: int) -> float | None:
        """Panoptic quality of this frame alone; None if it has no segments."""
        counts = PanopticCounts.zeros(n_classes)
        counts.add(self.overlaps)
        return _mean(counts.quality()[0])


def measure(
    truth: FrameLabels, predicted: FrameLabels, taxonomy: Taxonomy, grid_distance_m: float = GRID_DISTANCE_M
) -> FrameMeasures:
    """Measures one frame. The maps of both are of one size."""
    overlaps = Overlaps.of(truth.panoptic, predicted.panoptic)
    classes, seen = truth.panoptic.class_map, predicted.panoptic.class_map
    known = classes != UNLABELLED
    drivable = calibration = grid = errors = None
    if taxonomy.table("drivable").any() or (truth.drivable is not None and predicted.drivable is not None):
        drivable = BinaryCounts.of(_drivable(truth, taxonomy), _drivable(predicted, taxonomy), known)
    if predicted.confidence is not None:
        calibration = CalibrationCounts()
        claimed = known & (seen != UNLABELLED)
        calibration.add(predicted.confidence[claimed], (classes == seen)[claimed])
    if truth.grid is not None and predicted.grid is not None:
        grid = free_cells(truth.grid, predicted.grid, grid_distance_m)
    if truth.distances is not None and predicted.distances is not None:
        errors = _distance_errors(overlaps, truth.distances, predicted.distances)
    return FrameMeasures(overlaps, boundary_overlap(classes, seen, len(taxonomy)), drivable, calibration, grid, errors)


def _drivable(labels: FrameLabels, taxonomy: Taxonomy) -> np.ndarray:
    if labels.drivable is not None:
        return labels.drivable
    class_map = labels.panoptic.class_map
    no_instances = np.zeros(class_map.shape, np.uint16)
    return drivable_area(PanopticFrame(class_map, no_instances, no_instances.astype(np.uint8), ()), taxonomy) > 0


def _distance_errors(overlaps: Overlaps, truth: dict[int, float], predicted: dict[int, float]) -> list[float]:
    errors = []
    for t, (p, _) in match(overlaps).items():
        true, seen = truth.get(t[1] & 0xFFFF), predicted.get(p[1] & 0xFFFF)
        if true and seen is not None:
            errors.append(abs(seen - true) / true)
    return errors


class Evaluation:
    """Sums up what frames measure.

    Args:
        taxonomy: the classes of truth and prediction.
        video: the frames are in order, and ids last: VPQ and STQ are measured too.
    """

    def __init__(self, taxonomy: Taxonomy, video: bool = False):
        n_classes = len(taxonomy)
        self._taxonomy = taxonomy
        self._frames = 0
        self._confusion = np.zeros((n_classes, n_classes + 1), np.int64)
        self._counts = PanopticCounts.zeros(n_classes)
        self._sizes = SizeRecall(taxonomy.thing_ids)
        self._boundary = np.zeros((n_classes, 2), np.int64)
        self._drivable: BinaryCounts | None = None
        self._grid: BinaryCounts | None = None
        self._calibration: CalibrationCounts | None = None
        self._distance_errors: list[float] | None = None
        self._vpq = VideoPanopticQuality(n_classes) if video else None
        self._stq = SegmentationTrackingQuality(n_classes, taxonomy.thing_ids) if video else None

    def start_sequence(self) -> None:
        """The next frame does not follow the last one."""
        if self._vpq and self._stq:
            self._vpq.start_sequence()
            self._stq.start_sequence()

    def add(self, frame: FrameMeasures) -> None:
        """One image; of a sequence, the next one."""
        self._frames += 1
        self._confusion += class_confusion(frame.overlaps, len(self._taxonomy))
        self._counts.add(frame.overlaps)
        self._sizes.add(frame.overlaps)
        self._boundary += frame.boundary
        if frame.drivable:
            self._drivable = self._drivable or BinaryCounts()
            self._drivable.add(frame.drivable)
        if frame.grid:
            self._grid = self._grid or BinaryCounts()
            self._grid.add(frame.grid)
        if frame.calibration:
            self._calibration = self._calibration or CalibrationCounts()
            self._calibration.merge(frame.calibration)
        if frame.distance_errors is not None:
            self._distance_errors = self._distance_errors or []
            self._distance_errors.extend(frame.distance_errors)
        if self._vpq and self._stq:
            self._vpq.add(frame.overlaps)
            self._stq.add(frame.overlaps)

    def summary(self) -> dict[str, Any]:
        """The measures as numbers, None where undefined (nothing of the kind in truth or prediction).

        frames; pq, sq, rq of all classes and with _things and _stuff; miou, boundary_iou; recall_by_size: small,
        medium and large with recall and instances; classes: by name, iou, boundary_iou, pq, sq, rq, tp, fp, fn. Where
        there is what they need: drivable: iou, precision, recall; ece; grid, as drivable; distance, see
        distance_summary; vpq: by frames of the window and "mean", each with all, things and stuff; stq: stq, aq, sq.
        """
        is_thing = self._taxonomy.table("thing")[: len(self._taxonomy)]
        everything = np.ones(len(is_thing), bool)
        pq, sq, rq = self._counts.quality()
        iou = class_iou(self._confusion)
        boundary_iou = np.divide(*self._boundary.T, out=np.full(len(iou), np.nan), where=self._boundary[:, 1] > 0)
        groups = (("", everything), ("_things", is_thing), ("_stuff", ~is_thing))
        summary: dict[str, Any] = {
            "frames": self._frames,
            **{
                f"{name}{group}": _mean(values[chosen])
                for group, chosen in groups
                for name, values in (("pq", pq), ("sq", sq), ("rq", rq))
            },
            "miou": _mean(iou),
            "boundary_iou": _mean(boundary_iou),
            "recall_by_size": {
                size: {
                    "recall": self._sizes.found[size] / n if (n := self._sizes.instances[size]) else None,
                    "instances": n,
                }
                for size in SIZES
            },
        }
        if self._drivable:
            summary["drivable"] = self._drivable.summary()
        if self._calibration:
            summary["ece"] = self._calibration.error()
        if self._grid:
            summary["grid"] = self._grid.summary()
        if self._distance_errors is not None:
            summary["distance"] = distance_summary(self._distance_errors)
        if self._vpq and self._stq:
            summary["vpq"] = self._vpq_summary(groups)
            summary["stq"] = dict(zip(("stq", "aq", "sq"), self._stq.quality(), strict=True))
        per_class = {"iou": iou, "boundary_iou": boundary_iou, "pq": pq, "sq": sq, "rq": rq}
        summary["classes"] = {
            category.name: {
                **{name: _mean(values[i]) for name, values in per_class.items()},
                **{name: int(getattr(self._counts, name)[i]) for name in ("tp", "fp", "fn")},
            }
            for i, category in enumerate(self._taxonomy)
        }
        return summary

    def _vpq_summary(self, groups: tuple[tuple[str, np.ndarray], ...]) -> dict[str, dict[str, float | None]]:
        windows = {
            str(k): {group.removeprefix("_") or "all": _mean(counts.quality()[0][chosen]) for group, chosen in groups}
            for k, counts in self._vpq.counts.items()
        }
        kinds = next(iter(windows.values()))
        mean = {kind: _mean(np.array([w[kind] for w in windows.values()], float)) for kind in kinds}
        return {**windows, "mean": mean}


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
