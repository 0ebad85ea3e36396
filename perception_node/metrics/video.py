"""Measures of sequences: VPQ (Kim et al., CVPR 2020, section 3.2) and STQ (Weber et al., NeurIPS 2021, section 4).

Both follow a thing through the frames by its (class, id), as deeplab2's code does: in both, ids must last.
"""

from collections import Counter, deque

import numpy as np

from perception_node.metrics.panoptic_map import NOTHING, Overlaps, SegmentLabel, Tube
from perception_node.metrics.panoptic_quality import PanopticCounts

WINDOWS = (1, 2, 3, 4)
"""Frames of VPQ's windows; Kim et al. call them k = 0, 5, 10, 15, since every fifth of their frames has labels."""


class VideoPanopticQuality:
    """Panoptic quality of the tubes in every window of k frames in a row; VPQ is the mean over k.

    Args:
        n_classes: C.
        windows: the k.
    """

    def __init__(self, n_classes: int, windows: tuple[int, ...] = WINDOWS):
        self.counts = {k: PanopticCounts.zeros(n_classes) for k in windows}
        self._recent: deque[Overlaps] = deque(maxlen=max(windows))

    def start_sequence(self) -> None:
        """No window reaches over this point."""
        self._recent.clear()

    def add(self, overlaps: Overlaps) -> None:
        """The sequence's next frame, with which windows of every length end."""
        self._recent.append(overlaps)
        for k, counts in self.counts.items():
            if len(self._recent) >= k:
                window = Overlaps()
                for frame in list(self._recent)[-k:]:
                    window.add(frame)
                counts.add(window)


class SegmentationTrackingQuality:
    """STQ = sqrt(AQ x SQ): association of ids and segmentation of classes, over whole sequences.

    Args:
        n_classes: C.
        thing_ids: the classes whose ids are followed.
    """

    def __init__(self, n_classes: int, thing_ids: tuple[int, ...]):
        self._things = set(thing_ids)
        self._confusion = np.zeros((n_classes, n_classes + 1), np.int64)
        # Of the sequences before this one: sums over their truth tubes, and how many those were.
        self._association, self._n_tubes = 0.0, 0
        self._truth: Counter[Tube] = Counter()
        self._predicted: Counter[Tube] = Counter()
        self._shared: Counter[tuple[Tube, Tube]] = Counter()

    def start_sequence(self) -> None:
        """Ids mean other objects from here on."""
        self._association += self._association_of_sequence()
        self._n_tubes += len(self._truth)
        for areas in (self._truth, self._predicted, self._shared):
            areas.clear()

    def add(self, overlaps: Overlaps) -> None:
        """The sequence's next frame.

        Thing pixels of the truth that belong to no instance (crowds) count for no tube.
        """
        self._confusion += class_confusion(overlaps, len(self._confusion))
        for (t, p), area in overlaps.areas.items():
            is_truth = t[0] in self._things
            if is_truth and _has_no_instance(overlaps.truth[t]):
                continue  # nor for the prediction's
            is_predicted = p[0] in self._things
            if is_truth:
                self._truth[t] += area
            if is_predicted:
                self._predicted[p] += area
            if is_truth and is_predicted:
                self._shared[t, p] += area

    def quality(self) -> tuple[float | None, float | None, float | None]:
        """STQ, AQ, SQ; None where there are no tubes, or no labelled pixels.

        As in deeplab2, pixels that the prediction leaves unlabelled count in SQ as one more class, of IoU 0.
        """
        n_tubes = self._n_tubes + len(self._truth)
        aq = (self._association + self._association_of_sequence()) / n_tubes if n_tubes else None
        hits = np.diag(self._confusion)
        union = self._confusion.sum(axis=1) + self._confusion[:, :-1].sum(axis=0) - hits
        n_classes = np.count_nonzero(union) + (self._confusion[:, -1].sum() > 0)
        sq = float((hits / np.maximum(union, 1)).sum() / n_classes) if n_classes else None
        return (None if aq is None or sq is None else float(np.sqrt(aq * sq))), aq, sq

    def _association_of_sequence(self) -> float:
        """AQ before it is divided by the number of truth tubes."""
        return sum(
            shared * (shared / (self._truth[t] + self._predicted[p] - shared)) / self._truth[t]
            for (t, p), shared in self._shared.items()
        )


def class_confusion(overlaps: Overlaps, n_classes: int) -> np.ndarray:
    """int64 (C, C + 1) as of pixels.confusion_matrix, from the classes of the segments."""
    confusion = np.zeros((n_classes, n_classes + 1), np.int64)
    for (t, p), area in overlaps.areas.items():
        if t != NOTHING:
            confusion[t[0], n_classes if p == NOTHING else p[0]] += area
    return confusion


def _has_no_instance(label: SegmentLabel) -> bool:
    return label.crowd or label.void
