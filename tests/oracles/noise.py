"""Random outputs of any size for every family and variant, with thresholds low enough that noise makes segments."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from oracles.families import FAMILIES
from perception_node.panoptic import PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Category, Taxonomy

THINGS = (2, 3, 4)
TAXONOMY = Taxonomy([Category(i, f"class {i}", (i, i, i), thing=i in THINGS) for i in range(5)])
ONE_CLASS = Taxonomy([Category(0, "drivable", (0, 0, 0))])
CLASSES = len(TAXONOMY)

Outputs = dict[str, np.ndarray]
Maker = Callable[[np.random.Generator, tuple[int, int], Geometry, float], Outputs]


@dataclasses.dataclass(frozen=True)
class Mode:
    """A family with options, and how to make outputs for it."""

    family: str
    make: Maker
    options: dict = dataclasses.field(default_factory=dict)
    taxonomy: Taxonomy = TAXONOMY

    def outputs(
        self, rng: np.random.Generator, output_hw: tuple[int, int], geometry: Geometry, stride: float, dtype=np.float32
    ) -> Outputs:
        """Network outputs; those that may be float16 are of `dtype`."""
        outputs = self.make(rng, output_hw, geometry, stride)
        return {
            name: array.astype(dtype if array.dtype == np.float64 else array.dtype) for name, array in outputs.items()
        }

    def fuse(self, outputs: Mapping[str, np.ndarray], geometry: Geometry, stride: float, **more) -> PanopticFrame:
        return FAMILIES[self.family].fuse(outputs, geometry, self.taxonomy, stride, **self.options, **more)

    def oracle(self, outputs: Mapping[str, np.ndarray], geometry: Geometry, stride: float) -> PanopticFrame:
        return FAMILIES[self.family].oracle(outputs, geometry, self.taxonomy, stride, **self.options)


def logits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 3, shape)


def center_offset(rng, hw, geometry, stride) -> Outputs:
    center = rng.uniform(-0.2, 1, (1, *hw))
    return {"semantic": logits(rng, CLASSES, *hw), "center": center, "offset": logits(rng, 2, *hw)}


def with_foreground(rng, hw, geometry, stride) -> Outputs:
    return {**center_offset(rng, hw, geometry, stride), "foreground": logits(rng, 1, *hw)}


def queries(rng, hw, geometry, stride) -> Outputs:
    count = rng.integers(1, 9)
    return {"class_logits": 2 * logits(rng, count, CLASSES + 1), "mask_logits": logits(rng, count, *hw)}


def boxes(rng, hw, stride, count) -> np.ndarray:
    """float32 (N, 4) around and beyond the input."""
    corners = np.sort(rng.uniform(-2, 2 + stride * np.array([hw[1], hw[0]]), (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def instances(rng, hw, count) -> Outputs:
    return {
        "classes": rng.integers(0, CLASSES, count).astype(np.int32),
        "scores": rng.uniform(0.3, 1, count).astype(np.float32),
        "semantic": logits(rng, CLASSES, *hw),
    }


def boxed_masks(rng, hw, geometry, stride) -> Outputs:
    count = rng.integers(1, 7)
    masks = np.maximum(rng.random((count, 28, 28)), rng.random((count, 1, 1)))
    return {**instances(rng, hw, count), "masks28": masks, "boxes": boxes(rng, hw, stride, count)}


def image_masks(rng, hw, geometry, stride) -> Outputs:
    count = rng.integers(1, 7)
    masks = rng.random((count, *geometry.image_hw)) < rng.random((count, 1, 1))
    return {**instances(rng, hw, count), "masks": masks.astype(np.uint8)}


def input_masks(rng, hw, geometry, stride) -> Outputs:
    """At twice the resolution of the semantic logits."""
    count = rng.integers(1, 7)
    return {**instances(rng, hw, count), "masks": rng.random((count, 2 * hw[0], 2 * hw[1]))}


def prototypes(rng, hw, geometry, stride, scored=CLASSES) -> Outputs:
    count = rng.integers(1, 7)
    return {
        "boxes": boxes(rng, hw, stride, count),
        "scores": rng.random((count, scored)).astype(np.float32),
        "coefficients": rng.normal(size=(count, 4)).astype(np.float32),
        "prototypes": logits(rng, 4, *hw),
    }


def prototypes_and_semantic(rng, hw, geometry, stride) -> Outputs:
    outputs = prototypes(rng, hw, geometry, stride, scored=len(THINGS))
    return {**outputs, "semantic": logits(rng, CLASSES, *hw)}


def semantic(rng, hw, geometry, stride) -> Outputs:
    return {"semantic": logits(rng, CLASSES, *hw)}


def one_class(rng, hw, geometry, stride) -> Outputs:
    return {"semantic": logits(rng, 1, *hw)}


LOW = {"score_threshold": 0.3, "overlap_threshold": 0.3}
SMALL = {"stuff_area": 20}
MODES = {
    "center_offset": Mode("center_offset", center_offset, {"nms_kernel": 3, **SMALL}),
    "foreground": Mode("center_offset", with_foreground, {"nms_kernel": 3, **SMALL}),
    "mask2former": Mode("mask_classification", queries, LOW),
    "uncovered": Mode("mask_classification", queries, {"count_uncovered": True, **LOW}),
    "transformers": Mode("mask_classification", queries, {"variant": "transformers", "mask_size": 12, **LOW}),
    "kmax": Mode(
        "mask_classification",
        queries,
        {"variant": "kmax", "thing_threshold": 0.4, "stuff_threshold": 0.3, "overlap_threshold": 0.3},
    ),
    "masks28": Mode("instance_semantic", boxed_masks, SMALL),
    "image_masks": Mode("instance_semantic", image_masks, SMALL),
    "input_masks": Mode("instance_semantic", input_masks, SMALL),
    "prototype": Mode("prototype", prototypes),
    "prototype_semantic": Mode("prototype", prototypes_and_semantic, SMALL),
    "semantic": Mode("semantic", semantic, SMALL),
    "components": Mode("semantic", semantic, {"components": True, **SMALL}),
    "one_class": Mode("semantic", one_class, taxonomy=ONE_CLASS),
}
