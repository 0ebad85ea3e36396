"""Networks with overlapping instance masks and a semantic map: Mask R-CNN with a semantic branch, Panoptic FPN,
EfficientPS. Combined as in Kirillov et al. (CVPR 2019), section 4; the work is in kernels/instance_semantic.cu.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perception_node.device import Array, Device
from perception_node.fusion.base import STRIP, Fusion, Input
from perception_node.taxonomy import Taxonomy


class Overlapping(Fusion):
    """What families with overlapping instance masks have in common: see kernels/instances.cuh.

    Args:
        device, taxonomy, stride: see Fusion.
        score_threshold: instances with a lower score are left out.
        overlap_threshold: an instance is skipped if more than this share of it is covered by those with higher scores.
        stuff_area: stuff classes with fewer pixels, of those that no instance has, become unlabelled.
    """

    def __init__(
        self,
        device: Device,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float],
        score_threshold: float = 0.5,
        overlap_threshold: float = 0.5,
        stuff_area: int = 4096,
    ):
        super().__init__(device, taxonomy, stride)
        self._score_threshold, self._overlap_threshold = score_threshold, overlap_threshold
        self._stuff_area = stuff_area

    def mask_buffers(self) -> tuple[dict, dict]:
        """What the masks need, cleared and not, for `owners` instances."""
        height, width = self.image_hw
        words, instances = -(-width // 32), max(1, self.owners)
        cleared = {
            "count": (1, np.uint32),
            "mask_area": (instances, np.uint32),
            "painted": ((height, words), np.uint32),
        }
        other = {
            "order": (instances, np.int32),
            "bits": ((instances, height, words), np.uint32),
            "extents": ((instances, 4), np.int32),
        }
        return cleared, other

    def paste(self, kernel: str, *arguments: Any) -> None:
        """Starts a kernel that makes the masks' bits, extents and areas."""
        height = self.image_hw[0]
        masks = self.scratch["bits"], self.scratch["extents"], self.counters["mask_area"]
        self.kernels.each(kernel, self.owners * height, *arguments, masks[0].shape[2], *masks)

    def combine(self, semantic: Array | None) -> None:
        """Starts what makes maps of the masks and, where there are any, the class logits."""
        kernels, counters, scratch, result = self.kernels, self.counters, self.scratch, self.result
        height, width = self.image_hw
        class_map, confidence, owners = result["class_map"], result["confidence"], result["ids"]
        bits, extents, count = scratch["bits"], scratch["extents"], counters["count"]
        owner_id, words = result["owner_id"], bits.shape[2]
        if semantic is None:
            kernels.each("blank", -(-height * width // STRIP), height * width, class_map, confidence)
        else:
            self.classify(semantic)
        self.device.zero(owners)
        if self.owners:
            overlap = np.float64(self._overlap_threshold)
            mask_area, painted = counters["mask_area"], counters["painted"]
            kernels.block("paint", bits, extents, mask_area, count, height, words, overlap, painted, owner_id)
            shown = owner_id, result["owner_score"], owners, confidence
            kernels.each("own", self.owners * height, bits, extents, count, self.owners, height, width, words, *shown)
        self.keep_stuff(self._stuff_area, self.measure_free())

    def scores(self, result: dict[str, np.ndarray], present: np.ndarray) -> np.ndarray:
        """The instance's score; of stuff the mean confidence of its pixels."""
        instance_scores = result["owner_score"][np.where(present >= 256, present - 256, 0)]
        return np.where(present >= 256, instance_scores, super().scores(result, present))


class InstanceSemantic(Overlapping):
    """Instance masks and class logits -> PanopticFrame.

    Outputs: classes (N,), scores (N,), semantic (C, h, w) logits and masks, in one of three forms: masks28 (N, 28, 28)
    probabilities (or of another size) within boxes (N, 4), xyxy in input pixels; masks (N, h', w') probabilities of the
    whole input; masks (N, H, W) uint8 of the image's pixels. Instances whose class is no thing are left out.

    Args:
        device, taxonomy, stride, score_threshold, overlap_threshold, stuff_area: see Overlapping.
    """

    source = "instance_semantic.cu"
    inputs: ClassVar = {
        "semantic": Input("C h w"),
        "classes": Input("N", "int32"),
        "scores": Input("N", "float32"),
        "boxes": Input("N 4", "float32", optional=True),
        "masks28": Input("N mh mw", optional=True),
        "masks": Input("N H W", optional=True),
    }

    def candidates(self, outputs: Mapping[str, Array]) -> int:
        return outputs["scores"].shape[0]

    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        masks = outputs.get("masks")
        if masks is not None and masks.dtype.kind == "f":
            self._mask_axes = self.axes(masks.shape[-2:])
        return self.mask_buffers()

    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        scratch, result = self.scratch, self.result
        height, width = self.image_hw
        order, count = scratch["order"], self.counters["count"]
        if self.owners:
            self.kernels.each(
                "order_instances",
                self.owners,
                outputs["classes"],
                outputs["scores"],
                self.owners,
                self.thing,
                len(self.taxonomy),
                float(self._score_threshold),
                order,
                count,
                result["owner_class"],
                result["owner_score"],
            )
            instances = order, count, self.owners
            masks = outputs.get("masks")
            if masks is None:
                masks, boxes, scale_yx = outputs["masks28"], outputs["boxes"], map(float, self.scale_yx)
                self.paste("paste_boxed", masks, *masks.shape[1:], boxes, *instances, *scale_yx, height, width)
            elif masks.dtype.kind == "f":
                rows, columns = (axis.argument for axis in self._mask_axes)
                self.paste("paste_planes", masks, *instances, rows, columns)
            else:
                self.paste("paste_whole", masks, *instances, height, width)
        self.combine(outputs["semantic"])
