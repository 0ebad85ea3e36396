"""Bilinear sampling and what is common to several families."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from perception_node.fusion.sampling import taps
from perception_node.panoptic import UNLABELLED, PanopticFrame
from perception_node.preprocess import Geometry


def resize(plane: np.ndarray, size_hw: tuple[int, int], scale_yx: tuple[float, float]) -> np.ndarray:
    """float32 (h, w) -> float32 (H, W): bilinear, half-pixel centres, edges clamped; first across, then down.

    Args:
        plane: the samples.
        size_hw: of the result, which may be smaller or larger than the samples reach.
        scale_yx: pixels of the result for each sample.
    """
    height, width = plane.shape
    plane = plane.astype(np.float32)
    low, right = taps(size_hw[1], width, scale_yx[1])
    across = plane[:, low] * (1 - right) + plane[:, np.minimum(low + 1, width - 1)] * right
    low, down = taps(size_hw[0], height, scale_yx[0])
    down = down[:, None]
    return across[low] * (1 - down) + across[np.minimum(low + 1, height - 1)] * down


def upsample(
    plane: np.ndarray,
    geometry: Geometry,
    stride: float | tuple[float, float],
    output_hw: tuple[int, int] | None = None,
) -> np.ndarray:
    """A plane that covers the network's input -> float32 (H, W), the image's pixels.

    Args:
        plane: (h, w).
        geometry: how the image lies in the input.
        stride: input pixels for each output pixel.
        output_hw: size of the network's outputs, if the plane has another.
    """
    stride_yx = stride if isinstance(stride, tuple) else (stride, stride)
    sizes = zip(geometry.scale_yx, stride_yx, output_hw or plane.shape, plane.shape, strict=True)
    scale_yx = tuple(scale * step * samples / own for scale, step, samples, own in sizes)
    with np.errstate(invalid="ignore"):  # an infinite sample with weight 0 is NaN
        return resize(plane, geometry.image_hw, scale_yx)


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """NaN counts as -inf; where some logits are infinitely high they share alone."""
    logits = np.where(np.isnan(logits), -np.inf, logits)
    top = logits.max(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        logits -= top
    logits[np.isnan(logits) & (top == np.inf)] = 0
    powers = np.exp(logits, out=logits)
    powers /= powers.sum(axis=axis, keepdims=True)
    return np.nan_to_num(powers, copy=False)


def to_bytes(probability: np.ndarray) -> np.ndarray:
    """Probability -> uint8 confidence."""
    return np.rint(255 * probability).astype(np.uint8)


def classify(semantic: np.ndarray, geometry: Geometry, stride: float) -> tuple[np.ndarray, np.ndarray]:
    """Class logits (C, h, w) -> uint8 class map and float32 probability of that class, both (H, W).

    The lower class wins a tie. NaN never wins; where nothing is above -inf the pixel is unlabelled. With one class the
    other answer is "unlabelled", whose logit is 0: sigmoid > 0.5.
    """
    logits = [upsample(plane, geometry, stride) for plane in semantic]
    other = 0 if len(logits) == 1 else -np.inf
    class_map = np.full(geometry.image_hw, UNLABELLED, np.uint8)
    best = np.full(geometry.image_hw, other, np.float32)
    for class_id, plane in enumerate(logits):
        wins = plane > best
        class_map[wins], best[wins] = class_id, plane[wins]
    total = np.exp(-np.abs(best)) if len(logits) == 1 else np.zeros_like(best)
    for plane in logits:
        with np.errstate(invalid="ignore"):
            total += np.nan_to_num(np.exp(plane - best))
    # Where an infinite logit has won, nothing else counts.
    probability = np.where(class_map == UNLABELLED, np.float32(0), 1 / np.maximum(total, 1))
    return class_map, probability


def drop_small_stuff(class_map: np.ndarray, instance_map: np.ndarray, thing: np.ndarray, limit: int) -> None:
    """Unlabels, in place, stuff classes with fewer pixels than the limit, and things without an instance."""
    areas = np.bincount(class_map[instance_map == 0], minlength=256)
    stays = (areas >= limit) & ~thing
    class_map[(instance_map == 0) & ~stays[class_map]] = UNLABELLED


def make_frame(
    class_map: np.ndarray,
    instance_map: np.ndarray,
    probability: np.ndarray,
    scores: Mapping[tuple[int, int], float] | None = None,
) -> PanopticFrame:
    """The frame of finished maps.

    Args:
        class_map: (H, W).
        instance_map: (H, W).
        probability: (H, W), of unlabelled pixels whatever it is.
        scores: (class, id) -> the segment's own score; else it is the mean confidence.
    """
    confidence = np.where(class_map == UNLABELLED, np.uint8(0), to_bytes(probability))
    frame = PanopticFrame.from_maps(class_map, instance_map.astype(np.uint16), confidence)
    scores = scores or {}
    segments = tuple(
        dataclasses.replace(segment, score=float(scores.get((segment.class_id, segment.id), segment.score)))
        for segment in frame.segments
    )
    return dataclasses.replace(frame, segments=segments)
