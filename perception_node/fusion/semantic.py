"""Any semantic segmentation network; its thing classes become instances only as connected components, if wanted."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from perception_node.device import Array, Device
from perception_node.fusion.base import STRIP, Fusion, Input
from perception_node.panoptic import MAX_INSTANCES
from perception_node.taxonomy import Taxonomy


class Semantic(Fusion):
    """Class logits -> PanopticFrame: the likeliest class or, of a network with one class, that one where p > 0.5.

    A panoptic frame has no thing without an instance: thing classes are unlabelled, or one instance for each
    8-connected component, in the order of their first pixels.

    Args:
        device, taxonomy, stride: see Fusion.
        components: make instances of the connected components of thing classes.
        stuff_area: stuff classes with fewer pixels become unlabelled.
    """

    source = "semantic.cu"
    inputs: ClassVar = {"semantic": Input("C h w")}

    def __init__(
        self,
        device: Device,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float],
        components: bool = False,
        stuff_area: int = 0,
    ):
        super().__init__(device, taxonomy, stride)
        self._components, self._stuff_area = components, stuff_area

    def candidates(self, outputs: Mapping[str, Array]) -> int:
        height, width = self.image_hw
        return min(MAX_INSTANCES, height * width) if self._components else 0

    def buffers(self, outputs: Mapping[str, Array]) -> tuple[dict, dict]:
        if not self._components:
            return {}, {}
        pixels = self.image_hw[0] * self.image_hw[1]
        return {}, {
            "marks": (-(-pixels // 32), np.uint32),
            "parent": (pixels, np.uint32),
            "points": ((self.owners, 2), np.int32),
            "count": (1, np.uint32),
        }

    def enqueue(self, outputs: Mapping[str, Array]) -> None:
        self.classify(outputs["semantic"])
        self.keep_stuff(self._stuff_area, self.counters["area"])
        self.device.zero(self.result["ids"])
        if self._components:
            self._find_components()

    def _find_components(self) -> None:
        kernels, scratch, result = self.kernels, self.scratch, self.result
        height, width = self.image_hw
        class_map, owners = result["class_map"], result["ids"]
        parent, marks, points, count = (scratch[name] for name in ("parent", "marks", "points", "count"))
        strips = height * -(-width // STRIP)
        kernels.each("start_components", strips, class_map, self.thing, height, width, parent)
        kernels.each("join_components", strips, class_map, self.thing, height, width, parent)
        kernels.each("mark_components", marks.shape[0], height * width, parent, marks)
        kernels.block("list_marked", marks, marks.shape[0], width, self.owners, points, count)
        kernels.each(
            "number_components",
            self.owners,
            points,
            count,
            self.owners,
            width,
            class_map,
            owners,
            result["owner_class"],
            result["owner_id"],
        )
        kernels.each("spread_components", -(-height * width // STRIP), height * width, parent, owners)
