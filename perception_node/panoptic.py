"""PanopticFrame and Segment: what every fusion family yields and every output is made from."""

from dataclasses import dataclass

import numpy as np

UNLABELLED = 255
"""Value of the class map where no class applies; hence class ids are 0..254."""

MAX_INSTANCES = 65535
"""Instance ids are 1..65535, so that a map of them is an image of 16-bit pixels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One thing instance, or all pixels of one stuff class.

    Attributes:
        id: the pixels' value in the instance map, 1..65535; 0 for stuff.
        class_id: the pixels' value in the class map.
        score: 0..1; the mean confidence of the pixels, or the network's own score of the instance.
        area: number of pixels.
        box_xyxy: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        centroid_xy: mean pixel coordinates; the middle of the top left pixel is (0, 0).
    """

    id: int
    class_id: int
    score: float
    area: int
    box_xyxy: tuple[int, int, int, int]
    centroid_xy: tuple[float, float]

    @property
    def is_thing(self) -> bool:
        return self.id != 0


@dataclass(frozen=True, slots=True)
class PanopticFrame:
    """The panoptic segmentation of one image, at the image's own resolution.

    Attributes:
        class_map: uint8 (H, W), class id, UNLABELLED (255) where none applies.
        instance_map: uint16 (H, W), the id of the pixel's instance, 0 for stuff and unlabelled pixels.
        confidence: uint8 (H, W), the probability of the pixel's likeliest class times 255; 0 if unlabelled.
        segments: one for each instance and each stuff class present; stuff first, by class id, then things, by id.
    """

    class_map: np.ndarray
    instance_map: np.ndarray
    confidence: np.ndarray
    segments: tuple[Segment, ...]

    @property
    def instances(self) -> tuple[Segment, ...]:
        """The thing segments."""
        return tuple(segment for segment in self.segments if segment.is_thing)

    def without_below(self, score: float) -> "PanopticFrame":
        """The frame without the instances of a lower score: their pixels are unlabelled. The others keep their ids."""
        dropped = [segment.id for segment in self.instances if segment.score < score]
        if not dropped:
            return self
        is_dropped = np.zeros(MAX_INSTANCES + 1, bool)
        is_dropped[dropped] = True
        pixels = is_dropped[self.instance_map]
        maps = self.class_map.copy(), self.instance_map.copy(), self.confidence.copy()
        for array, value in zip(maps, (UNLABELLED, 0, 0), strict=True):
            array[pixels] = value
        return PanopticFrame(*maps, tuple(segment for segment in self.segments if segment.id not in dropped))

    @classmethod
    def from_maps(cls, class_map: np.ndarray, instance_map: np.ndarray, confidence: np.ndarray) -> "PanopticFrame":
        """Measures the segments of finished maps; scores are the mean confidence."""
        return cls(class_map, instance_map, confidence, _measure(class_map, instance_map, confidence))

    def check(self, thing_class_ids: set[int]) -> None:
        """Raises ValueError, naming the segment, where the frame breaks a rule of panoptic segmentation.

        The rules (Kirillov et al. 2019, section 3.1): a pixel has exactly one class and instance or is unlabelled;
        different instances have different ids; stuff has no instance id.
        """
        for name, dtype in (("class_map", np.uint8), ("instance_map", np.uint16), ("confidence", np.uint8)):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != self.class_map.shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype.__name__} {self.class_map.shape}")
        pairs, areas = np.unique(self.class_map.astype(np.uint32) << 16 | self.instance_map, return_counts=True)
        in_maps = {(int(p) >> 16, int(p) & 0xFFFF): int(area) for p, area in zip(pairs, areas, strict=True)}
        in_maps.pop((UNLABELLED, 0), None)
        in_table = {(segment.class_id, segment.id): segment.area for segment in self.segments}
        if len(in_table) != len(self.segments) or in_table != in_maps:
            raise ValueError(f"areas by (class, id): the segments say {in_table}, the maps {in_maps}")
        for class_id, instance_id in in_maps:
            if (class_id in thing_class_ids) != (instance_id != 0):
                raise ValueError(f"class {class_id} has instance id {instance_id}; things have one, others have 0")
        ids = [instance_id for _, instance_id in in_maps if instance_id]
        if len(ids) != len(set(ids)):
            raise ValueError(f"an instance id stands for two segments: {sorted(in_maps)}")


def _measure(class_map: np.ndarray, instance_map: np.ndarray, confidence: np.ndarray) -> tuple[Segment, ...]:
    height, width = class_map.shape
    # One key for each pixel: the class where there is no instance, 256 and up for instances.
    keys = np.where(instance_map > 0, instance_map.astype(np.int64) + UNLABELLED, class_map)
    present = np.flatnonzero(np.bincount(keys.ravel()))
    present = present[present != UNLABELLED]
    number = np.full(keys.max() + 1, len(present))  # unlabelled pixels come last and are cut off
    number[present] = np.arange(len(present))
    keys = number[keys]

    def histogram(positions: np.ndarray, n: int) -> np.ndarray:
        return np.bincount((keys * n + positions).ravel(), minlength=(len(present) + 1) * n).reshape(-1, n)

    in_rows = histogram(np.arange(height)[:, None], height)
    in_columns = histogram(np.arange(width), width)
    confidences = np.bincount(keys.ravel(), weights=confidence.ravel(), minlength=len(present))
    segments = []
    for index, key in enumerate(present):
        rows, columns, area = in_rows[index], in_columns[index], in_rows[index].sum()
        y, x = np.flatnonzero(rows), np.flatnonzero(columns)
        first_pixel = np.argmax(keys[y[0]] == index)
        segments.append(
            Segment(
                id=max(0, int(key) - UNLABELLED),
                class_id=int(class_map[y[0], first_pixel]),
                score=float(confidences[index] / (255 * area)),
                area=int(area),
                box_xyxy=(int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1),
                centroid_xy=(float(columns @ np.arange(width) / area), float(rows @ np.arange(height) / area)),
            )
        )
    return tuple(segments)
