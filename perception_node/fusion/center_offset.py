"""Fusion for networks with semantic, centre and offset heads: Panoptic-DeepLab (Cheng et al., CVPR 2020), section 3.5.

What it computes is, pixel for pixel, what detectron2's Panoptic-DeepLab post-processing does. In whole-array steps;
where order is free, the lower class id and the earlier pixel in row-major order win.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy


class CenterOffset:
    """Semantic logits, centre heatmap and offsets -> PanopticFrame.

    Args:
        taxonomy: the classes of the semantic logits.
        stride: input pixels for each output pixel.
        center_threshold: a centre's heatmap value is above this.
        nms_kernel: side, in image pixels, of the window in which a centre is the maximum.
        top_k: the most centres; the highest are kept.
        stuff_area: stuff classes with fewer pixels become unlabelled.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        stride: int,
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k: int = 200,
        stuff_area: int = 2048,
    ):
        self._thing = taxonomy.table("thing")
        self._stride = stride
        self._center_threshold, self._nms_kernel, self._top_k = center_threshold, nms_kernel, top_k
        self._stuff_area = stuff_area

    def __call__(self, outputs: Mapping[str, np.ndarray], geometry: Geometry) -> PanopticFrame:
        """Fuses one image's outputs.

        Args:
            outputs: float32 semantic (C, h, w) logits, center (1, h, w), offset (2, h, w) as (dy, dx) in input pixels
                from a pixel to the centre of its instance.
            geometry: how the image lay in the network's input.
        """
        class_map, confidence = self._classify(outputs["semantic"], geometry)
        instance_map = np.zeros(class_map.shape, np.uint16)
        things = np.flatnonzero(self._thing[class_map])
        centers = self._find_centers(outputs["center"][0], geometry)
        if len(centers):
            owners = self._group(things, centers, outputs["offset"], geometry)
            classes = class_map.ravel()[things]
            owners, classes = _vote(owners, classes)
            instance_map.ravel()[things] = owners
            class_map.ravel()[things] = classes
        else:
            class_map.ravel()[things] = UNLABELLED
        self._drop_small_stuff(class_map)
        confidence[class_map == UNLABELLED] = 0
        return PanopticFrame.from_maps(class_map, instance_map, confidence)

    def _upsample(self, plane: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Bilinear with half-pixel centres, edges clamped, from the outputs' resolution to the image's."""
        height, width = geometry.image_hw
        scale_y, scale_x = (self._stride * scale for scale in geometry.scale_yx)
        return cv2.resize(plane, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)[:height, :width]

    def _classify(self, semantic: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """uint8 class map and confidence. NaN never wins; a pixel with nothing above -inf stays unlabelled."""
        logits = [self._upsample(plane, geometry) for plane in semantic]
        class_map = np.full(geometry.image_hw, UNLABELLED, np.uint8)
        best = np.full(geometry.image_hw, -np.inf, np.float32)
        for class_id, plane in enumerate(logits):
            wins = plane > best
            np.copyto(class_map, np.uint8(class_id), where=wins)
            np.copyto(best, plane, where=wins)
        with np.errstate(invalid="ignore"):  # inf - inf where a logit is infinite: confidence 0
            total = sum(np.exp(plane - best) for plane in logits)
            confidence = np.nan_to_num(255 / total, nan=0.0).astype(np.uint8)
        return class_map, confidence

    def _find_centers(self, heatmap: np.ndarray, geometry: Geometry) -> np.ndarray:
        """int (K, 2) centres (y, x) in image pixels, in row-major order."""
        heatmap = self._upsample(heatmap, geometry)
        window = np.ones((self._nms_kernel, self._nms_kernel), np.uint8)
        peaks = np.flatnonzero((heatmap > self._center_threshold) & (heatmap == cv2.dilate(heatmap, window)))
        if len(peaks) > self._top_k:
            order = np.argsort(-heatmap.ravel()[peaks], kind="stable")
            peaks = np.sort(peaks[order[: self._top_k]])
        return np.stack(np.unravel_index(peaks, heatmap.shape), axis=1)

    def _group(self, things: np.ndarray, centers: np.ndarray, offset: np.ndarray, geometry: Geometry) -> np.ndarray:
        """int (N,): for each thing pixel (flat index) the index of the centre nearest to where its offset points."""
        ys, xs = np.divmod(things, geometry.image_hw[1])
        dy, dx = (
            self._upsample(plane, geometry).ravel()[things] * np.float32(scale)
            for plane, scale in zip(offset, geometry.scale_yx, strict=True)
        )
        ys, xs = ys + dy, xs + dx
        nearest = np.zeros(len(things), np.int64)
        least = np.full(len(things), np.inf, np.float32)
        for index, (y, x) in enumerate(centers):
            distance = (ys - y) ** 2 + (xs - x) ** 2
            closer = distance < least
            nearest[closer] = index
            least[closer] = distance[closer]
        return nearest

    def _drop_small_stuff(self, class_map: np.ndarray) -> None:
        areas = np.bincount(class_map.ravel(), minlength=256)
        small = (areas > 0) & (areas < self._stuff_area) & ~self._thing
        small[UNLABELLED] = False
        for class_id in np.flatnonzero(small):
            class_map[class_map == class_id] = UNLABELLED


def _vote(owners: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives every pixel of an instance the class that most of its pixels have.

    Args:
        owners: int (N,), each pixel's centre.
        classes: uint8 (N,), each pixel's class.

    Returns:
        Instance ids (N,), 1, 2, ... in the order of their centres, those without pixels left out; classes (N,).
    """
    votes = np.bincount(owners * 256 + classes, minlength=0)
    votes = np.pad(votes, (0, -len(votes) % 256)).reshape(-1, 256)
    has_pixels = votes.any(axis=1)
    ids = np.cumsum(has_pixels)
    return ids[owners], votes.argmax(axis=1)[owners]
