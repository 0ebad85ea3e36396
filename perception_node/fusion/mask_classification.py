"""Networks that answer with queries, each a class and a mask: MaskFormer and its kin.

That is Mask2Former, OneFormer, YOSO, PEM, EoMT, kMaX-DeepLab. Three published ways to make one map of them; see
MaskClassification. The work is in kernels/mask_classification.cu.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from perception_node.device import Array, Device
from perception_node.errors import UserError
from perception_node.fusion.base import STRIP, Fusion, Input
from perception_node.fusion.sampling import CELLS, Axis
from perception_node.taxonomy import Taxonomy

BLOCK_SIDE = CELLS + 1  # samples; SIDE in mask_classification.cu
VARIANTS = ("mask2former", "transformers", "kmax")


class MaskClassification(Fusion):
    """Class logits and mask logits of queries -> PanopticFrame.

    Outputs: class_logits (Q, C + 1), the last for "no object"; mask_logits (Q, h, w).

    Variants:
        mask2former: of the queries whose best class is real and above score_threshold, a pixel goes to the one with the
            highest score * sigmoid(mask), if that sigmoid is at least 0.5 (Cheng et al., CVPR 2022, and its kin).
        transformers: as the library of that name: masks are first resized to a square of mask_size, the product is
            compared with 0.5, and a pixel goes to the highest product whatever it is.
        kmax: softmax of the masks over the queries; queries in the order of class score * mean mask take the pixels
            where theirs is above pixel_confidence (kMaX-DeepLab, Yu et al., ECCV 2022).
    A query stays if what it got is at least (transformers, kmax: more than) overlap_threshold of its whole mask. Stuff
    of one class is one segment.

    Args:
        device, taxonomy, stride: see Fusion.
        variant: one of VARIANTS.
        score_threshold: a query's class score is above this; None is the variant's, 0.8 or, transformers, 0.5.
        overlap_threshold: see above.
        count_uncovered: mask2former: pixels that a query won without covering them (sigmoid below 0.5) count for its
            overlap_threshold, as in the published code; they stay unlabelled.
        mask_size: transformers: side of the square.
        pixel_confidence: kmax; above 1/3, so that at most two queries claim a pixel.
        thing_threshold, stuff_threshold: kmax: a query's class score is above this.

    Raises:
        UserError: there is no such variant, or pixel_confidence is too low.
    """

    source = "mask_classification.cu"
    inputs: ClassVar = {"class_logits": Input("Q C+1"), "mask_logits": Input("Q h w")}
    competing = "mask_logits"

    def __init__(
        self,
        device: Device,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float],
        variant: str = "mask2former",
        score_threshold: float | None = None,
        overlap_threshold: float = 0.8,
        count_uncovered: bool = False,
        mask_size: int = 384,
        pixel_confidence: float = 0.4,
        thing_threshold: float = 0.7,
        stuff_threshold: float = 0.5,
    ):
        super().__init__(device, taxonomy, stride)
        if variant not in VARIANTS:
            raise UserError(f"variant {variant!r}: expected: one of {', '.join(VARIANTS)}")
        if not pixel_confidence > 1 / 3:
            raise UserError(f"pixel_confidence {pixel_confidence}: expected: above 1/3, e.g. 0.4")
        if score_threshold is None:
            score_threshold = 0.5 if variant == "transformers" else 0.8
        self._class_thresholds = (thing_threshold, stuff_threshold) if variant == "kmax" else (score_threshold,) * 2
        self._variant, self._overlap_threshold, self._mask_size = variant, overlap_threshold, mask_size
        self._pixel_confidence, self._count_uncovered = pixel_confidence, count_uncovered

    def defines(self) -> dict[str, str | int]:
        return {self._variant.upper(): 1}

    def plane(self, outputs: Mapping[str, Array]) -> tuple[int, int]:
        return (self._mask_size,) * 2 if self._variant == "transformers" else super().plane(outputs)

    def candidates(self, outputs: Mapping[str, Array]) -> int:
        return outputs["class_logits"].shape[0]

    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        queries, stripes, side = self.owners, self.stripes, self._mask_size
        other = {
            "label": (queries, np.uint8),
            "score": (queries, np.float32),
            "keep": (queries, np.uint8),
            "slots": (queries, np.int32),
            "count": (1, np.uint32),
        }
        if self._variant == "kmax":
            cleared = {"claims": ((stripes, queries, 2), np.uint64), "overlaps": ((queries, queries), np.uint32)}
            other |= {
                "second": (self.image_hw, np.uint16),
                "second_confidence": (self.image_hw, np.uint8),
                "order_score": (queries, np.float32),
                "order": (queries, np.int32),
                "rank": (queries, np.int32),
            }
            return cleared, other
        if self._variant == "transformers":
            other["resized"] = ((self.blocks, queries, BLOCK_SIDE, BLOCK_SIDE), np.float32)
            height, width = outputs["mask_logits"].shape[-2:]
            self._square_axes = (
                Axis(self.device, side, height, side / height, 1, 1),
                Axis(self.device, side, width, side / width, 1, 1),
            )
        return {"areas": ((stripes, queries, 3), np.uint32)}, other

    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        kernels, scratch, result = self.kernels, self.scratch, self.result
        queries, label, score, keep = self.owners, scratch["label"], scratch["score"], scratch["keep"]
        slots, count = scratch["slots"], scratch["count"]
        owner_class, owner_score = result["owner_class"], result["owner_score"]
        things_above, stuff_above = map(float, self._class_thresholds)
        logits, classes = outputs["class_logits"], len(self.taxonomy)
        above = things_above, stuff_above
        kernels.each("score_queries", queries, logits, queries, classes, self.thing, *above, label, score, keep)
        kernels.block("list_queries", label, score, keep, queries, slots, count, owner_class, owner_score)
        self.device.zero(scratch["kept"])  # every pixel's class comes with its owner
        masks, resizes = outputs["mask_logits"], self._variant == "transformers"
        ranges, *shortlists = self.shortlists
        axes = self._square_axes if resizes else (self.rows, self.columns)
        rows, columns = (axis.argument for axis in axes)
        survey = "survey_resized" if resizes else "survey"
        kernels.each(survey, queries * self.blocks, masks, slots, count, queries, rows, columns, ranges)
        kernels.each("shortlist_queries", self.blocks, ranges, count, queries, self.blocks, owner_score, *shortlists)
        if self._variant == "kmax":
            self._contest(masks)
            return
        if resizes:
            resized, lines = scratch["resized"], self.blocks * BLOCK_SIDE
            kernels.each("resize_masks", lines, masks, slots, queries, rows, columns, *shortlists, resized)
            masks = resized
        kernels.each(
            "pick",
            self.tiles,
            masks,
            slots,
            queries,
            self.rows.argument,
            self.columns.argument,
            *shortlists,
            owner_score,
            result["ids"],
            result["class_map"],
            result["confidence"],
            self.counters["areas"],
        )
        kernels.block(
            "judge",
            self.counters["areas"],
            count,
            queries,
            np.float64(self._overlap_threshold),
            int(self._count_uncovered),
            self.thing,
            owner_score,
            owner_class,
            result["owner_id"],
            result["class_score"],
        )

    def _contest(self, masks: Array) -> None:
        kernels, scratch, result, queries = self.kernels, self.scratch, self.result, self.owners
        claims, overlaps = self.counters["claims"], self.counters["overlaps"]
        second, second_confidence = scratch["second"], scratch["second_confidence"]
        owners, confidence = result["ids"], result["confidence"]
        kernels.each(
            "contest",
            self.tiles,
            masks,
            queries,
            self.rows.argument,
            self.columns.argument,
            float(self._pixel_confidence),
            *self.shortlists[1:],
            owners,
            second,
            confidence,
            second_confidence,
            claims,
            overlaps,
        )
        kernels.block(
            "judge_contest",
            claims,
            overlaps,
            scratch["keep"],
            queries,
            np.float64(self._overlap_threshold),
            self.thing,
            result["owner_score"],
            scratch["order_score"],
            scratch["order"],
            scratch["rank"],
            result["owner_class"],
            result["owner_id"],
            result["class_score"],
        )
        pixels = self.image_hw[0] * self.image_hw[1]
        kernels.each(
            "resolve",
            -(-pixels // STRIP),
            pixels,
            scratch["rank"],
            queries,
            second,
            second_confidence,
            owners,
            confidence,
            result["class_map"],
        )

    def scores(self, result: dict[str, np.ndarray], present: np.ndarray) -> np.ndarray:
        """The query's score; a stuff class has the best one of its queries."""
        return np.concatenate([result["class_score"], result["owner_score"]])[present]
