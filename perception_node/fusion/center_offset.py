"""Networks with semantic, centre and offset heads: Panoptic-DeepLab (Cheng et al., CVPR 2020), section 3.5.

What it computes is, pixel for pixel, what detectron2's Panoptic-DeepLab post-processing does, except that all top_k
centres are kept (detectron2 drops the last and what ties with it). Where order is open, the lower class id and the
earlier pixel in row-major order win. The work is in kernels/center_offset.cu.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from perception_node.device import Array, Device
from perception_node.fusion.base import Fusion, Input
from perception_node.taxonomy import Taxonomy

BIN = 32  # as in center_offset.cu
BIN_BYTES = 4 * 32


def window_radii(kernel: int, scale_yx: tuple[float, float]) -> tuple[int, int]:
    """Image pixels from the middle to the edge of the window of `kernel` input pixels, down and across."""
    return tuple(max(int(kernel > 1), int(kernel * scale / 2)) for scale in scale_yx)


class CenterOffset(Fusion):
    """Semantic logits, centre heatmap and offsets -> PanopticFrame.

    Outputs: semantic (C, h, w) logits, center (1, h, w), offset (2, h, w) as (dy, dx) in input pixels from a pixel to
    the centre of its instance and, if the network has it, foreground (1, h, w) logits: things are where it is above 0.

    Args:
        device, taxonomy, stride: see Fusion.
        center_threshold: a centre's heatmap value is above this.
        nms_kernel: side, in input pixels, of the window in which a centre is the maximum. (In image pixels it would be
            too small for an image larger than the input, and one object would get several centres.)
        top_k: the most centres; the highest are kept.
        stuff_area: stuff classes with fewer pixels become unlabelled.
    """

    source = "center_offset.cu"
    inputs: ClassVar = {
        "semantic": Input("C h w"),
        "center": Input("1 h w"),
        "offset": Input("2 h w"),
        "foreground": Input("1 h w", optional=True),
    }

    def __init__(
        self,
        device: Device,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float],
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k: int = 200,
        stuff_area: int = 2048,
    ):
        super().__init__(device, taxonomy, stride)
        self._center_threshold, self._nms_kernel, self._top_k = center_threshold, nms_kernel, top_k
        self._stuff_area = stuff_area

    def candidates(self, outputs: Mapping[str, Array]) -> int:
        height, width = self.image_hw
        return min(self._top_k, height * width)

    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        height, width = self.image_hw
        self._bins_yx = -(-height // BIN), -(-width // BIN)
        cleared = {
            "marks": (-(-height * width // 32), np.uint32),
            "peak_count": (1, np.uint32),
            "votes": ((self.owners, len(self.taxonomy)), np.uint32),
        }
        other = {
            "peaks": (height * width, np.uint64),
            "centers": ((self.owners, 2), np.int32),
            "center_count": (1, np.uint32),
            "bins": ((*self._bins_yx, BIN_BYTES), np.uint8),
        }
        return cleared, other

    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        kernels, counters, scratch, result = self.kernels, self.counters, self.scratch, self.result
        rows, columns = self.rows.argument, self.columns.argument
        classes = len(self.taxonomy)
        marks, peaks, peak_count = counters["marks"], scratch["peaks"], counters["peak_count"]
        centers, center_count, area = scratch["centers"], scratch["center_count"], counters["area"]
        class_map, owners = result["class_map"], result["ids"]

        semantic, heatmap = outputs["semantic"], outputs["center"]
        self.classify(semantic)
        self.device.zero(owners)
        limits = float(self._center_threshold), *window_radii(self._nms_kernel, self.scale_yx)
        kernels.each("find_centers", self.tiles, heatmap, rows, columns, *limits, marks, peaks, peak_count)
        kernels.block("cut_centers", peaks, peak_count, self.owners, marks)
        kernels.block("list_marked", marks, marks.shape[0], self.image_hw[1], self.owners, centers, center_count)
        bins = (*self._bins_yx, scratch["bins"])
        kernels.each("bin_centers", self._bins_yx[0] * self._bins_yx[1], centers, center_count, *bins)
        kernels.each(
            "group",
            self.tiles,
            outputs["offset"],
            outputs.get("foreground"),
            rows,
            columns,
            *map(float, self.scale_yx),
            *self.shortlists[1:],
            self.thing,
            classes,
            centers,
            center_count,
            *bins,
            class_map,
            owners,
            counters["votes"],
        )
        # Stuff joins instances only where the network says what is foreground.
        self.keep_stuff(self._stuff_area, area if outputs.get("foreground") is None else self.measure_free())
        kernels.block(
            "vote",
            counters["votes"],
            center_count,
            classes,
            result["owner_class"],
            result["owner_id"],
        )
