"""What Panoptic-DeepLab is taught of instances: centre heatmap and offsets (Cheng et al., CVPR 2020, 3.2 and 3.3)."""

import numpy as np

from perception_node.metrics import VOID_INSTANCE

SIGMA = 8.0
"""Of the Gaussian around a centre, in input pixels; the paper's."""


def instance_targets(instance: np.ndarray, stride: int, sigma: float = SIGMA) -> dict[str, np.ndarray]:
    """Centre heatmap and offsets of an instance map.

    Args:
        instance: uint16 (H, W); 0 no instance, VOID_INSTANCE void, else the id of the pixel's instance.
        stride: of the network's outputs; targets are sampled at the middle of each stride x stride block, which is
            where bilinear upsampling with half-pixel centres puts an output.
        sigma: of the Gaussian around a centre, in input pixels.

    Returns:
        center (1, h, w) float32 in 0..1, offset (2, h, w) float32 (dy, dx) in input pixels, thing (h, w) bool where
        offset counts, known (h, w) bool where center counts.
    """
    height, width = instance.shape
    ys = (np.arange(-(-height // stride), dtype=np.float32) + 0.5) * stride - 0.5
    xs = (np.arange(-(-width // stride), dtype=np.float32) + 0.5) * stride - 0.5
    # The sample position lies between four pixels; the one up and left of it speaks for the block.
    sampled = instance[np.minimum(ys.astype(int), height - 1)[:, None], np.minimum(xs.astype(int), width - 1)[None]]
    center = np.zeros((1, len(ys), len(xs)), np.float32)
    offset = np.zeros((2, len(ys), len(xs)), np.float32)
    thing = np.zeros(sampled.shape, bool)
    for identity in np.unique(instance):
        if identity in (0, VOID_INSTANCE):
            continue
        rows, cols = np.nonzero(instance == identity)
        cy, cx = rows.mean(), cols.mean()
        gaussian = np.exp(-((ys - cy) ** 2) / (2 * sigma**2))[:, None] * np.exp(-((xs - cx) ** 2) / (2 * sigma**2))
        np.maximum(center[0], gaussian, out=center[0])
        mine = sampled == identity
        thing |= mine
        offset[0][mine] = np.broadcast_to(cy - ys[:, None], mine.shape)[mine]
        offset[1][mine] = np.broadcast_to(cx - xs[None], mine.shape)[mine]
    return {"center": center, "offset": offset, "thing": thing, "known": sampled != VOID_INSTANCE}
