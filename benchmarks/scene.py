"""A made-up street and what networks of each family would answer to it: for benchmarks/fusion.py.

Sizes in pixels are those of a frame 1024 high and grow with it. The more things there are the smaller they are, so that
they cover about as much.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from perception_node.taxonomy import builtin_taxonomy

STRIDE = 4
TAXONOMY = builtin_taxonomy("cityscapes")
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY = 0, 1, 2, 8, 10
STUFF = (SKY, BUILDING, VEGETATION, SIDEWALK, ROAD)  # from above
CLASSES = len(TAXONOMY)

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to see, at the outputs' resolution (h, w).

    Attributes:
        rng: makes the networks' noise.
        image_hw: the frame's height and width.
        yx: (2, h, w), pixel coordinates of the outputs.
        classes: int (h, w).
        owner: int (h, w), index of the thing that is seen, or -1.
        ellipses: (N, 4), y, x, and the radii in y and x of the things, in pixels; later ones are in front.
        labels: int (N,), the things' classes.
    """

    rng: np.random.Generator
    image_hw: tuple[int, int]
    yx: np.ndarray
    classes: np.ndarray
    owner: np.ndarray
    ellipses: np.ndarray
    labels: np.ndarray

    @property
    def unit(self) -> float:
        """Pixels for each pixel of a frame 1024 high."""
        return self.image_hw[0] / 1024

    def noise(self, *shape: int, sigma: float) -> np.ndarray:
        """Smooth, of that standard deviation."""
        noise = self.rng.standard_normal(shape, np.float32)
        for plane in noise.reshape(-1, *shape[-2:]):
            cv2.GaussianBlur(plane, (0, 0), 1.5, dst=plane)
        return noise * np.float32(sigma / noise.std())

    def depth(self, index: int, yx: np.ndarray | None = None) -> np.ndarray:
        """1 in the middle of a thing, 0 at its edge, negative outside."""
        y, x, radius_y, radius_x = self.ellipses[index]
        ys, xs = self.yx if yx is None else yx
        return (1 - ((ys - y) / radius_y) ** 2 - ((xs - x) / radius_x) ** 2).astype(np.float32)


def make_scene(image_hw: tuple[int, int], things: int, seed: int) -> Scene:
    """Bands of stuff with wavy borders, and ellipses of things, from far to near."""
    rng = np.random.default_rng(seed)
    height, width = image_hw
    unit = height / 1024
    yx = (np.indices((height // STRIDE, width // STRIDE)) + 0.5) * STRIDE - 0.5
    ys, xs = yx
    classes = np.full(ys.shape, SKY)
    for class_id, top in zip(STUFF[1:], (200, 360, 520, 600), strict=True):
        wave = 50 * np.sin(xs / unit / rng.uniform(90, 300)) + 15 * np.sin(xs / unit / rng.uniform(20, 60))
        classes[ys > unit * (top + wave)] = class_id
    y = np.sort(rng.uniform(420, 960, things)) * unit
    radius = np.exp(rng.uniform(np.log(12), np.log(130), things)) * unit * min(1.5, (40 / things) ** 0.5)
    ellipses = np.stack([y, rng.uniform(0, width, things), radius, radius * rng.uniform(0.6, 1.8, things)], axis=1)
    scene = Scene(rng, image_hw, yx, classes, np.full(ys.shape, -1), ellipses, rng.choice(TAXONOMY.thing_ids, things))
    for index, label in enumerate(scene.labels):
        mask = scene.depth(index) > 0
        scene.owner[mask], classes[mask] = index, label
    return scene


def semantic(scene: Scene) -> Outputs:
    seen = np.stack([(scene.classes == c).astype(np.float32) for c in range(CLASSES)])
    for plane in seen:
        cv2.GaussianBlur(plane, (0, 0), 0.8, dst=plane)
    return {"semantic": 9 * seen + scene.noise(*seen.shape, sigma=1)}


def center_offset(scene: Scene) -> Outputs:
    ys, xs = scene.yx
    center = scene.noise(*ys.shape, sigma=0.01)
    offset = scene.noise(2, *ys.shape, sigma=20 * scene.unit)
    for index, (y, x, *_) in enumerate(scene.ellipses):
        near = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * (8 * scene.unit) ** 2))
        center = np.maximum(center, scene.rng.uniform(0.4, 1) * near)
        seen = scene.owner == index
        offset[:, seen] = offset[:, seen] / 8 + np.stack([y - ys[seen], x - xs[seen]])
    return {**semantic(scene), "center": center[None], "offset": offset}


def mask_classification(scene: Scene) -> Outputs:
    """At least 100 queries: one for each thing, some for two, one for each stuff class, the rest for nothing."""
    things = [i for i in range(len(scene.labels)) for _ in range(2 if i % 4 == 0 else 1)]
    labels = [*scene.labels[things], *STUFF]
    number = max(100, round(1.1 * len(labels)))
    masks = scene.noise(number, *scene.owner.shape, sigma=0.7)
    for query, index in enumerate(things):
        masks[query] += np.clip(8 * scene.depth(index), -8, 8) - 8 * (scene.owner > index)
    for query, label in enumerate(STUFF, len(things)):
        masks[query] += 16 * cv2.GaussianBlur((scene.classes == label).astype(np.float32), (0, 0), 1) - 8
    masks[len(labels) :] -= 6
    class_logits = scene.rng.normal(0, 0.5, (number, CLASSES + 1))
    class_logits[np.arange(number), [*labels, *[CLASSES] * (number - len(labels))]] += scene.rng.uniform(4, 9, number)
    order = scene.rng.permutation(number)
    return {"class_logits": class_logits[order], "mask_logits": masks[order]}


def _detections(scene: Scene) -> tuple[np.ndarray, Outputs]:
    """Index of the thing of each detection, boxes and scores; every third thing is found twice."""
    found = np.r_[np.arange(len(scene.labels)), np.arange(0, len(scene.labels), 3)]
    y, x, radius_y, radius_x = scene.ellipses[found].T
    boxes = np.stack([x - radius_x, y - radius_y, x + radius_x, y + radius_y], axis=1)
    boxes += scene.rng.normal(0, 2 * scene.unit, boxes.shape)
    return found, {"boxes": boxes, "scores": scene.rng.uniform(0.4, 1, len(found))}


def boxed_masks(scene: Scene) -> Outputs:
    found, detections = _detections(scene)
    disc = 1 - (((np.indices((28, 28)) + 0.5) / 14 - 1) ** 2).sum(axis=0)
    masks = 1 / (1 + np.exp(-8 * disc)) + scene.noise(len(found), 28, 28, sigma=0.05)
    classes = scene.labels[found].astype(np.int32)
    return {**semantic(scene), **detections, "classes": classes, "masks28": np.clip(masks, 0, 1)}


def whole_masks(scene: Scene) -> Outputs:
    found, detections = _detections(scene)
    ys, xs = np.ogrid[: scene.image_hw[0], : scene.image_hw[1]]
    masks = np.stack([scene.depth(index, (ys, xs)) > 0 for index in found]).astype(np.uint8)
    classes = scene.labels[found].astype(np.int32)
    return {**semantic(scene), "scores": detections["scores"], "classes": classes, "masks": masks}


def prototype(scene: Scene) -> Outputs:
    """Eight prototypes each show every eighth thing, the box takes one of them; the other 24 are noise."""
    found, detections = _detections(scene)
    prototypes = scene.noise(32, *scene.owner.shape, sigma=1)
    for group, plane in enumerate(prototypes[:8]):
        depths = [scene.depth(index) for index in range(group, len(scene.labels), 8)]
        plane += np.clip(8 * np.max(depths, axis=0, initial=-1), -8, 8)
    coefficients = scene.rng.normal(0, 0.05, (len(found), 32))
    coefficients[np.arange(len(found)), found % 8] += 1
    scores = scene.rng.uniform(0, 0.3, (len(found), CLASSES))
    scores[np.arange(len(found)), scene.labels[found]] = detections["scores"]
    return {
        **semantic(scene),
        "boxes": detections["boxes"],
        "scores": scores,
        "coefficients": coefficients,
        "prototypes": prototypes,
    }
