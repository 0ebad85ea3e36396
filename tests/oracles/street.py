"""A street as the networks of each family would see it: outputs as large and as well separated as real ones."""

import dataclasses
import functools

import cv2
import numpy as np

from perception_node.preprocess import Geometry, fit
from perception_node.taxonomy import Category, Taxonomy

THINGS = range(11, 19)
TAXONOMY = Taxonomy([Category(i, f"class {i}", (i, i, i), thing=i in THINGS) for i in range(19)])
"""As Cityscapes: 19 classes, 11 to 18 are things."""

IMAGE_HW, STRIDE, INSTANCES, QUERIES = (1024, 2048), 4, 40, 100
GEOMETRY: Geometry = fit(IMAGE_HW, IMAGE_HW, "stretch")
ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, TERRAIN, SKY = 0, 1, 2, 5, 8, 9, 10


@dataclasses.dataclass(frozen=True)
class Street:
    """What there is to see, at the outputs' resolution (h, w); coordinates are the image's.

    Attributes:
        rng: where the networks' noise comes from.
        yx: float (2, h, w), where the output pixels lie in the image.
        classes: int (h, w).
        owner: int (h, w), index of the visible ellipse, or -1.
        ellipses: (N, 4) of center y, center x, radius y, radius x; later ones are in front.
        labels: int (N,), their classes.
    """

    rng: np.random.Generator
    yx: np.ndarray
    classes: np.ndarray
    owner: np.ndarray
    ellipses: np.ndarray
    labels: np.ndarray

    def noise(self, *shape: int, sigma: float = 1.0, blur: float = 1.5) -> np.ndarray:
        """Smooth and of that deviation."""
        planes = self.rng.normal(size=(int(np.prod(shape[:-2])), *shape[-2:])).astype(np.float32)
        smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in planes])
        return (smooth * (sigma / smooth.std())).reshape(shape)

    def inside(self, index: int, yx: np.ndarray | None = None) -> np.ndarray:
        """1 in the middle of an ellipse, 0 on its edge, negative outside."""
        cy, cx, ry, rx = self.ellipses[index]
        y, x = self.yx if yx is None else yx
        return 1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2


def street(seed: int = 0) -> Street:
    """Sky, buildings and trees above, terrain, sidewalk and road below, ellipses of things on them."""
    rng = np.random.default_rng(seed)
    height, width = (size // STRIDE for size in IMAGE_HW)
    yx = (np.indices((height, width)) + 0.5) * STRIDE - 0.5
    y, x = yx
    classes = np.full((height, width), SKY)
    bounds = [(BUILDING, 180), (VEGETATION, 330), (TERRAIN, 480), (SIDEWALK, 560), (ROAD, 640)]
    for class_id, top in bounds:
        wave = 60 * np.sin(x / rng.uniform(90, 300)) + 30 * np.sin(x / rng.uniform(20, 60) + class_id)
        classes[y > top + wave] = class_id
    classes[np.abs((x % 500) - 250) < 12] = POLE
    radius = rng.uniform(14, 130, INSTANCES)
    ellipses = np.stack(
        [
            np.sort(rng.uniform(430, 960, INSTANCES)),
            rng.uniform(20, IMAGE_HW[1] - 20, INSTANCES),
            radius,
            radius * rng.uniform(0.6, 1.8, INSTANCES),
        ],
        axis=1,
    )
    labels = rng.integers(THINGS.start, THINGS.stop, INSTANCES)
    scene = Street(rng, yx, classes, np.full((height, width), -1), ellipses, labels)
    for index, label in enumerate(labels):
        mask = scene.inside(index) > 0
        scene.owner[mask], classes[mask] = index, label
    return scene


def _semantic(scene: Street) -> np.ndarray:
    seen = [cv2.GaussianBlur((scene.classes == c).astype(np.float32), (0, 0), 0.8) for c in range(len(TAXONOMY))]
    return 9 * np.stack(seen) + scene.noise(len(TAXONOMY), *scene.classes.shape)


def center_offset() -> dict[str, np.ndarray]:
    scene = street()
    y, x = scene.yx
    center = scene.noise(*scene.owner.shape, sigma=0.01)
    offset = scene.noise(2, *scene.owner.shape, sigma=30)
    for index, (cy, cx, *_) in enumerate(scene.ellipses):
        near = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 8**2))
        center = np.maximum(center, scene.rng.uniform(0.4, 1) * near)
        mask = scene.owner == index
        offset[:, mask] = offset[:, mask] / 10 + np.stack([cy - y, cx - x])[:, mask]
    return {"semantic": _semantic(scene), "center": center[None], "offset": offset}


def with_foreground() -> dict[str, np.ndarray]:
    scene, outputs = street(), center_offset()
    seen = cv2.GaussianBlur((scene.owner >= 0).astype(np.float32), (0, 0), 1)
    return {**outputs, "foreground": (12 * seen - 6 + scene.noise(*seen.shape))[None]}


def queries() -> dict[str, np.ndarray]:
    """Of each thing and each stuff class one query, second ones of some things, and queries that found nothing."""
    scene = street()
    masks, labels = [], []
    for index, label in enumerate(scene.labels):
        for _ in range(2 if index % 4 == 0 else 1):
            shifted = scene.yx + scene.rng.normal(0, 3, (2, 1, 1))
            hidden = (scene.owner > index) * 8.0
            masks.append(np.clip(8 * scene.inside(index, shifted), -8, 8) - hidden)
            labels.append(label)
    for label in (ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, TERRAIN, SKY):
        seen = cv2.GaussianBlur((scene.classes == label).astype(np.float32), (0, 0), 1)
        halves = [seen, seen] if label == BUILDING else [seen]  # two queries of one stuff class
        for part, half in enumerate(halves):
            limit = IMAGE_HW[1] / 2 if len(halves) == 2 else 0
            masks.append(16 * half * ((scene.yx[1] >= limit) != part) - 8)
            labels.append(label)
    nothing = QUERIES - len(masks)
    masks += [np.full(scene.owner.shape, -6.0)] * nothing
    labels += [len(TAXONOMY)] * nothing
    class_logits = scene.rng.normal(0, 0.5, (QUERIES, len(TAXONOMY) + 1))
    class_logits[np.arange(QUERIES), labels] += scene.rng.uniform(4, 9, QUERIES)
    order = scene.rng.permutation(QUERIES)
    mask_logits = np.stack(masks) + scene.noise(QUERIES, *scene.owner.shape, sigma=0.7)
    return {"class_logits": class_logits[order], "mask_logits": mask_logits[order]}


def _detections(scene: Street) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the ellipse, float32 box (N, 4) and score of each detection; every third thing is found twice."""
    found = np.r_[np.arange(INSTANCES), np.arange(0, INSTANCES, 3)]
    cy, cx, ry, rx = scene.ellipses[found].T
    boxes = np.stack([cx - rx, cy - ry, cx + rx, cy + ry], axis=1) + scene.rng.normal(0, 2, (len(found), 4))
    return found, boxes.astype(np.float32), scene.rng.uniform(0.4, 1, len(found)).astype(np.float32)


def instances(kind: str) -> dict[str, np.ndarray]:
    """kind: masks28, image_masks or input_masks."""
    scene = street()
    found, boxes, scores = _detections(scene)
    outputs = {"classes": scene.labels[found].astype(np.int32), "scores": scores, "semantic": _semantic(scene)}
    if kind == "masks28":
        grid = (np.indices((28, 28)) + 0.5) / 14 - 1
        disc = 1 / (1 + np.exp(-8 * (1 - (grid**2).sum(axis=0))))
        masks = disc + scene.noise(len(found), 28, 28, sigma=0.05)
        return {**outputs, "boxes": boxes, "masks28": np.clip(masks, 0, 1)}
    if kind == "image_masks":
        pixels = np.indices(IMAGE_HW)
        return {**outputs, "masks": np.stack([scene.inside(i, pixels) > 0 for i in found]).astype(np.uint8)}
    masks = [1 / (1 + np.exp(-8 * np.clip(scene.inside(i), -2, 2) - scene.noise(*scene.owner.shape))) for i in found]
    return {**outputs, "masks": np.stack(masks)}


def prototypes(semantic: bool = True) -> dict[str, np.ndarray]:
    """Masks are most of their boxes: the mixtures are positive in the mean."""
    scene = street()
    found, boxes, scores = _detections(scene)
    by_class = scene.rng.uniform(0, 0.3, (len(found), len(TAXONOMY))).astype(np.float32)
    by_class[np.arange(len(found)), scene.labels[found]] = scores
    outputs = {
        "boxes": boxes,
        "scores": by_class,
        "coefficients": np.c_[np.full(len(found), 2), scene.rng.normal(0, 0.4, (len(found), 31))].astype(np.float32),
        "prototypes": np.concatenate([np.ones((1, *scene.owner.shape)), scene.noise(31, *scene.owner.shape, blur=6)]),
    }
    return {**outputs, "semantic": _semantic(scene)} if semantic else outputs


def semantic() -> dict[str, np.ndarray]:
    return {"semantic": _semantic(street())}


MODES = {
    "center_offset": ("center_offset", center_offset, {}),
    "foreground": ("center_offset", with_foreground, {}),
    "mask2former": ("mask_classification", queries, {}),
    "transformers": ("mask_classification", queries, {"variant": "transformers"}),
    "kmax": ("mask_classification", queries, {"variant": "kmax"}),
    "masks28": ("instance_semantic", functools.partial(instances, "masks28"), {}),
    "image_masks": ("instance_semantic", functools.partial(instances, "image_masks"), {}),
    "input_masks": ("instance_semantic", functools.partial(instances, "input_masks"), {}),
    "prototype": ("prototype", functools.partial(prototypes, semantic=False), {}),
    "prototype_semantic": ("prototype", prototypes, {}),
    "semantic": ("semantic", semantic, {}),
    "components": ("semantic", semantic, {"components": True}),
}
"""Name -> (family, maker of outputs, options)."""


def outputs(mode: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """A network's outputs; those that may be float16 are of `dtype`."""
    fixed = ("boxes", "scores", "classes", "coefficients")
    made = MODES[mode][1]()
    return {
        name: np.ascontiguousarray(array if name in fixed or array.dtype == np.uint8 else array.astype(dtype))
        for name, array in made.items()
    }
