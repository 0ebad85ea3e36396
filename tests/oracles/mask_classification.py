"""Networks whose queries each give a class and a mask: Mask2Former (Cheng et al., CVPR 2022) and its kin.

Variants: `mask2former`, the paper's own; `transformers`, what Hugging Face's post-processing does; `kmax`, kMaX-DeepLab
(Yu et al., ECCV 2022), whose queries compete in a softmax.
"""

from collections.abc import Mapping

import numpy as np

from oracles.sampling import make_frame, resize, sigmoid, softmax, upsample
from perception_node.panoptic import MAX_INSTANCES, UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry
from perception_node.taxonomy import Taxonomy

NOBODY = -1


def fuse(
    outputs: Mapping[str, np.ndarray],
    geometry: Geometry,
    taxonomy: Taxonomy,
    stride: float,
    variant: str = "mask2former",
    score_threshold: float | None = None,
    overlap_threshold: float = 0.8,
    count_uncovered: bool = False,
    mask_size: int = 384,
    pixel_confidence: float = 0.4,
    thing_threshold: float = 0.7,
    stuff_threshold: float = 0.5,
) -> PanopticFrame:
    """As MaskClassification."""
    probabilities = class_probabilities(outputs["class_logits"].astype(np.float32))
    masks, args = outputs["mask_logits"], (geometry, stride)
    if variant == "kmax":
        classes, scores = best(probabilities[:, :-1])
        thresholds = np.where(taxonomy.table("thing")[classes], thing_threshold, stuff_threshold)
        confident = scores > thresholds.astype(np.float32)
        painting = kmax(scores, confident, masks, *args, pixel_confidence, overlap_threshold)
    else:
        classes, scores = best(probabilities)
        threshold = {"mask2former": 0.8, "transformers": 0.5}[variant] if score_threshold is None else score_threshold
        kept = np.flatnonzero((classes < len(taxonomy)) & (scores > np.float32(threshold)))
        if variant == "mask2former":
            painting = mask2former(scores, kept, masks, *args, overlap_threshold, count_uncovered)
        else:
            painting = transformers(scores, kept, masks, *args, overlap_threshold, mask_size)
    return label(*painting, classes, scores, taxonomy)


def class_probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes; all NaN, and so above no threshold, where a logit is NaN or infinitely high."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def best(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each query's likeliest class, the lower of equals, and its probability."""
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def mask2former(scores, kept, masks, geometry, stride, overlap_threshold, count_uncovered=False):
    """Owner of each pixel, its probability, and the queries that stay, in order."""
    owner, top = contest((scores[q] * sigmoid(upsample(masks[q], geometry, stride)) for q in kept), kept, geometry)
    stay = []
    for q in kept:
        inside = upsample(masks[q], geometry, stride) >= 0
        own, original = owner == q, inside.sum()
        owner[own & ~inside] = NOBODY
        covered = (own & inside).sum()
        won = own.sum() if count_uncovered else covered
        if covered and won / original >= overlap_threshold:
            stay.append(q)
    return owner, top, stay


def transformers(scores, kept, masks, geometry, stride, overlap_threshold, mask_size):
    """As mask2former(); its masks are first resized to a square and are probabilities from there on."""
    square, weighed = (mask_size, mask_size), {}
    for q in kept:
        height, width = masks[q].shape
        small = sigmoid(resize(masks[q], square, (mask_size / height, mask_size / width)))
        weighed[q] = scores[q] * upsample(small, geometry, stride, (height, width))
    owner, top = contest((weighed[q] for q in kept), kept, geometry)
    stay = []
    for q in kept:
        won, original = (owner == q).sum(), (weighed[q] >= 0.5).sum()
        if won and original and won / original > overlap_threshold:
            stay.append(q)
    return owner, top, stay


def kmax(scores, confident, masks, geometry, stride, pixel_confidence, overlap_threshold):
    """As mask2former(), in the order of painting."""
    probability = np.stack([upsample(mask, geometry, stride) for mask in masks])
    for band in np.array_split(probability, -(-geometry.image_hw[0] // 64), axis=1):  # in bands, to need less memory
        band[:] = softmax(band, axis=0)
    binary = [plane > pixel_confidence for plane in probability]
    originals = np.array([mask.sum() for mask in binary])
    # In multiples of 2^-24, so that the sum has no order.
    sums = [np.rint(plane[mask] * 2.0**24).sum() for plane, mask in zip(probability, binary, strict=True)]
    means = np.array(sums) / 2**24 / np.maximum(originals, 1)
    owner = np.full(geometry.image_hw, NOBODY)
    top = np.zeros(geometry.image_hw, np.float32)
    stay = []
    for q in np.argsort(-(scores * means.astype(np.float32)), kind="stable"):
        free = binary[q] & (owner == NOBODY)
        if confident[q] and free.sum() > overlap_threshold * originals[q]:
            owner[free], top[free] = q, probability[q][free]
            stay.append(q)
    return owner, top, stay


def contest(weighed, kept, geometry) -> tuple[np.ndarray, np.ndarray]:
    """The query with the highest value at each pixel, the first of equals, and the value. NaN never wins."""
    owner = np.full(geometry.image_hw, NOBODY)
    top = np.full(geometry.image_hw, -1, np.float32)
    for q, value in zip(kept, weighed, strict=True):
        wins = value > top
        owner[wins], top[wins] = q, value[wins]
    return owner, np.maximum(top, 0)


def label(owner, probability, stay, classes, scores, taxonomy) -> PanopticFrame:
    """Things get ids in order; the stuff of one class is one segment with its best query's score."""
    thing = taxonomy.table("thing")
    class_map = np.full(owner.shape, UNLABELLED, np.uint8)
    instance_map = np.zeros(owner.shape, np.uint16)
    segment_scores: dict[tuple[int, int], float] = {}
    ids = 0
    for q in stay:
        class_id, own = int(classes[q]), owner == q
        if thing[class_id]:
            if ids == MAX_INSTANCES:
                continue
            ids += 1
            instance_map[own] = ids
        class_map[own] = class_id
        key = class_id, ids if thing[class_id] else 0
        segment_scores[key] = max(segment_scores.get(key, 0), scores[q])
    return make_frame(class_map, instance_map, probability, segment_scores)
