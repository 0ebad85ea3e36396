"""PanopticMap: what the measures compare, whichever data set or topic it comes from; and how two of them overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Taxonomy

VOID = 0
"""Segment id of pixels that belong to no segment."""

VOID_INSTANCE = 65535
"""Marks, in a truth instance map, thing pixels that belong to no instance and are void for panoptic measures."""

_INSTANCES = 1 << 16


@dataclass(frozen=True, slots=True)
class SegmentLabel:
    """What is known of a segment.

    Attributes:
        class_id: 0..254.
        crowd: the truth draws several things of the class as one segment (COCO's iscrowd): none of them can be found or
            missed.
        void: the truth knows the class of the pixels but not the instance: void for panoptic measures, not for mIoU.
    """

    class_id: int
    crowd: bool = False
    void: bool = False


@dataclass(frozen=True, slots=True)
class PanopticMap:
    """One image's pixels by segment.

    Attributes:
        ids: int32 (H, W), the id of the pixel's segment, VOID (0) where there is none.
        class_map: uint8 (H, W), the class of the pixel, UNLABELLED (255) where there is none.
        segments: of every id in `ids` but VOID.
    """

    ids: np.ndarray
    class_map: np.ndarray
    segments: dict[int, SegmentLabel]

    @classmethod
    def from_maps(cls, class_map: np.ndarray, instance_map: np.ndarray, taxonomy: Taxonomy) -> "PanopticMap":
        """Of the maps that a PanopticFrame, or a bag, has.

        A thing pixel of instance 0 belongs to its class's crowd, one of VOID_INSTANCE is void but for its class.
        Classes that the taxonomy lacks are unlabelled; instances of stuff are ignored.

        Args:
            class_map: uint8 (H, W).
            instance_map: uint16 (H, W).
            taxonomy: the classes.
        """
        class_map = np.where(class_map < len(taxonomy), class_map, np.uint8(UNLABELLED))
        is_thing = taxonomy.table("thing")
        ids = (class_map.astype(np.int32) + 1) * _INSTANCES + np.where(is_thing[class_map], instance_map, 0)
        ids[class_map == UNLABELLED] = VOID
        segments = {}
        for identity in present(ids):
            class_id, instance = identity // _INSTANCES - 1, identity % _INSTANCES
            crowd = bool(is_thing[class_id]) and instance == 0
            segments[identity] = SegmentLabel(class_id, crowd, void=instance == VOID_INSTANCE)
        return cls(ids, class_map, segments)

    @classmethod
    def from_classes(cls, class_map: np.ndarray, taxonomy: Taxonomy) -> "PanopticMap":
        """Of labels that have no instances (CamVid): see instances_from_classes."""
        return cls.from_maps(class_map, instances_from_classes(class_map, taxonomy.thing_ids), taxonomy)


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


Tube = tuple[int, int]
"""A segment through the frames of a sequence: (class id, segment id). What changes its class is another tube."""

NOTHING: Tube = (UNLABELLED, VOID)
"""Where there is no segment."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """How many pixels each pair of a truth and a predicted segment shares: all that most measures need of an image, or
    of several images in a row.

    Attributes:
        areas: (truth tube, predicted tube) -> pixels, NOTHING for no segment.
        truth, predicted: the tubes, in the order in which the data set lists them.
    """

    areas: dict[tuple[Tube, Tube], int] = field(default_factory=dict)
    truth: dict[Tube, SegmentLabel] = field(default_factory=dict)
    predicted: dict[Tube, SegmentLabel] = field(default_factory=dict)

    @classmethod
    def of(cls, truth: PanopticMap, predicted: PanopticMap) -> "Overlaps":
        """Of one image."""
        pairs = truth.ids.astype(np.int64).ravel() << 32 | predicted.ids.ravel()
        starts, lengths = runs(pairs)
        keys, inverse = np.unique(pairs[starts], return_inverse=True)
        areas = np.bincount(inverse.ravel(), weights=lengths).astype(np.int64)

        def tube(one: PanopticMap, identity: int) -> Tube:
            return NOTHING if identity == VOID else (one.segments[identity].class_id, identity)

        return cls(
            {
                (tube(truth, key >> 32), tube(predicted, key & 0xFFFFFFFF)): area
                for key, area in zip(keys.tolist(), areas.tolist(), strict=True)
            },
            {tube(truth, identity): label for identity, label in truth.segments.items()},
            {tube(predicted, identity): label for identity, label in predicted.segments.items()},
        )

    def add(self, other: "Overlaps") -> None:
        """Adds the pixels of another frame; a tube of the same class and id goes on."""
        for pair, area in other.areas.items():
            self.areas[pair] = self.areas.get(pair, 0) + area
        for mine, theirs in ((self.truth, other.truth), (self.predicted, other.predicted)):
            for tube, label in theirs.items():
                mine.setdefault(tube, label)


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs of equal values in a 1-D array start, and how long they are."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if values.size else np.zeros(0, int)
    return starts, np.diff(starts, append=values.size)


def present(ids: np.ndarray) -> list[int]:
    """The ids that occur, in order, without VOID."""
    flat = ids.ravel()
    return [identity for identity in np.unique(flat[runs(flat)[0]]).tolist() if identity != VOID]
