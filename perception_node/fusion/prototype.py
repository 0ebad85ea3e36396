"""Networks with boxes, mask coefficients and mask prototypes: YOLACT (Bolya et al., ICCV 2019), YOLOv8-seg and later.

The masks are combined as overlapping instances (Kirillov et al., CVPR 2019); the work is in kernels/prototype.cu.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from perception_node.device import Array, Device
from perception_node.fusion.base import Input
from perception_node.fusion.instance_semantic import Overlapping
from perception_node.panoptic import UNLABELLED
from perception_node.taxonomy import Taxonomy

CANDIDATES = 4096
"""Boxes that are considered at most: of more, those with the lowest index."""


class Prototype(Overlapping):
    """Boxes, scores, mask coefficients and prototypes -> PanopticFrame.

    Outputs: boxes (N, 4), xyxy in input pixels; scores (N, S) of all C classes, or of the thing classes alone, in
    order; coefficients (N, k), prototypes (k, h, w) and, if the network has it, semantic (C, h, w) logits: without it
    what is outside all instances is unlabelled.

    A box is of its best thing class. Of boxes of one class that overlap, the one with the highest score stays. A mask
    is where sigmoid(coefficients x prototypes) is at least 0.5, within the box.

    Args:
        device, taxonomy, stride, score_threshold, overlap_threshold, stuff_area: see Overlapping.
        nms_threshold: boxes whose intersection over union is above this overlap; None for networks without duplicates.
        max_instances: the most that are painted; the highest scores.
    """

    source = "prototype.cu"
    inputs: ClassVar = {
        "semantic": Input("C h w", optional=True),
        "prototypes": Input("k h w"),
        "boxes": Input("N 4", "float32"),
        "scores": Input("N S", "float32"),
        "coefficients": Input("N k", "float32"),
    }

    def __init__(
        self,
        device: Device,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float],
        score_threshold: float = 0.5,
        nms_threshold: float | None = 0.5,
        overlap_threshold: float = 0.5,
        stuff_area: int = 4096,
        max_instances: int = 300,
    ):
        super().__init__(device, taxonomy, stride, score_threshold, overlap_threshold, stuff_area)
        self._nms_threshold, self._max_instances = nms_threshold, max_instances

    def candidates(self, outputs: Mapping[str, Array]) -> int:
        return min(self._max_instances, outputs["boxes"].shape[0])

    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        boxes, columns = outputs["scores"].shape
        things = self.taxonomy.table("thing")[: len(self.taxonomy)]
        column_class = np.where(things, np.arange(len(things)), UNLABELLED)
        if columns != len(self.taxonomy):
            column_class = np.flatnonzero(things)
        if columns != len(column_class):
            raise ValueError(
                f"scores has {columns} columns; expected: {len(things)}, one for each class, "
                f"or {things.sum()}, one for each thing class"
            )
        self._column_class = self.device.upload(column_class.astype(np.uint8))
        self._limit = limit = max(1, min(CANDIDATES, boxes))
        words = -(-limit // 32)
        cleared, other = self.mask_buffers()
        cleared |= {"marks": (max(1, -(-boxes // 32)), np.uint32), "removed": (words, np.uint32)}
        other |= {
            "label": (max(1, boxes), np.uint8),
            "score": (max(1, boxes), np.float32),
            "points": ((limit, 2), np.int32),
            "listed": (1, np.uint32),
            "candidates": (limit, np.int32),
            "overlaps": ((limit, words), np.uint32),
            "blended": ((max(1, self.owners), *outputs["prototypes"].shape[-2:]), np.float32),
        }
        return cleared, other

    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        if self.owners:
            self._choose(outputs["boxes"], outputs["scores"])
            self._paste(outputs["boxes"], outputs["coefficients"], outputs["prototypes"])
        self.combine(outputs.get("semantic"))

    def _choose(self, boxes: Array, scores: Array) -> None:
        kernels, counters, scratch, result = self.kernels, self.counters, self.scratch, self.result
        number, columns = scores.shape
        label, score, candidates = scratch["label"], scratch["score"], scratch["candidates"]
        listed, limit, removed = scratch["listed"], self._limit, counters["removed"]
        marks, threshold = counters["marks"], float(self._score_threshold)
        kernels.each("score_boxes", number, scores, number, columns, self._column_class, threshold, label, score, marks)
        kernels.block("list_marked", marks, marks.shape[0], number, limit, scratch["points"], listed)
        kernels.each("order_boxes", limit, scratch["points"], listed, limit, score, candidates)
        if self._nms_threshold is not None:
            overlaps, threshold = scratch["overlaps"], float(self._nms_threshold)
            words = limit * overlaps.shape[1]
            kernels.each("compare_boxes", words, boxes, label, candidates, listed, limit, threshold, overlaps)
            kernels.block("suppress_boxes", overlaps, listed, limit, removed)
        kernels.block(
            "take_boxes",
            candidates,
            listed,
            removed,
            self.owners,
            label,
            score,
            scratch["order"],
            counters["count"],
            result["owner_class"],
            result["owner_score"],
        )

    def _paste(self, boxes: Array, coefficients: Array, prototypes: Array) -> None:
        instances = self.scratch["order"], self.counters["count"], self.owners
        k, height, width = prototypes.shape
        per_yx = (scale / up for scale, up in zip(self.scale_yx, self.upscale_yx, strict=True))
        blended = self.scratch["blended"]
        self.kernels.each(
            "blend_prototypes",
            self.owners * height,
            coefficients,
            prototypes,
            k,
            height,
            width,
            boxes,
            *map(float, per_yx),
            *instances,
            blended,
        )
        axes = self.rows.argument, self.columns.argument
        self.paste("paste_prototypes", blended, boxes, *map(float, self.scale_yx), *instances, *axes)
