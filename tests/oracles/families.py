"""The families side by side: kernel and oracle of each, and what it means that they agree."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from oracles import center_offset, instance_semantic, mask_classification, prototype, semantic
from perception_node.device.cpu import CpuDevice
from perception_node.fusion.base import Fusion
from perception_node.fusion.center_offset import CenterOffset
from perception_node.fusion.instance_semantic import InstanceSemantic
from perception_node.fusion.mask_classification import MaskClassification
from perception_node.fusion.prototype import Prototype
from perception_node.fusion.semantic import Semantic
from perception_node.panoptic import MAX_INSTANCES, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


@dataclasses.dataclass(frozen=True)
class Family:
    """A family's kernels and its oracle."""

    fusion: type[Fusion]
    oracle: Callable[..., PanopticFrame]

    def fuse(
        self,
        outputs: Mapping[str, np.ndarray],
        geometry: Geometry,
        taxonomy: Taxonomy,
        stride: float | tuple[float, float] = 1,
        threads: int = 1,
        pixels_per_thread: int = CpuDevice.pixels_per_thread,
        **options,
    ) -> PanopticFrame:
        """The kernels' frame, which keeps the three rules. With one pixel a thread they work as on a GPU."""
        device = CpuDevice(threads)
        device.pixels_per_thread = pixels_per_thread
        frame = self.fusion(device, taxonomy, stride, **options)(outputs, geometry)
        assert frame.class_map.shape == geometry.image_hw
        frame.check(set(taxonomy.thing_ids))
        return frame


FAMILIES = {
    "center_offset": Family(CenterOffset, center_offset.fuse),
    "mask_classification": Family(MaskClassification, mask_classification.fuse),
    "instance_semantic": Family(InstanceSemantic, instance_semantic.fuse),
    "prototype": Family(Prototype, prototype.fuse),
    "semantic": Family(Semantic, semantic.fuse),
}


def different(frame: PanopticFrame, expected: PanopticFrame) -> int:
    """Pixels whose class differs, or whose instance is not the one that it mostly covers: ids may be others."""
    pairs = frame.instance_map.astype(np.int64) << 16 | expected.instance_map
    found, areas = np.unique(pairs, return_counts=True)
    matches = np.zeros(MAX_INSTANCES + 1, np.int64)
    order = np.argsort(areas)  # the most frequent partner comes last, and stays
    matches[found[order] >> 16] = found[order] & 0xFFFF
    instances = matches[frame.instance_map] != expected.instance_map
    return int(np.count_nonzero(instances | (frame.class_map != expected.class_map)))


def assert_same(frame: PanopticFrame, expected: PanopticFrame) -> None:
    """Same labels and segments; confidences may differ by one step of rounding."""
    np.testing.assert_array_equal(frame.class_map, expected.class_map)
    np.testing.assert_array_equal(frame.instance_map, expected.instance_map)
    np.testing.assert_allclose(frame.confidence.astype(int), expected.confidence, rtol=0, atol=1)
    exact = [[(s.id, s.class_id, s.area, s.box_xyxy) for s in each.segments] for each in (frame, expected)]
    assert exact[0] == exact[1]
    scores, centroids = (
        [[getattr(s, name) for s in each.segments] for each in (frame, expected)] for name in ("score", "centroid_xy")
    )
    np.testing.assert_allclose(*scores, rtol=0, atol=1 / 255)
    np.testing.assert_allclose(*centroids, rtol=1e-9)
