"""What a step minimises: Panoptic-DeepLab's losses (Cheng et al., CVPR 2020, 3.4), and soft IoU for small classes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_node.panoptic import UNLABELLED


def panoptic_losses(outputs, batch: dict[str, Tensor], class_weights: Tensor, options: dict) -> dict[str, Tensor]:
    """The losses by name, weighted; their sum is minimised.

    Args:
        outputs: the network's float32 (semantic, center, offset), (B, C, h, w), (B, 1, h, w), (B, 2, h, w).
        batch: semantic (B, H, W) uint8 with UNLABELLED void, and instance_targets with a batch axis.
        class_weights: float32 (C,), of the cross entropy.
        options: the configuration's `loss`.
    """
    semantic, center, offset = outputs
    semantic = F.interpolate(semantic, size=batch["semantic"].shape[-2:], mode="bilinear", align_corners=False)
    truth = batch["semantic"].long()
    log_probability = F.log_softmax(semantic, 1)
    known, thing = batch["known"].unsqueeze(1), batch["thing"].unsqueeze(1)
    center_loss = ((center - batch["center"]) ** 2 * known).sum() / known.sum().clamp(min=1)
    offset_loss = ((offset - batch["offset"]).abs() * thing).sum() / thing.sum().clamp(min=1)
    return {
        "semantic": hard_cross_entropy(log_probability, truth, class_weights, options["hard_pixels"]),
        "region": options["region"] * region_loss(log_probability.exp(), truth),
        "center": options["center"] * center_loss,
        "offset": options["offset"] * offset_loss,
    }


def hard_cross_entropy(log_probability: Tensor, truth: Tensor, class_weights: Tensor, part: float) -> Tensor:
    """Bootstrapped: the mean over the `part` of the pixels where it is largest."""
    pixels = F.nll_loss(log_probability, truth, class_weights, ignore_index=UNLABELLED, reduction="none").flatten()
    return pixels.topk(max(1, int(part * pixels.numel())), sorted=False).values.mean()


def region_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - soft IoU (Rahman and Wang, 2016), the mean over the classes that the batch has.

    In it a small class counts as much as a large one, as it does in mIoU.

    Args:
        probability: float32 (B, C, H, W).
        truth: int64 (B, H, W), UNLABELLED where void.
    """
    n_classes = probability.shape[1]
    known = truth != UNLABELLED
    pixels, labels = probability.permute(0, 2, 3, 1)[known], truth[known]
    right = pixels.gather(1, labels[:, None])[:, 0]
    hits = torch.zeros(n_classes, device=pixels.device).index_add(0, labels, right)
    area = torch.bincount(labels, minlength=n_classes).float()
    present = area > 0
    if not present.any():
        return probability.sum() * 0
    return 1 - (hits[present] / (pixels.sum(0) + area - hits)[present]).mean()


def frequency_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Rare classes count more: (median frequency / frequency) ** power, within 0.5..4; pixels (C,) -> float32 (C,)."""
    frequency = counts / max(1, counts.sum())
    return np.clip((np.median(frequency) / np.maximum(frequency, 1e-6)) ** power, 0.5, 4).astype(np.float32)
